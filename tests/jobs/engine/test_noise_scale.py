"""The noise scale recovers what was planted, also from uneven micro-batches and through `accumulate`."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_runs import InOrder, planned, state_of
from torch import Tensor, nn
from torch.nn import functional

from largebatch.jobs.engine.gradient.accumulate import accumulate
from largebatch.jobs.engine.noise_scale import NoiseSums, estimate
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.tasks.classification import Classification

Array = NDArray[np.float64]
TRUE_GRADIENT = np.array([0.6, -0.3, 0.1, 0.0, 0.2])  # |G|^2 = 0.5
DEVIATIONS = np.array([1.0, 0.5, 2.0, 0.1, 1.5])  # tr(Sigma) = 7.51
SPLITS = [[8, 8], [1, 15], [4, 4, 4, 4], [5, 5, 5, 1], [1] * 16]
STEPS = 4000


def planted_estimates(sizes: list[int], steps: int, seed: int) -> Array:
    """Each step's (trace, norm squared), from gradients drawn sample by sample around TRUE_GRADIENT."""
    draws = np.random.default_rng(seed)
    rows = []
    for _ in range(steps):
        gradients = TRUE_GRADIENT + DEVIATIONS * draws.standard_normal((sum(sizes), len(DEVIATIONS)))
        parts = np.split(gradients, np.cumsum(sizes)[:-1])
        mean_squared_norm = sum(len(part) / len(gradients) * float(np.sum(part.mean(axis=0) ** 2)) for part in parts)
        rows.append(estimate(mean_squared_norm, float(np.sum(gradients.mean(axis=0) ** 2)), len(gradients), len(sizes)))
    return np.array(rows)


def assert_mean_is(values: Array, expected: float) -> None:
    """Within four standard errors of the mean: one false alarm in 16000; the seeds are fixed anyway."""
    error = values.std(ddof=1) / math.sqrt(len(values))
    assert abs(values.mean() - expected) < 4 * error
    assert error < 0.15 * expected, "too few steps for the comparison to mean anything"


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
def test_planted_trace_and_norm_are_recovered(sizes: list[int]) -> None:
    rows = planted_estimates(sizes, STEPS, seed=1)
    assert_mean_is(rows[:, 0], 7.51)
    assert_mean_is(rows[:, 1], 0.5)
    sums = NoiseSums()
    for trace, norm_squared in rows.tolist():
        sums.add(trace, norm_squared)
    assert sums.num_steps == STEPS
    # The ratio of means, with its standard error by the delta method.
    ratio = 7.51 / 0.5
    error = (rows[:, 0] / 0.5 - ratio * rows[:, 1] / 0.5).std(ddof=1) / math.sqrt(STEPS)
    assert abs(sums.noise_scale - ratio) < 4 * error
    assert error < 0.1 * ratio


def test_two_equal_micro_batches_are_mccandlish_appendix_a1() -> None:
    # B_small = 8, B_big = 16: |G|^2 = (B_big |G_big|^2 - B_small |G_small|^2) / (B_big - B_small),
    # S = (|G_small|^2 - |G_big|^2) / (1 / B_small - 1 / B_big).
    small, big = 3.25, 2.5
    trace, norm_squared = estimate(small, big, 16, 2)
    assert norm_squared == pytest.approx((16 * big - 8 * small) / 8, rel=1e-12)
    assert trace == pytest.approx((small - big) / (1 / 8 - 1 / 16), rel=1e-12)


def test_a_mean_of_ratios_would_be_wrong() -> None:
    # The reason for sums: |G|^2's estimates scatter around a small number, so their quotients do not average out.
    rows = planted_estimates([8, 8], STEPS, seed=2)
    ratios = rows[:, 0] / rows[:, 1]
    truth = 7.51 / 0.5
    of_means = rows[:, 0].mean() / rows[:, 1].mean()
    assert abs(of_means - truth) < 0.15 * truth
    assert abs(ratios.mean() - truth) > 0.5 * truth
    assert abs(float(np.median(ratios)) - truth) > 0.3 * truth


@pytest.mark.parametrize(("trace", "norm_squared"), [(0.0, 0.0), (-1.0, 2.0), (1.0, -0.5), (1.0, 0.0)])
def test_no_number_where_there_is_none(trace: float, norm_squared: float) -> None:
    sums = NoiseSums()
    assert sums.noise_scale is None
    sums.add(trace, norm_squared)
    assert sums.noise_scale is None
    sums.add(10.0, 5.0)  # one noisy step is outweighed by the others
    assert sums.noise_scale == pytest.approx((trace + 10.0) / (norm_squared + 5.0))


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """Hundreds of passes over a handful of numbers: on a busy machine threads that wait for each other cost 20 ms a pass."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- through the engine -------------------------------------------------------------------------------------------

NUM_SAMPLES, NUM_FEATURES, NUM_CLASSES = 3000, 6, 3
LOSS_IN_FLOAT32 = 2e-6
"""The model is float64, its loss float32: a few roundings of 6e-8 for each sample, and squares double them."""


def stored() -> InOrder:
    """Gaussian samples with labels that depend on them."""
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(NUM_SAMPLES, NUM_FEATURES, generator=generator, dtype=torch.float64)
    return InOrder(inputs, (inputs[:, :NUM_CLASSES] + torch.randn(NUM_SAMPLES, NUM_CLASSES, generator=generator)).argmax(dim=1))


def per_sample_gradients(data: InOrder, weight: Tensor) -> Array:
    """(p - onehot) x^T of softmax regression without bias, flattened: (n, classes * features), from the formula."""
    logits = data.inputs.numpy() @ weight.detach().double().numpy().T
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    wrong = exponents / exponents.sum(axis=1, keepdims=True) - np.eye(NUM_CLASSES)[data.labels.numpy()]
    return (wrong[:, :, None] * data.inputs.numpy()[:, None, :]).reshape(NUM_SAMPLES, -1)


def new_plan(micro_batch_size: int, batch: int) -> TrainPlan:
    return planned(NUM_SAMPLES, batch={"global_batch_size": batch, "micro_batch_size": micro_batch_size}, stop={"epochs": 1.0})


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize(("micro_batch_size", "batch"), [(15, 30), (13, 30)])
def test_accumulate_recovers_the_noise_scale_of_per_sample_gradients(micro_batch_size: int, batch: int) -> None:
    data, plan = stored(), new_plan(micro_batch_size, batch)
    torch.manual_seed(2)
    model = nn.Linear(NUM_FEATURES, NUM_CLASSES, bias=False).double()
    state, position = state_of(model, torch.optim.SGD(model.parameters()), micro_batch_size, task=Classification(2)), Position(0, 0)
    gradients = per_sample_gradients(data, model.weight)

    measured = []
    for samples in plan.batches():  # one epoch, the weights never moved
        step = plan.step_at(position)
        found, position = accumulate(state, plan.spec, step, data), step.end
        exact = gradients[samples.start : samples.stop]
        assert found.squared_norm == pytest.approx(float(np.sum(exact.mean(axis=0) ** 2)), rel=LOSS_IN_FLOAT32)
        np.testing.assert_allclose(model.weight.grad.numpy().ravel(), exact.mean(axis=0), rtol=0, atol=LOSS_IN_FLOAT32)
        parts = [gradients[part.start : part.stop] for part in samples.split(micro_batch_size)]
        mean_squared_norm = sum(len(part) / batch * float(np.sum(part.mean(axis=0) ** 2)) for part in parts)
        assert found.mean_squared_norm == pytest.approx(mean_squared_norm, rel=LOSS_IN_FLOAT32)
        assert found.num_pieces == len(parts) == math.ceil(batch / micro_batch_size)
        measured.append(estimate(found.mean_squared_norm, found.squared_norm, batch, found.num_pieces))

    # The whole set tells the truth better than any batch: its own covariance, and its mean less that mean's noise.
    trace = float(gradients.var(axis=0, ddof=1).sum())
    assert_mean_is(np.array(measured)[:, 0], trace)
    assert_mean_is(np.array(measured)[:, 1], float(np.sum(gradients.mean(axis=0) ** 2)) - trace / NUM_SAMPLES)


def test_one_micro_batch_measures_no_noise() -> None:
    plan = new_plan(30, 30)
    model = nn.Linear(NUM_FEATURES, NUM_CLASSES, bias=False).double()
    state = state_of(model, torch.optim.SGD(model.parameters()), 30, task=Classification(2))
    found = accumulate(state, plan.spec, plan.step_at(Position(0, 0)), stored())
    assert (found.num_pieces, found.mean_squared_norm) == (1, 0.0)


def test_the_loss_is_the_mean_over_samples_not_over_micro_batches() -> None:
    data, plan = stored(), new_plan(13, 30)  # 13, 13 and 4
    torch.manual_seed(3)
    model = nn.Linear(NUM_FEATURES, NUM_CLASSES, bias=False).double()
    found = accumulate(
        state_of(model, torch.optim.SGD(model.parameters()), 13, task=Classification(2)), plan.spec, plan.step_at(Position(0, 0)), data
    )
    expected = functional.cross_entropy(model(data.inputs[:30]), data.labels[:30]).item()
    assert found.loss == pytest.approx(expected, rel=LOSS_IN_FLOAT32)
