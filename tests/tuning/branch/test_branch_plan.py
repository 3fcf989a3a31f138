"""A branch's plan: the same samples as the run's own, another batch, another rate; with the multiple 1 it is the run's."""

import itertools
from typing import Any

import pytest
from small_runs import planned

from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.tuning.branch.plan import branch_plan, evaluation_places

MULTIPLES = (1, 2, 3, 6)


def plan(last: str = "keep", num_samples: int = 103, **parts: Any) -> TrainPlan:
    """Twelve steps of 8 and one of 7 in an epoch."""
    batch = {"global_batch_size": 8, "micro_batch_size": 4, "last": last}
    return planned(num_samples, batch=batch, stop={"epochs": 6}, **parts)


def places_after(made: TrainPlan, steps: int) -> Position:
    """Where the run stands after so many of its own steps."""
    position = Position(0, 0)
    for _ in range(steps):
        position = made.step_at(position).end
    return position


@pytest.mark.parametrize("steps", [1, 5, 12, 13, 20])
@pytest.mark.parametrize("last", ["keep", "drop"])
def test_every_multiple_has_the_same_samples(last: str, steps: int) -> None:
    made = plan(last)
    begin = places_after(made, steps)
    ends = evaluation_places(branch_plan(made, MULTIPLES[-1], 1.0, 0), begin, 150)
    assert ends[-1] - begin.samples_seen >= 150
    assert all(end > begin.samples_seen + 0.75 * (ends[-1] - begin.samples_seen) for end in ends)
    seen = {}
    for multiple in MULTIPLES:
        steps_of = branch_plan(made, multiple, 1.0, 0).steps_from(begin)
        taken = list(itertools.takewhile(lambda step: step.end.samples_seen <= ends[-1], steps_of))
        assert {*ends} <= {step.end.samples_seen for step in taken}, "each is evaluated at all places"
        seen[multiple] = [(step.samples.epoch, place) for step in taken for place in range(step.samples.start, step.samples.stop)]
    assert len(seen[1]) == ends[-1] - begin.samples_seen
    assert all(seen[multiple] == seen[1] for multiple in MULTIPLES)


@pytest.mark.parametrize("last", ["keep", "drop"])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_run_itself_is_the_multiple_one(last: str, power: float) -> None:
    parts = {"learning_rate": {"base": 0.1, "warmup_epochs": 1.5, "decay": "cosine"}, "gradient": {"noise_every_steps": 3}}
    made = plan(last, **parts)
    branched, position = branch_plan(made, 1, power, made.spec.seed), Position(0, 0)
    for _ in range(30):
        step = made.step_at(position)
        assert branched.step_at(position) == step
        position = step.end


def test_noise_in_the_optimizers_own_norm_is_measured_after_as_many_samples_as_in_the_run() -> None:
    """Its norms cost more than a step may; the Euclidean noise of a multiple costs nothing, at every step."""
    for norm, every in (("optimizer", {1: 6, 2: 3, 4: 2, 8: 1}), ("euclidean", {1: 6, 2: 1, 4: 1, 8: 1})):
        made = plan(optimizer={"name": "lion"}, gradient={"noise_every_steps": 6, "noise_norm": norm})
        assert {multiple: branch_plan(made, multiple, 0.5, 0).noise_every_steps for multiple in every} == every


@pytest.mark.parametrize(("power", "factors"), [(0.0, (1.0, 1.0)), (0.5, (2.0, 1.75**0.5)), (1.0, (4.0, 1.75))])
def test_the_rate_follows_the_samples_of_each_step(power: float, factors: tuple[float, float]) -> None:
    """By hand: of 46 samples, 32, then what the epoch has left, 14, then 32 of the next; the schedule is the run's, read at the middle."""
    made = planned(
        46,
        batch={"global_batch_size": 8, "micro_batch_size": 4},
        stop={"epochs": 6},
        learning_rate={"base": 0.1, "decay": "polynomial", "decay_power": 1.0},
    )
    first, second, third = itertools.islice(branch_plan(made, 4, power, 0).steps_from(Position(0, 0)), 3)
    assert [step.samples.size for step in (first, second, third)] == [32, 14, 32]
    middles, total = (16, 39, 62), 6 * 46
    expected = [factor * 0.1 * (1 - middle / total) for factor, middle in zip((factors[0], factors[1], factors[0]), middles, strict=True)]
    assert [step.learning_rate for step in (first, second, third)] == pytest.approx(expected, rel=1e-12)


def test_a_rate_that_begins_again_is_scaled_for_the_runs_own_batch() -> None:
    rate = {"base": 0.1, "base_global_batch_size": 8, "scaling": "linear", "restart": {"epoch": 2.0, "base": 0.2}}
    made = plan(learning_rate=rate)
    assert branch_plan(made, 4, 0.0, 0).learning_rate(2.5 * 103) == made.learning_rate(2.5 * 103) == pytest.approx(0.2)


def test_a_rate_about_the_rules_multiplies_it() -> None:
    made = plan()
    rule, twice = (branch_plan(made, 4, 0.5, 0, times).step_at(Position(0, 0)).learning_rate for times in (1.0, 2.0))
    assert twice == pytest.approx(2 * rule, rel=1e-12)
