"""Steps in their loop: what a short batch may count for under AdaScale, and who decides that the budget is spent."""

from typing import Any

import pytest
from small_runs import prepared, synthetic

from largebatch.jobs.engine.evaluate import Score
from largebatch.jobs.engine.loop import train
from largebatch.jobs.engine.noise_scale import GainAverages
from largebatch.jobs.engine.ranks.local_sgd import LocalSGD
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.prepared import Prepared, new_state, training_batches
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

    hooks: Any = {"evaluate": lambda: Score(0.5, 1.0), "save": lambda is_best: None, "should_stop": lambda: False}
    train(state, job.plan, training_batches(job), tracker=Tracker(), **hooks)
    assert [record.step for record in written if isinstance(record, StepRecord)] == [1, 2]
    assert [record.step for record in written if isinstance(record, EvalRecord)] == [1, 2], "the step that is the last is evaluated"
