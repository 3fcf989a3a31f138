"""What a study takes at least and at most, by its profile, before anything trains: a budget that does not hold the least is refused then, and
told which one will do.

Beside the recipe's own run at batch r one at a smaller batch takes no fewer steps, and one at a larger batch no fewer samples (McCandlish et al.,
`analysis/reference.py`). So the seconds that the recipe's run trains bound those of every other run from below, and there is a length of it
after which no sweep fits any more.
"""

import math

from largebatch.jobs.errors import InputError
from largebatch.jobs.plan.make import resolve_global_batch_size
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.study.expected import AFTER_S, BESIDE_RUN_S, UNTUNED, Expected, candidates
from largebatch.tuning.study.options import REFERENCE_SHARE
from largebatch.tuning.study.sizing import FEWEST_BATCHES, MOST_TRIALS, REPEATS, SWEEP_SHARE, budget_for, fewest_sizes, in_minutes
from largebatch.tuning.sweep.space import with_fields

WAY = 0.5
"""Of its epochs, how far a run goes that ends at the target, as long as nothing is known of it."""

AHEAD = 1.25
"""A budget is advised for so many times what was measured: the machine may become busier, and runs that are evaluated more often last longer."""

LEAST_S = 1.0
"""For the recipe's own run and the sweep, where a slow start has left nothing: enough to say what they would take."""


def num_steps(spec: TrainSpec, profile: Profile, global_batch_size: int) -> float:
    """Of a run at its whole length."""
    return spec.stop.steps or (spec.stop.epochs or 0.0) * profile.num_train_samples / global_batch_size


def refuse_endless(spec: TrainSpec, profile: Profile, budget_s: float, left_s: float, num_optimizers: int) -> None:
    """Raises: InputError where every run trains through all epochs, and the budget does not hold one at each of the fewest batch sizes.

    Args: left_s: of the budget.
    """
    if spec.stop.at_target or spec.stop.epochs is None:
        return  # how long runs last is not known yet
    samples = spec.stop.epochs * profile.num_train_samples
    cheapest = sorted(samples * profile.seconds_per_step(batch) / batch for batch in candidates(profile))[:FEWEST_BATCHES]
    sweep_s = num_optimizers * sum(cheapest)
    if sweep_s > min(SWEEP_SHARE * budget_s, left_s - AFTER_S):
        under = f" under each of {num_optimizers} optimizers" if num_optimizers > 1 else ""
        least = f"one run at each of {len(cheapest)} batch sizes{under} trains for {sweep_s:,.0f} s at least."
        minutes = in_minutes(_advised_by_profile(spec, profile, samples, num_optimizers))
        raise InputError("--budget", f"{budget_s:g} s hold no sweep of this recipe; {least}", f"Use --budget {minutes}.")


def _advised_by_profile(spec: TrainSpec, profile: Profile, samples: float, num_optimizers: int) -> float:
    """Seconds of a budget that holds the recipe's own run and the smallest sweep. Args: samples: of each run."""

    def run_s(batch: int) -> float:
        return samples * profile.seconds_per_step(batch) / batch + 2 * BESIDE_RUN_S

    own_s = run_s(resolve_global_batch_size(spec, profile.training_set))
    sweep_s = num_optimizers * sum(map(run_s, fewest_sizes(profile, run_s)))
    return AHEAD * max(own_s / REFERENCE_SHARE, budget_for(sweep_s, own_s, num_optimizers - 1))


def advised_by_part(spec: TrainSpec, profile: Profile, part: RunResult, num_optimizers: int) -> tuple[float, float]:
    """(Training seconds of the recipe's own run at its whole length, seconds of a budget that holds the smallest sweep beside it), should no run meet
    its target before its end. Args: part: of that run, by whose pace.
    """
    summary = part.summary
    steps = num_steps(spec, profile, summary.global_batch_size)
    times = min(steps / max(summary.steps, 1), (spec.stop.max_seconds or math.inf) / summary.training_seconds)
    in_epochs = with_fields(spec, {"stop.steps": None, "stop.epochs": steps * summary.global_batch_size / profile.num_train_samples})
    expected = Expected(in_epochs, profile, part)
    sweep_s = num_optimizers * sum(map(expected.to_the_end, fewest_sizes(profile, expected.to_the_end)))
    return times * summary.training_seconds, AHEAD * budget_for(sweep_s, times * summary.wall_seconds, num_optimizers - 1)


def longest_reference(spec: TrainSpec, profile: Profile, budget_s: float, left_s: float, num_optimizers: int) -> float:
    """Training seconds of the recipe's own run after which the budget does not hold the smallest sweep.

    Args: left_s: of the budget, before that run.
    """
    if not spec.stop.at_target:
        return math.inf  # a run that has met the target may be cut short, and the others do not last as long as it did
    own = resolve_global_batch_size(spec, profile.training_set)
    own_s = profile.seconds_per_step(own)
    cheapest = sorted(min(own / batch, 1.0) * profile.seconds_per_step(batch) / own_s for batch in candidates(profile))[:FEWEST_BATCHES]
    of_reference = num_optimizers * UNTUNED * sum(cheapest)
    return min(SWEEP_SHARE * budget_s / of_reference, max(left_s - AFTER_S, LEAST_S) / (1 + of_reference))


def most_left(spec: TrainSpec, profile: Profile, left_s: float, groups_at_each: int, at_once: int) -> float:
    """Seconds of a study from the recipe's own run on, before that is known: the longest search, or what is left of the budget if that is less.

    Args: groups_at_each: optimizers or momenta that are compared at each batch; at_once: runs of a search that go at a time.
    """
    if spec.stop.epochs is None:
        return left_s

    def run_s(batch: int, part: float) -> float:
        """A run through a part of the epochs."""
        return part * (spec.stop.epochs or 0.0) * profile.num_train_samples * profile.seconds_per_step(batch) / batch + 2 * BESIDE_RUN_S

    own, batches, part = resolve_global_batch_size(spec, profile.training_set), candidates(profile), WAY if spec.stop.at_target else 1.0
    of_each = groups_at_each * (MOST_TRIALS / at_once + REPEATS)
    return min(left_s, run_s(own, part) + sum(of_each * run_s(batch, part) + run_s(batch, 1.0) for batch in batches) + AFTER_S)
