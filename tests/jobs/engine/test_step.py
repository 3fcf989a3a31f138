"""Steps in their loop: what a short batch may count for under AdaScale, who decides that the budget is spent, and where loaded state lies."""

from typing import Any

import pytest
import torch
from our_optimizers import INSTALLED
from small_runs import prepared, synthetic
from torch import Tensor, nn

from largebatch.jobs.engine.loop import train
from largebatch.jobs.engine.noise_scale import GainAverages
from largebatch.jobs.engine.ranks.all_reduce import SumInProcess
from largebatch.jobs.engine.ranks.gradient_norm import SquaredNorm
from largebatch.jobs.engine.ranks.local_sgd import LocalSGD
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.optim.averaging.weight_average import WeightAverage
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.optim.parameter_groups import build_optimizer
from largebatch.jobs.optim.saved_state import load_optimizer
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.preparing.batches import training_batches
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.run.records import EvalRecord, StepRecord


def job_of(**parts: Any) -> Prepared:
    """80 samples in steps of 32, 32 and 16."""
    return prepared(**{"dataset": synthetic(80), "batch": {"global_batch_size": 32, "micro_batch_size": 8}, "stop": {"steps": 50}, **parts})


@pytest.mark.parametrize(("base", "gains"), [(4, [8.0, 8.0, 4.0]), (16, [2.0, 2.0, 1.0]), (32, [1.0, 1.0, 0.5])])
def test_a_short_last_batch_counts_for_its_own_samples_at_most(base: int, gains: list[float]) -> None:
    """80 samples in steps of 32, 32 and 16, with a gradient that is all but noise: gains are as large as they may be."""
    job = job_of(learning_rate={"base": 0.0001, "base_global_batch_size": base, "scaling": "adascale"})
    state, batches = new_state(job), training_batches(job)
    state.gain = GainAverages(variance=1e12, squared_norm=0.0, num_steps=10**9)
    records = [optimizer_step(state, job.plan, job.plan.step_at(state.progress.position), batches, pytest.fail) for _ in range(3)]
    assert [record.gain for record in records] == pytest.approx(gains, rel=1e-6)
    assert [record.schedule_samples for record in records] == pytest.approx([32, 64, 80], rel=1e-6)
    # The rate is that of the gain: 0.0001 at the base batch, without warm-up or decay.
    assert [record.learning_rate for record in records] == pytest.approx([0.0001 * gain for gain in gains], rel=1e-6)


def test_only_adascale_tells_where_its_schedules_stand() -> None:
    job = job_of()
    step = job.plan.step_at(Position(0, 0))
    assert optimizer_step(new_state(job), job.plan, step, training_batches(job), pytest.fail).schedule_samples is None


class SlowToAverage(LocalSGD):
    """Spends ten minutes of this rank's clock on averaging."""

    state: TrainState

    def synchronise(self) -> None:
        with self.state.clock.training():
            self.state.clock.training_s += 600.0


def test_the_budget_is_judged_where_all_ranks_have_one_clock() -> None:
    """What a rank spends on averaging after a step is its own; by that alone it must not leave the others in the middle of the next."""
    job = job_of(stop={"steps": 9, "max_seconds": 500.0}, evaluation={"every_epochs": 0.3})
    state = new_state(job)
    state.local_sgd = SlowToAverage(state.model, state.optimizer, state.ranks, [])
    state.local_sgd.state = state
    written: list[StepRecord | EvalRecord] = []

    class Tracker:
        write, notice = written.append, pytest.fail

    hooks: Any = {"evaluate": lambda: {"accuracy": 0.5, "loss": 1.0}, "save": lambda is_best: None, "should_stop": lambda: False}
    train(state, job.plan, training_batches(job), tracker=Tracker(), **hooks)
    assert [record.step for record in written if isinstance(record, StepRecord)] == [1, 2]
    assert [record.step for record in written if isinstance(record, EvalRecord)] == [1, 2], "the step that is the last is evaluated"


OTHER = torch.device("meta")
"""A device that every machine has beside the CPU: tensors on it have a place and no numbers."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "given",
    [{"name": "lamb", "bias_correction": False}, *({"name": name} for name in INSTALLED)],
    ids=str,
)
def test_a_checkpoint_read_on_the_cpu_resumes_on_another_device(given: dict[str, Any], dtype: torch.dtype) -> None:
    spec = OPTIMIZERS[given["name"]].model_validate(given)
    if spec.library and dtype is torch.bfloat16:
        pytest.skip("soap and shampoo refuse narrow weights")
    trained = nn.Linear(3, 2).to(dtype)
    optimizer = build_optimizer(trained, spec)
    for parameter in trained.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    saved = optimizer.state_dict()
    assert saved["state"]

    elsewhere = nn.Linear(3, 2).to(dtype).to(OTHER)
    loaded = build_optimizer(elsewhere, spec)
    load_optimizer(loaded, elsewhere, saved, None)
    for parameter, original in zip(elsewhere.parameters(), trained.parameters(), strict=True):
        kept, there = optimizer.state[original], loaded.state[parameter]
        assert set(there) == set(kept)
        for name, value in kept.items():
            if isinstance(value, Tensor):
                assert (there[name].device, there[name].dtype) == (OTHER, value.dtype), name


def test_without_any_gradient_the_norm_is_zero() -> None:
    """A rank without samples in a step that ranks take alone."""
    params = list(nn.Linear(2, 2).parameters())
    for param in params:
        param.grad = torch.ones_like(param)
    gradient_sum = SumInProcess(params, SquaredNorm(params))
    assert gradient_sum.squared_norm() == 6.0
    gradient_sum.start(total_weight=0.0, num_micro_batches=0, measures=False)
    gradient_sum.finish()
    assert gradient_sum.squared_norm() == 0.0
    assert all(param.grad is None for param in params)


def test_the_average_follows_a_buffer_that_a_model_assigns_anew() -> None:
    class Centred(nn.Linear):
        mean: Tensor

        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("mean", torch.zeros(2))

    model = Centred()
    average = WeightAverage(model, 0.75)
    model.mean = torch.tensor([4.0, 8.0])
    average.update()
    average.swap()
    assert model.mean.tolist() == [1.0, 2.0]
    average.swap()
    assert model.mean.tolist() == [4.0, 8.0]
