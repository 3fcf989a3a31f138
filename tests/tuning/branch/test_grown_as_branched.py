"""The recipe that branches allow trains as they did: each step has the same samples, rate and options, and the average the same half-life."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from small_runs import planned

from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.tuning.branch.critical import critical_batch
from largebatch.tuning.branch.plan import branch_plan
from largebatch.tuning.branch.schedule import BatchSchedule, batch_schedule

AMONG = 103
"""Samples in an epoch: twelve steps of 8 and one of 7."""
BATCH: dict[str, Any] = {"global_batch_size": 8, "micro_batch_size": 4}
LINEAR_BASE = {"base": 0.1, "base_global_batch_size": 4, "decay": "cosine"}
AGAIN = {"epoch": 2.5, "base": 0.2, "warmup_epochs": 0.5}
CASES: dict[str, dict[str, Any]] = {
    "average": {"ema": {"decay": 0.9}},
    "average tuned at another batch": {"ema": {"decay": 0.9, "base_global_batch_size": 2}},
    "by steps": {"stop": {"steps": 50}, "learning_rate": {"base": 0.1, "decay": "cosine"}},
    "linear, begins again": {"learning_rate": {**LINEAR_BASE, "scaling": "linear", "restart": AGAIN}},
    "legw, begins again": {"learning_rate": {**LINEAR_BASE, "scaling": "legw", "warmup_epochs": 0.5, "restart": AGAIN}},
    "half-lives": {"optimizer": {"name": "adamw", "beta1_half_life_samples": 90.0, "beta2_half_life_samples": 900.0, "weight_decay_time_scale": 0.5}},
}


def plan(**parts: Any) -> TrainPlan:
    return planned(AMONG, **{"batch": BATCH, "stop": {"epochs": 6}, "learning_rate": {"base": 0.1, "decay": "cosine", "warmup_epochs": 0.5}, **parts})


def position_after(made: TrainPlan, steps: int) -> Position:
    position = Position(0, 0)
    for _ in range(steps):
        position = made.step_at(position).end
    return position


def grown(made: TrainPlan, begin: Position, factor: int, power: float) -> tuple[BatchSchedule, TrainPlan]:
    """The schedule of a run whose batch may be `factor` times as large from a place on, and the plan of its recipe."""
    losses = np.array([[0.9, 0.9], [1.1, 1.1]])
    scheduled = batch_schedule(made, [(begin.samples_seen, critical_batch(losses, (1, factor), made.global_batch_size))], power)
    assert scheduled is not None
    schedule, spec = scheduled
    whole = planned(AMONG, **spec.model_dump(mode="json"))
    assert (schedule.num_steps, schedule.num_constant_steps) == (whole.total_steps, made.total_steps)
    return schedule, whole


@pytest.mark.parametrize("steps", [5, 12, 13, 20])
@pytest.mark.parametrize(("case", "power"), [(case, power) for case in CASES for power in (0.0, 0.5, 1.0) if not power or "again" not in case])
def test_its_steps_are_the_branchs(case: str, steps: int, power: float) -> None:
    """Before the checkpoint the run's own, then the branch's. Rates are compared where the last step ends both runs alike."""
    made = plan(**CASES[case])
    begin = position_after(made, steps)
    schedule, recipe = grown(made, begin, 4, power)
    branch = branch_plan(made, 4, power, made.spec.seed)
    decays = [each.spec.ema.decay if each.spec.ema else 1.0 for each in (recipe, branch)]
    position = Position(0, 0)
    while position != begin:
        step = made.step_at(position)
        of_recipe = recipe.step_at(position)
        assert of_recipe.samples == step.samples
        assert math.isclose(of_recipe.average_power, step.average_power)
        position = step.end
    for of_branch in itertools.takewhile(lambda step: step.end.samples_seen <= made.total_progress, branch.steps_from(begin)):
        of_recipe = recipe.step_at(of_branch.begin)
        assert of_recipe.samples == of_branch.samples
        kept = [decay**each.average_power for decay, each in zip(decays, (of_recipe, of_branch), strict=True)]
        assert kept[0] == pytest.approx(kept[1], rel=1e-12)
        if not schedule.num_more_samples:
            assert of_recipe.learning_rate == pytest.approx(of_branch.learning_rate, rel=1e-12)
            assert of_recipe.options == pytest.approx(of_branch.options, rel=1e-12)
    assert recipe.total_progress == made.total_progress + schedule.num_more_samples


@pytest.mark.parametrize("base", [None, 2, 8, 32])
def test_an_average_keeps_its_half_life_in_samples(base: int | None) -> None:
    """What is left of the past after two epochs, at every multiple: decay^(samples / base), a short step of the run's counting as a whole one."""
    made = plan(ema={"decay": 0.9, "base_global_batch_size": base}, stop={"epochs": 6})
    for multiple in (1, 2, 4):
        steps = itertools.takewhile(lambda step: step.end.samples_seen <= 2 * AMONG, branch_plan(made, multiple, 0.5, 0).steps_from(Position(0, 0)))
        # An epoch is 12 steps of 8 and one of 7, which counts as 8 at the run's own batch and as part of a larger step as 7.
        assert sum(step.average_power for step in steps) * (base or 8) == pytest.approx(2 * AMONG, abs=2)


def test_samples_beyond_the_end_are_counted() -> None:
    """Of 50 steps the last 11 lie in the fourth epoch: 88 samples, of which steps of 32 make 96."""
    made = plan(stop={"steps": 50})
    schedule, recipe = grown(made, position_after(made, 20), 4, 0.5)
    assert made.total_progress == 3 * AMONG + 88
    assert (schedule.num_more_samples, recipe.total_progress) == (8, 3 * AMONG + 96)


def test_what_a_grown_batch_leaves_out_is_counted() -> None:
    """Of 103 samples in an epoch steps of 8 use 96, steps of 64 use 64; from the third epoch on, four epochs at that."""
    made = plan(batch={**BATCH, "last": "drop"})
    schedule, recipe = grown(made, position_after(made, 24), 8, 0.5)
    assert sum(batch.size for batch in recipe.batches()) == 2 * 96 + 4 * 64
    assert schedule.num_more_samples == 4 * (64 - 96)
