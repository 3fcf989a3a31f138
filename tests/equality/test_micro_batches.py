"""k micro-batches, even or uneven, are one batch: same gradient, same parameters after N steps."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from our_optimizers import INSTALLED
from small_runs import InOrder, planned, state_of
from torch import Tensor, nn
from torch.nn import functional

from largebatch.jobs.engine.gradient.accumulate import accumulate
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.models.norms.ghost_batch_norm import use_ghost_batch_norm
from largebatch.jobs.models.sample_dropout import use_sample_dropout
from largebatch.jobs.optim.averaging.weight_average import WeightAverage
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.optim.parameter_groups import build_optimizer
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.run.records import StepRecord
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.tasks.classification import Classification

NUM_SAMPLES, NUM_FEATURES, NUM_CLASSES, WIDTH, BATCH, SPAN = 60, 12, 4, 10, 24, 8
STEPS = 7  # two epochs of 24 + 24 + 12 samples, and one more: the short batch at an epoch's end takes part
EPSILON_32 = 2.0**-24
MICRO_BATCHES = [1, 2, 5, 7, 12, 13, 23]


def stored(dtype: torch.dtype) -> InOrder:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(NUM_CLASSES, (NUM_SAMPLES,), generator=generator)
    return InOrder((torch.randn(NUM_SAMPLES, NUM_FEATURES, generator=generator) + labels[:, None]).to(dtype), labels)


def new_model(dtype: torch.dtype, normalises: bool) -> nn.Module:
    torch.manual_seed(1)
    norm: list[nn.Module] = [nn.BatchNorm1d(WIDTH)] if normalises else []
    # Tanh, not ReLU: a kink could turn one rounding into a whole gradient.
    return nn.Sequential(nn.Linear(NUM_FEATURES, WIDTH, bias=not normalises), *norm, nn.Tanh(), nn.Linear(WIDTH, NUM_CLASSES)).to(dtype)


def new_plan(micro_batch_size: int, normalises: bool, **parts: Any) -> TrainPlan:
    batch = {"global_batch_size": BATCH, "micro_batch_size": micro_batch_size}
    own = {"batch_norm": {"span": SPAN}, "learning_rate": {"base": 0.2}, "stop": {"steps": STEPS}, "gradient": {"noise_every_steps": 0}}
    return planned(NUM_SAMPLES, normalises, batch=batch, **{**own, **parts})


def new_state(plan: TrainPlan, dtype: torch.dtype, normalises: bool, dropout: bool = False) -> TrainState:
    model = new_model(dtype, normalises)
    if dropout:
        model = use_sample_dropout(nn.Sequential(nn.Dropout(0.1), *list(model)[:-1], nn.Dropout(0.5), model[-1]))  # type: ignore[index, call-overload]
    if normalises:
        model = use_ghost_batch_norm(model, SPAN)
    ema = plan.spec.ema
    average = WeightAverage(model, ema.decay) if ema else None
    task = Classification(NUM_CLASSES, plan.spec.loss.label_smoothing)
    return state_of(model, build_optimizer(model, plan.spec.optimizer), plan.micro_batch_size, task=task, average=average)


def trained(micro_batch_size: int, dtype: torch.dtype, normalises: bool, dropout: bool = False, **parts: Any) -> tuple[TrainState, list[StepRecord]]:
    plan = new_plan(micro_batch_size, normalises, **parts)
    state, batches = new_state(plan, dtype, normalises, dropout), stored(dtype)
    return state, [optimizer_step(state, plan, plan.step_at(state.progress.position), batches, pytest.fail) for _ in range(STEPS)]


def values(state: TrainState) -> dict[str, Tensor]:
    found = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    if state.average:
        found.update({f"average.{i}": tensor for i, tensor in enumerate(state.average.state_dict()["averages"])})
    return found


def assert_close(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float) -> None:
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        scale = max(float(tensor.abs().max()), 1.0)
        assert float((got[name] - tensor).abs().max()) <= tolerance * scale, name


EVERYTHING: dict[str, Any] = {
    "loss": {"label_smoothing": 0.1},
    "gradient": {"clip_norm": 0.5, "noise_every_steps": 0},
    "ema": {"decay": 0.8},
}


def reference_in_float64() -> tuple[dict[str, Tensor], list[float]]:
    """The same training written out with torch alone, one whole batch at a time: parameters, averages, losses."""
    model, data = new_model(torch.float64, normalises=False), stored(torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    averages = [parameter.detach().clone() for parameter in model.parameters()]
    losses = []
    for step in range(STEPS):
        start = (0, 24, 48)[step % 3]
        stop = min(start + BATCH, NUM_SAMPLES)
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(data.inputs[start:stop]), data.labels[start:stop], label_smoothing=0.1)
        loss.backward()
        norm = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in model.parameters() if parameter.grad is not None))
        for parameter in model.parameters():
            parameter.grad *= min(1.0, 0.5 / norm)
        optimizer.step()
        losses.append(loss.item())
        averages = [0.8 * average + 0.2 * parameter.detach() for average, parameter in zip(averages, model.parameters(), strict=True)]
    return {**model.state_dict(), **{f"average.{i}": average for i, average in enumerate(averages)}}, losses


@pytest.mark.parametrize("micro_batch_size", [BATCH, *MICRO_BATCHES])
def test_training_follows_the_textbook_whatever_the_micro_batch(micro_batch_size: int) -> None:
    """Smoothing, clipping, momentum, average: the model is float64, but the loss is taken in float32 by promise.

    One rounding of the logits to float32 (2^-24) moves a gradient of size <= 1 by a few 2^-24; seven steps at rate 0.2 with
    momentum 0.9 add up to less than 0.2 * 10 * 7 = 14 of them, and the network's slope is below 4: 2^-24 * 14 * 4 * 4 < 2e-5.
    """
    want, losses = reference_in_float64()
    state, records = trained(micro_batch_size, torch.float64, False, **EVERYTHING)
    assert_close(values(state), want, 2e-5)
    assert [record.loss for record in records] == pytest.approx(losses, rel=2e-5)
    assert [record.global_batch_size for record in records] == [24, 24, 12, 24, 24, 12, 24]
    assert any(record.gradient_norm > 0.5 for record in records), "clipping never took part"


NAMES = [name for name in INSTALLED if name != "soap"]
"""Where the first gradient says nothing of a direction, soap's basis is rounding's (decision 049)."""


@pytest.mark.parametrize("normalises", [False, True])
@pytest.mark.parametrize("optimizer", NAMES)
def test_a_float64_model_ends_at_the_same_parameters(optimizer: str, normalises: bool) -> None:
    """Softmax of a sample does not depend on its neighbours, so what is left is float64's rounding of the sums, 24 terms of
    2^-53. AdamW and LAMB divide by the root of the second moment, which can lift that by the inverse of the smallest
    gradient (1e-3 of the largest here, once per step): 24 * 2^-53 * 1e3 * 7 < 2e-11.
    (Muon rounds its matrices to bfloat16; what differs by 2^-53 is rounded to the same.) A bias before batch-norm would have no gradient but
    rounding, which such rules divide by itself: there is none.
    """
    ema = None if OPTIMIZERS[optimizer].averages else {"decay": 0.8}
    parts = {"optimizer": {"name": optimizer}, "learning_rate": {"base": 0.02}, "loss": {"label_smoothing": 0.1}, "ema": ema}
    want, want_records = trained(BATCH, torch.float64, normalises, **parts)
    for micro_batch_size in (8, 16) if normalises else MICRO_BATCHES:
        state, records = trained(micro_batch_size, torch.float64, normalises, **parts)
        assert_close(values(state), values(want), 2e-11)
        assert [r.loss for r in records] == pytest.approx([r.loss for r in want_records], rel=4 * 24 * EPSILON_32)  # the loss is summed in float32


def test_what_dropout_drops_does_not_depend_on_the_micro_batch() -> None:
    """The bound of the test above; two masks that differ in one element would be off by some 1e-2."""
    want, want_records = trained(BATCH, torch.float64, False, dropout=True)
    for micro_batch_size in MICRO_BATCHES:
        state, records = trained(micro_batch_size, torch.float64, False, dropout=True)
        assert_close(values(state), values(want), 2e-11)
        assert [r.loss for r in records] == pytest.approx([r.loss for r in want_records], rel=4 * 24 * EPSILON_32)
    without, _ = trained(BATCH, torch.float64, False)
    with pytest.raises(AssertionError):
        assert_close(values(without), values(want), 1e-2)


@pytest.mark.parametrize("normalises", [False, True])
def test_the_float32_gradient_differs_by_the_rounding_of_its_sums_alone(normalises: bool) -> None:
    """Bound, element by element: a sum of n terms in any order is off by at most n * 2^-24 * sum |terms| (Higham, 4.4).

    The terms of a parameter's gradient are its samples' gradients. Each of them went through dot products over 12
    features, 10 hidden units and 4 classes, forward and backward, so n = 24 + 2 * (12 + 10 + 4). With batch-norm a
    sample's gradient cannot be had alone; the sizes there are those of the groups, times 8 samples for what cancels inside.
    """
    data = stored(torch.float32)
    plan = new_plan(BATCH, normalises)
    first = plan.step_at(Position(0, 0))
    pieces = [Slice(0, start, start + (SPAN if normalises else 1)) for start in range(0, BATCH, SPAN if normalises else 1)]
    sizes: list[Tensor] = []
    for piece in pieces:
        state = new_state(plan, torch.float32, normalises)
        accumulate(state, plan.spec, replace(first, samples=piece), data)
        gradients = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
        share = [gradient.abs() * (piece.size / BATCH) for gradient in gradients]
        sizes = [size + more for size, more in zip(sizes, share, strict=True)] if sizes else share
    num_terms = 24 + 2 * (NUM_FEATURES + WIDTH + NUM_CLASSES)
    cancelling = SPAN if normalises else 1

    whole = new_state(plan, torch.float32, normalises)
    measured = accumulate(whole, plan.spec, first, data)
    for micro_batch_size in (8, 16) if normalises else MICRO_BATCHES:
        state = new_state(plan, torch.float32, normalises)
        state.micro_batch_size = micro_batch_size
        got = accumulate(state, plan.spec, first, data)
        assert got.num_pieces == math.ceil(BATCH / micro_batch_size)
        assert got.loss == pytest.approx(measured.loss, rel=2 * num_terms * EPSILON_32)
        for parameter, other, size in zip(state.model.parameters(), whole.model.parameters(), sizes, strict=True):
            # A bias before batch-norm has gradient zero in exact arithmetic: its terms' size is floored by the layer's largest.
            bound = 2 * num_terms * EPSILON_32 * cancelling * (size + (float(max(s.max() for s in sizes)) if normalises else 0.0))
            assert bool(((parameter.grad - other.grad).abs() <= bound).all())
        for name, buffer in state.model.named_buffers():
            torch.testing.assert_close(buffer, dict(whole.model.named_buffers())[name], rtol=2 * num_terms * EPSILON_32, atol=1e-6)


def test_many_micro_batches_of_bfloat16_lose_nothing() -> None:
    """Added up in bfloat16, what is below 2^-9 of the sum is lost: of 2,048 samples one by one 6 % of the gradient was, and of others 42 %."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(NUM_CLASSES, (2048,), generator=generator)
    inputs = (torch.randn(2048, NUM_FEATURES, generator=generator) + 0.5).bfloat16()
    exact = new_model(torch.bfloat16, normalises=False).double()
    functional.cross_entropy(exact(inputs.double()), labels).backward()
    plan = planned(2048, batch={"global_batch_size": 2048, "micro_batch_size": 1}, gradient={"noise_every_steps": 0})
    model = new_model(torch.bfloat16, normalises=False)
    state = state_of(model, torch.optim.SGD(model.parameters()), 1, task=Classification(NUM_CLASSES))
    assert accumulate(state, plan.spec, plan.step_at(Position(0, 0)), InOrder(inputs, labels))
    for param, other in zip(model.parameters(), exact.parameters(), strict=True):
        assert param.grad is not None
        assert param.grad.dtype is torch.bfloat16
        assert other.grad is not None
        assert float((param.grad.double() - other.grad).norm()) <= 2.0**-7 * float(other.grad.norm())  # each pass rounds to 2^-9 itself


def test_a_mean_of_means_would_be_caught() -> None:
    """The uneven split 13 + 11: dividing each by its own size is off by far more than the tolerance above."""
    data, model = stored(torch.float64), new_model(torch.float64, normalises=False)

    def gradient(start: int, stop: int) -> Tensor:
        (found,) = torch.autograd.grad(functional.cross_entropy(model(data.inputs[start:stop]), data.labels[start:stop]), [model[0].weight])  # type: ignore[index]
        return found

    assert float((gradient(0, 24) - (gradient(0, 13) + gradient(13, 24)) / 2).abs().max()) > 1e-4


@pytest.mark.parametrize("normalises", [False, True])
def test_measuring_the_noise_splits_the_batch_and_changes_nothing_else(normalises: bool) -> None:
    """In float64 the split's rounding is 24 * 2^-53 per step; 1e-10 leaves room for seven steps of a curved loss."""
    silent, without = trained(BATCH, torch.float64, normalises, gradient={"noise_every_steps": 0})
    measuring, records = trained(BATCH, torch.float64, normalises, gradient={"noise_every_steps": 2})
    assert_close(values(measuring), values(silent), 1e-10)
    assert all(record.covariance_trace is None for record in without)
    assert [record.step for record in records if record.covariance_trace is not None] == [2, 4, 6]
    assert measuring.noise.num_steps == 3
