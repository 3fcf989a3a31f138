"""What a study takes at least and at most, by its profile, before anything trains: a budget that does not hold the least is refused then, and
told which one will do.

Beside the recipe's own run at batch r one at a smaller batch takes no fewer steps, and one at a larger batch no fewer samples (McCandlish et al.,
`analysis/reference.py`). So the seconds that the recipe's run trains bound those of every other run from below, and there is a length of it
after which no sweep fits any more.
"""

import math
from collections.abc import Sequence

from largebatch.jobs.errors import InputError
from largebatch.jobs.plan.make import resolve_global_batch_size
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.study.expected import AFTER_S, BESIDE_RUN_S, EVALUATION_SHARE, UNTUNED, Expected, candidates
from largebatch.tuning.study.options import REFERENCE_SHARE
from largebatch.tuning.study.sizing import AHEAD, FEWEST_BATCHES, MOST_TRIALS, REPEATS, SWEEP_SHARE, budget_for, fewest_sizes, in_minutes
from largebatch.tuning.sweep.space import with_fields

WAY = 0.5
"""Of its epochs, how far a run goes that ends at the target, as long as nothing is known of it."""

LEAST_S = 1.0
"""For the recipe's own run and the sweep, where a slow start has left nothing: enough to say what they would take."""


def num_steps(spec: TrainSpec, profile: Profile, global_batch_size: int) -> float:
    """Of a run at its whole length."""
    return spec.stop.steps or (spec.stop.epochs or 0.0) * profile.num_train_samples / global_batch_size


def refuse_endless(spec: TrainSpec, profile: Profile, budget_s: float, left_s: float, optimizers: Sequence[Profile]) -> None:
    """Raises: InputError where every run trains through all epochs, and the budget does not hold one at each of the fewest batch sizes.

    Args: left_s: of the budget; optimizers: the profile under each that is compared.
    """
    if spec.stop.at_target or spec.stop.epochs is None:
        return  # how long runs last is not known yet
    samples = spec.stop.epochs * profile.num_train_samples
    cheapest = sorted(samples * _seconds_per_step(optimizers, batch) / batch for batch in candidates(profile))[:FEWEST_BATCHES]
    sweep_s = sum(cheapest)
    if sweep_s > min(SWEEP_SHARE * budget_s, left_s - AFTER_S):
        under = f" under each of {len(optimizers)} optimizers" if len(optimizers) > 1 else ""
        least = f"one run at each of {len(cheapest)} batch sizes{under} trains for {sweep_s:,.0f} s at least."
        minutes = in_minutes(_advised_by_profile(spec, profile, samples, optimizers))
        raise InputError("--budget", f"{budget_s:g} s hold no sweep of this recipe; {least}", f"Use --budget {minutes}.")


def _seconds_per_step(optimizers: Sequence[Profile], batch: int) -> float:
    """One step under each."""
    return sum(under.seconds_per_step(batch) for under in optimizers)


def _advised_by_profile(spec: TrainSpec, profile: Profile, samples: float, optimizers: Sequence[Profile]) -> float:
    """Seconds of a budget that holds the recipe's own run and the smallest sweep. Args: samples: of each run."""

    def run_s(batch: int, compared: Sequence[Profile] = optimizers) -> float:
        training_s = samples * _seconds_per_step(compared, batch) / batch
        return (1 + EVALUATION_SHARE) * training_s + 2 * BESIDE_RUN_S * len(compared)

    own_s = run_s(resolve_global_batch_size(spec, profile.training_set), [profile])
    sweep_s = sum(map(run_s, fewest_sizes(profile, run_s)))
    return AHEAD * max(own_s / REFERENCE_SHARE, budget_for(sweep_s, own_s, len(optimizers) - 1))


def advised_by_part(spec: TrainSpec, profile: Profile, part: RunResult, optimizers: Sequence[Profile]) -> tuple[float, float]:
    """(Training seconds of the recipe's own run at its whole length, seconds of a budget that holds the smallest sweep beside it), should no run meet
    its target before its end.

    Args: part: of that run, by whose pace; optimizers: the profile under each that is compared, by which `size_sweep` will count as well.
    """
    summary = part.summary
    steps = num_steps(spec, profile, summary.global_batch_size)
    times = min(steps / max(summary.steps, 1), (spec.stop.max_seconds or math.inf) / summary.training_seconds)
    in_epochs = with_fields(spec, {"stop.steps": None, "stop.epochs": steps * summary.global_batch_size / profile.num_train_samples})
    expected = [Expected(in_epochs, profile, part, own) for own in optimizers]

    def run_s(batch: int) -> float:
        return sum(under.to_the_end(batch) for under in expected)

    sweep_s = sum(map(run_s, fewest_sizes(profile, run_s)))
    return times * summary.training_seconds, AHEAD * budget_for(sweep_s, times * summary.wall_seconds, len(optimizers) - 1)


def longest_reference(spec: TrainSpec, profile: Profile, budget_s: float, left_s: float, optimizers: Sequence[Profile]) -> float:
    """Training seconds of the recipe's own run after which the budget does not hold the smallest sweep.

    Args: left_s: of the budget, before that run; optimizers: the profile under each that is compared.
    """
    if not spec.stop.at_target:
        return math.inf  # a run that has met the target may be cut short, and the others do not last as long as it did
    own = resolve_global_batch_size(spec, profile.training_set)
    own_s = profile.seconds_per_step(own)
    cheapest = sorted(min(own / batch, 1.0) * _seconds_per_step(optimizers, batch) / own_s for batch in candidates(profile))[:FEWEST_BATCHES]
    of_reference = UNTUNED * sum(cheapest)
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
