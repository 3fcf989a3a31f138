"""The noise scale of other programs' loops is our own engine's, on the same samples in the same micro-batches."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from small_runs import planned, state_of
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import largebatch
from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.errors import InputError
from largebatch.jobs.recorder.micro_batch_noise import MicroBatch, MicroBatchNoise
from largebatch.jobs.run.journal import read_records
from largebatch.jobs.run.load import Run
from largebatch.jobs.run.records import NoticeRecord
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.tasks.classification import Classification

pytestmark = pytest.mark.filterwarnings("ignore")  # the trainers' advice
LOSS = largebatch.Metric("loss", "lower")
RATE, CLIP_NORM, BATCH, MICRO_BATCH = 0.4, 0.05, 16, 8
"""Of 44 samples, an epoch's steps are 8, 8 | 8, 8 | 8, 4; our engine would take 6 and 6 of the last."""
FLOAT32 = 2e-5
"""Squares of sums over a few dozen float32 numbers, after two steps; Lightning and transformers add 1e-6 to the norm that they clip by. Both
estimates are differences of squares of about tr(Sigma) / B."""
Estimates = list[tuple[float | None, float | None]]


class Samples(NamedTuple):
    """In the order in which they are read."""

    inputs: Tensor
    labels: Tensor
    weights: Tensor

    def read(self, samples: Slice) -> tuple[Tensor, Tensor, Tensor]:
        part = slice(samples.start, samples.stop)
        return self.inputs[part], self.labels[part], self.weights[part]


def drawn() -> Samples:
    generator = torch.Generator().manual_seed(44)
    return Samples(torch.randn(44, 4, generator=generator), torch.randint(0, 3, (44,), generator=generator), torch.ones(44))


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def by_engine(samples: Samples) -> Estimates:
    """What our own first two steps measure: they clip after it."""
    batch = {"global_batch_size": BATCH, "micro_batch_size": MICRO_BATCH}
    plan = planned(44, batch=batch, stop={"epochs": 1.0}, gradient={"clip_norm": CLIP_NORM}, learning_rate={"base": RATE})
    model = layer()
    state = state_of(model, torch.optim.SGD(model.parameters(), lr=RATE), MICRO_BATCH, Classification(3, has_sample_weights=True))
    steps = [optimizer_step(state, plan, plan.step_at(state.progress.position), samples, pytest.fail) for _ in range(2)]
    return [(step.covariance_trace, step.gradient_norm_squared) for step in steps]


def of(run: Run) -> Estimates:
    return [(step.covariance_trace, step.gradient_norm_squared) for step in run.steps]


def notices(run: Run) -> list[str]:
    """But for the first, which every recording has."""
    return [record.text for record in read_records(run.path) if isinstance(record, NoticeRecord)][1:]


def assert_same(found: Estimates, expected: Estimates) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == (other if other[0] is None else pytest.approx(other, rel=FLOAT32, abs=FLOAT32 * other[0] / BATCH))


# ---- a plain loop -----------------------------------------------------------------------------


def plain(
    folder: Path, pass_backward: Callable[[largebatch.Recorder, nn.Module, Tensor, Tensor, int], None], loss_scale: float = 1.0, **given: Any
) -> Run:
    model, samples = layer(), drawn()
    sgd = torch.optim.SGD(model.parameters(), lr=RATE)
    said = {"model": "layer", "dataset": "drawn", "optimizer": sgd, "global_batch_size": BATCH, "num_train_samples": 44, "output_dir": folder}
    with largebatch.Recorder(**{**said, **given}) as recorder:
        for start, stop in recorder.training(pairwise([0, 16, 32, 44])):
            sgd.zero_grad()
            for first in range(start, stop, MICRO_BATCH):
                last = min(first + MICRO_BATCH, stop)
                pass_backward(recorder, model, samples.inputs[first:last], samples.labels[first:last], stop - start)
            for param in model.parameters():
                assert param.grad is not None
                param.grad /= loss_scale
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            sgd.step()
            recorder.step(1.0, stop - start)
    return largebatch.load_run(recorder.run_dir)


def by_samples(recorder: largebatch.Recorder, model: nn.Module, inputs: Tensor, labels: Tensor, size: int) -> None:
    loss = functional.cross_entropy(model(inputs), labels, reduction="sum") / size
    with recorder.micro_batch(len(labels)):
        loss.backward()


def test_a_plain_loop_measures_what_our_engine_does(tmp_path: Path) -> None:
    gradients: list[tuple[int, Tensor]] = []

    def noted(recorder: largebatch.Recorder, model: nn.Module, inputs: Tensor, labels: Tensor, size: int) -> None:
        wrong = (model(inputs).softmax(1) - functional.one_hot(labels, 3)).double().T.detach()
        gradients.append((len(labels), torch.cat([wrong @ inputs.double(), wrong.sum(1, keepdim=True)], 1) / len(labels)))
        by_samples(recorder, model, inputs, labels, size)

    expected = by_engine(drawn())
    assert None not in {number for pair in expected for number in pair}
    run = plain(tmp_path, noted)
    # The last step's micro-batches are of 8 and 4: tr(Sigma) = (A - |G|^2) B / (k - 1), from the formula of softmax regression.
    (n, g), (m, h) = gradients[4:]
    mean = (n * g + m * h) / 12
    trace = ((n * g.square().sum() + m * h.square().sum()) / 12 - mean.square().sum()) * 12
    expected = [*expected, (float(trace), float(mean.square().sum() - trace / 12))]
    assert_same(of(run), expected)
    traces, norms = zip(*of(run), strict=True)
    assert run.summary is not None
    assert run.summary.gradient_noise_scale == (pytest.approx(sum(traces) / sum(norms)) if sum(norms) > 0 else None)
    assert notices(run) == []

    def scaled(recorder: largebatch.Recorder, model: nn.Module, inputs: Tensor, labels: Tensor, size: int) -> None:
        with recorder.micro_batch(len(labels), coefficient=1024 * len(labels) / size):
            (functional.cross_entropy(model(inputs), labels) * 1024 * len(labels) / size).backward()

    assert_same(of(plain(tmp_path, scaled, loss_scale=1024)), expected)
    nothing = (None, None)
    assert_same(of(plain(tmp_path, by_samples, noise_every_steps=2)), [nothing, expected[1], nothing])
    assert of(plain(tmp_path, by_samples, noise_every_steps=0)) == [nothing] * 3


def test_where_it_cannot_be_exact_nothing_is_estimated_and_that_is_said_once(tmp_path: Path) -> None:
    def twice(recorder: largebatch.Recorder, model: nn.Module, inputs: Tensor, labels: Tensor, size: int) -> None:
        with recorder.micro_batch(len(labels)):
            for sample, label in zip(inputs, labels, strict=True):
                (functional.cross_entropy(model(sample), label) / size).backward()

    def one_untold(recorder: largebatch.Recorder, model: nn.Module, inputs: Tensor, labels: Tensor, size: int) -> None:
        if len(labels) < MICRO_BATCH:
            (functional.cross_entropy(model(inputs), labels, reduction="sum") / size).backward()
        else:
            by_samples(recorder, model, inputs, labels, size // 2)
            by_samples(recorder, model, inputs, labels, size // 2)

    def after_others(recorder: largebatch.Recorder, model: nn.Module, inputs: Tensor, labels: Tensor, size: int) -> None:
        if next(model.parameters()).grad is None:
            (0.1 * functional.cross_entropy(model(inputs), labels)).backward()
        by_samples(recorder, model, inputs, labels, size)

    def alike(recorder: largebatch.Recorder, model: nn.Module, inputs: Tensor, labels: Tensor, size: int) -> None:
        with recorder.micro_batch(len(labels), coefficient=0.5):
            (functional.cross_entropy(model(inputs), labels) / 2).backward()

    for pass_backward, reason, number in (
        (twice, "is not measured: a micro-batch's gradient comes in several parts", 0),
        (one_untold, "such as step 1: the samples of its micro-batches are not as many as the step's", 0),
        (after_others, "such as step 1: there were gradients before its first micro-batch", 0),
        (alike, "such as step 3: its micro-batches differ in size, and the loop weighs them alike", 2),
    ):
        run = plain(tmp_path, pass_backward)
        assert [trace is not None for trace, _ in of(run)] == [True] * number + [False] * (3 - number)
        assert [reason in said for said in notices(run)][:1] == [True], notices(run)
        assert len(notices(run)) == len(set(notices(run)))
    with pytest.raises(InputError, match="noise_every_steps: is -1"):
        plain(tmp_path, by_samples, noise_every_steps=-1)


def test_several_processes_are_named() -> None:
    said: list[str] = []
    noise = MicroBatchNoise(torch.optim.SGD(layer().parameters(), lr=RATE), "auto", 2, said.append)
    for _ in range(2):
        with noise.micro_batch(MicroBatch(8)):
            pass
    assert (noise.take(16), noise.is_due) == (None, False)
    assert said == ["The noise scale is not measured: several processes train, and each of them sees the gradient of its own samples."]


# ---- Lightning --------------------------------------------------------------------------------


def test_lightning_measures_what_our_engine_does(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer()

        def training_step(self, batch: Any, number: int) -> Tensor:
            return functional.cross_entropy(self.layer(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=RATE)

    samples = drawn()
    callback = largebatch.lightning.Callback(dataset="drawn", metric=LOSS, output_dir=tmp_path)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[callback], accumulate_grad_batches=2, gradient_clip_val=CLIP_NORM, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(TensorDataset(samples.inputs, samples.labels), MICRO_BATCH))
    assert callback.recorder is not None
    run = largebatch.load_run(callback.recorder.run_dir)
    assert_same(of(run), [*by_engine(samples), (None, None)])  # Lightning weighs 8 and 4 samples alike
    assert notices(run) == ["The noise scale leaves steps out, such as step 3: its micro-batches differ in size, and the loop weighs them alike."]


# ---- transformers -----------------------------------------------------------------------------


class Net(nn.Module):
    """Keeps what it reads, for the Trainer shuffles."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = layer()
        self.read: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.layer(x)
        if labels is None:
            return {"logits": logits}
        self.read.append((x, labels))
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


class NetByLabels(Net):
    """As the library's language models, divides by the number of labels that count in the whole step."""

    def forward(self, x: Tensor, labels: Tensor | None = None, num_items_in_batch: Tensor | None = None, **others: Any) -> dict[str, Tensor]:  # type: ignore[override]
        assert labels is not None
        assert num_items_in_batch is not None
        self.read.append((x, labels))
        return {"loss": functional.cross_entropy(self.layer(x), labels, reduction="sum") / num_items_in_batch}


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., Run]:
    """Trains a net with the library's own Trainer, and reads what was recorded."""
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate, which is not installed")
    import transformers

    def train(net: Net, labels: Tensor, **given: Any) -> Run:
        data = [{"x": inputs, "labels": int(label)} for inputs, label in zip(drawn().inputs, labels, strict=True)]
        callback = largebatch.transformers.Callback(dataset="drawn", metric=LOSS, output_dir=tmp_path / "runs")
        arguments = transformers.TrainingArguments(
            str(tmp_path / "trainer"), num_train_epochs=1, per_device_train_batch_size=MICRO_BATCH, gradient_accumulation_steps=2, seed=5,
            learning_rate=RATE, lr_scheduler_type="constant", optim="sgd", max_grad_norm=CLIP_NORM, save_strategy="no", logging_steps=1,
            report_to=[], use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        transformers.Trainer(net, arguments, train_dataset=data, callbacks=[callback], **given).train()
        assert callback.recorder is not None
        return largebatch.load_run(callback.recorder.run_dir)

    return train


def as_read(net: Net) -> Samples:
    inputs, labels = (torch.cat(parts) for parts in zip(*net.read, strict=True))
    return Samples(inputs, labels.clamp(min=0), (labels != -100).float())


def test_transformers_measures_what_our_engine_does(trained: Callable[..., Run]) -> None:
    net = Net()
    run = trained(net, drawn().labels)
    assert_same(of(run), [*by_engine(as_read(net)), (None, None)])  # the Trainer weighs 8 and 4 samples alike
    assert [("such as step 3" in said) for said in notices(run)] == [True]


def test_transformers_weighs_micro_batches_by_their_labels(trained: Callable[..., Run]) -> None:
    net, labels = NetByLabels(), drawn().labels.clone()
    labels[::3] = -100
    run = trained(net, labels)
    counted = [int((read != -100).sum()) for _, read in net.read]
    assert counted[0] != counted[1]
    assert_same(of(run)[:2], by_engine(as_read(net)))
    assert (None in of(run)[2], notices(run)) == (False, [])


def test_a_trainers_own_loss_is_not_guessed_at(trained: Callable[..., Run]) -> None:
    def own(outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
        return functional.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch

    run = trained(Net(), drawn().labels, compute_loss_func=own)
    assert of(run) == [(None, None)] * 3
    told = "The noise scale is not measured: the Trainer's loss is not the one that the model gives, so that its scale is not known."
    assert notices(run) == [told]
