"""Out of memory: the micro-batch is halved, the same step repeated, and nothing else is different."""

import gc
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import losses, notices, prepared, synthetic, trained
from torch import Tensor, nn

from largebatch.jobs.engine.model_check.kept.carried_state import Findings
from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.errors import FaultError, PlanError
from largebatch.jobs.preparing.batches import training_batches
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import Record


@pytest.fixture(scope="module", autouse=True)
def _only_what_is_new_is_looked_through() -> Iterator[None]:
    """Each halving collects garbage; in a process that has imported MLflow and Ray for other tests that takes a quarter of a second."""
    gc.freeze()
    yield
    gc.unfreeze()


def new_job(micro_batch_size: int, batch_norm: bool = False, **parts: Any) -> Prepared:
    own: dict[str, Any] = {
        "dataset": synthetic(96),
        "model": {"name": "mlp", "arguments": {"width": 6, "batch_norm": batch_norm}},
        "batch": {"global_batch_size": 32, "micro_batch_size": micro_batch_size},
        **({"batch_norm": {"span": 8}} if batch_norm else {}),
        "optimizer": {"name": "lars"},
        "learning_rate": {"base": 0.5},
        "stop": {"steps": 6},
        "gradient": {"noise_every_steps": 0},
    }
    return prepared(**{**own, **parts})


class Small(nn.Module):
    """A model on a machine with room for `limit` samples, in training or in evaluation, once `from_call` forward passes there are done."""

    def __init__(self, model: nn.Module, limit: int, error: Callable[[], BaseException], from_call: int = 0, in_training: bool = True) -> None:
        super().__init__()
        self.model, self.limit, self.error, self.from_call, self.in_training = model, limit, error, from_call, in_training
        self.seen: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.model(inputs)  # before the error: running statistics have moved when memory runs out
        if self.training == self.in_training:
            if len(inputs) > self.limit and len(self.seen) >= self.from_call:
                raise self.error()
            self.seen.append(len(inputs))
        return logits


def accelerator_error() -> BaseException:
    return torch.OutOfMemoryError("CUDA out of memory.")


def cpu_error() -> BaseException:
    return RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


def small(job: Prepared, limit: int, error: Callable[[], BaseException] = accelerator_error, **where: Any) -> Prepared:
    """The job there; its plan was made for a machine with room."""
    object.__setattr__(job, "model", Small(job.model, limit, error, **where))
    return job


@pytest.mark.parametrize("findings", [Findings(by_samples=["mean"]), Findings(by_passes=["mean"])])
def test_a_step_that_must_be_one_pass_is_not_split(findings: Findings, tmp_path: Path) -> None:
    """Its model keeps something of the samples, or moves weights in each pass: two passes would leave something else."""
    job = new_job(32, batch_norm=False)
    object.__setattr__(job, "findings", findings)
    with pytest.raises(FaultError, match=r"32 samples do not fit .* what becomes of mean depends on that"):
        trained(small(job, 8), tmp_path / "run")


@pytest.mark.parametrize("error", [accelerator_error, cpu_error])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_halving_gives_the_run_that_began_with_the_smaller_micro_batch(batch_norm: bool, error: Callable[[], BaseException], tmp_path: Path) -> None:
    """Bit for bit, running statistics of batch-norm and its count of batches included."""
    want = trained(small(new_job(8, batch_norm), 1000), tmp_path / "small")
    got = trained(small(new_job(32, batch_norm), 8, error), tmp_path / "halved")
    assert (got.micro_batch_size, got.gradient_accumulation_steps, got.parameters_sha256) == (8, 4, want.parameters_sha256)
    assert losses(tmp_path / "halved") == losses(tmp_path / "small")
    assert notices(tmp_path / "halved") == [
        "Out of memory at step 1: micro-batch 32 -> 16; the step is repeated.",
        "Out of memory at step 1: micro-batch 16 -> 8; the step is repeated.",
    ]


def dropping(num_classes: int) -> nn.Module:
    """An entry point: smooth, with two layers of dropout."""
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, num_classes))


def test_a_halved_step_drops_what_the_whole_one_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The passes that found no room had drawn before. Sums in another order differ by some 1e-6, other masks by 1e-1."""
    monkeypatch.setitem(sys.modules, "own_code", sys.modules[__name__])
    model = {"entry_point": "own_code:dropping"}
    want = trained(new_job(32, model=model), tmp_path / "whole")
    got = trained(small(new_job(32, model=model), 8, from_call=3), tmp_path / "halved")
    assert (want.micro_batch_size, got.micro_batch_size) == (32, 8)
    assert losses(tmp_path / "halved") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


def test_memory_that_runs_out_in_the_middle_repeats_that_step_alone(tmp_path: Path) -> None:
    """Two micro-batches of 16 a step; the sixth forward pass (the second of step 3, warm-up's one counted) finds no room."""
    seen: list[Record] = []
    job = small(new_job(16, batch_norm=True), 8, from_call=6)
    summary = trained(job, tmp_path / "run", Listener(on_record=seen.append))
    told = [(record.step, type(record).__name__) for record in seen if type(record).__name__ in {"StepRecord", "NoticeRecord"}]
    assert told == [
        (1, "StepRecord"),
        (2, "StepRecord"),
        (2, "NoticeRecord"),
        *((step, "StepRecord") for step in range(3, 7)),
    ]
    # Batch-norm counts its groups: 6 steps of 4 groups of 8, none twice, none of warm-up.
    count = next(buffer for name, buffer in job.model.named_buffers() if name.endswith("num_batches_tracked"))
    assert int(count) == 6 * 4
    assert (summary.steps, summary.micro_batch_size) == (6, 8)
    assert all(parameter.isfinite().all() for parameter in job.model.parameters())


def test_when_not_even_the_smallest_fits_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(FaultError, match=r"not even 1 samples fit into this device's memory\. Use a smaller model"):
        trained(small(new_job(32), 0), tmp_path / "one")
    with pytest.raises(FaultError, match="not even 8 samples fit"):
        trained(small(new_job(32, batch_norm=True), 4), tmp_path / "span")


def test_other_errors_are_not_taken_for_memory(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"model: cannot take 32 samples .* RuntimeError: shapes differ"):
        trained(small(new_job(32), 0, lambda: RuntimeError("shapes differ")), tmp_path)


def test_the_smaller_micro_batch_is_kept_on_resuming(tmp_path: Path) -> None:
    trained(small(new_job(32), 8), tmp_path)
    summary = trained(small(new_job(32, stop={"steps": 8}), 8), tmp_path, resumes=True)
    assert (summary.steps, summary.micro_batch_size) == (8, 8)
    assert len(notices(tmp_path)) == 2, "no step ran out of memory a second time"


@pytest.mark.parametrize("error", [accelerator_error, cpu_error])
def test_evaluation_goes_on_with_fewer_samples_at_once(error: Callable[[], BaseException], tmp_path: Path) -> None:
    want = trained(new_job(8), tmp_path / "roomy")
    job = small(new_job(8), 5, error, in_training=False)
    got = trained(job, tmp_path / "small")
    same = {"score", "best_score", "train_score", "parameters_sha256"}
    assert got.model_dump(include=same - {"parameters_sha256"}) == want.model_dump(include=same - {"parameters_sha256"})
    assert losses(tmp_path / "small") == losses(tmp_path / "roomy")
    assert notices(tmp_path / "small") == [f"Out of memory in evaluation: {halving} samples at once." for halving in ("16 -> 8", "8 -> 4")]
    # Every sample once in each evaluation (16 of the test set twice, then 96 of the training set), at the size that was found.
    assert isinstance(job.model, Small)
    assert job.model.seen == [4] * (sum(job.model.seen) // 4)
    assert sum(job.model.seen) == 16 * 2 + 96


def test_when_not_even_one_fits_in_evaluation_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(FaultError, match="model: evaluation runs out of memory even with one sample at a time"):
        trained(small(new_job(8), 0, in_training=False), tmp_path)


def test_a_norm_that_does_not_fit_halves_the_micro_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = trained(new_job(8, optimizer={"name": "sgd"}), tmp_path / "small")
    dot, calls = torch.dot, itertools.count(1)

    def too_large(*vectors: Tensor) -> Tensor:
        if next(calls) <= 3:  # before the run, where it is passed over, and in two attempts at the first step
            raise accelerator_error()
        return dot(*vectors)

    monkeypatch.setattr(torch, "dot", too_large)
    got = trained(new_job(32, optimizer={"name": "sgd"}), tmp_path / "halved")
    assert (got.micro_batch_size, got.parameters_sha256) == (8, want.parameters_sha256)
    assert next(calls) > 4


def test_an_update_that_does_not_fit_is_one_sentence() -> None:
    """The moments of the first step: no micro-batch makes room for them."""

    class Full(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            raise accelerator_error()

    job = new_job(8)
    state = new_state(job)
    state.optimizer = Full(job.model.parameters(), lr=0.1)
    with pytest.raises(FaultError, match=r"optimizer: lars's update at step 1 does not fit .* a smaller micro-batch would not help\."):
        optimizer_step(state, job.plan, job.plan.step_at(state.progress.position), training_batches(job), pytest.fail)
