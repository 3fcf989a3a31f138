"""Which sweep a time budget holds: fewer batch sizes and a shorter search, never less care at one batch than another."""

from typing import NamedTuple

from largebatch.jobs.errors import InputError
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.results.analysis.reference import Reference
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.study.expected import SOLUTIONS_SHARE, Expected
from largebatch.tuning.sweep.spec import BATCH, MOMENTUM, RangeSpec, ResourcesSpec, SearchSpec, SweepSpec

SWEEP_SHARE = 0.65
"""Of a study's budget, at most."""
OTHER_SHARE = 0.16
"""Of a study's budget, for the profile, measuring sharpness, and the report. On top comes the reference run."""
START_S = 10.0
"""Of a sweep once, for Ray."""
MOST_TRIALS, REPEATS = 12, 3
FEWEST_RUNS = 3
"""At each batch size, before there are fewer sizes: two learning rates, and a second seed of the better."""
USUAL_MOMENTUM = 0.9
"""Compared with none where the recipe has none."""
BATCH_STEP = 4
POWER = 0.5
"""Of the batch, by which the middle of the searched learning rates grows."""
REACH = 6.0
"""Learning rates are searched from so many times below the recipe's, scaled to the batch, to so many times above."""


class _Size(NamedTuple):
    """What a sweep compares, and how many runs of each combination the budget holds."""

    batches: list[int]
    momenta: list[float]
    """None for an optimizer without momentum."""
    num_runs: int


def size_sweep(spec: TrainSpec, profile: Profile, reference: Reference, budget_s: float, resources: ResourcesSpec) -> SweepSpec:
    """As many batch sizes, momenta and trials as the budget holds, the same for every batch.

    Args: reference: the recipe as it is; budget_s: wall-clock seconds of the whole study; resources: of each run.
    Raises: InputError for a budget that does not hold one run of each.
    """
    expected = Expected(spec, profile, reference)
    batches, momenta, num_runs = _size(spec, profile, expected, budget_s, used_s=reference.run.summary.wall_seconds)
    repeats = min(REPEATS, max(num_runs - 1, 1))
    rate = reference.run.learning_rate * (min(batches) / reference.run.summary.global_batch_size) ** POWER
    centre = rate / (1 - spec.optimizer.momentum_value) if momenta else rate
    return SweepSpec(
        name="sweep",
        recipe=spec.name,
        # The search finds each batch's own rate, so no rule moves it once more; and a growing batch is no batch size.
        set={"stop.epochs": expected.epochs, "stop.steps": None, "learning_rate.scaling": "none", "batch.schedule": {}},
        each={BATCH: [*batches], **({MOMENTUM: [*momenta]} if momenta else {})},
        search=SearchSpec(
            trials=min(max(num_runs - (repeats - 1), 1), MOST_TRIALS),
            space={"learning_rate.base": RangeSpec(low=centre / REACH, high=centre * REACH, times_batch=POWER, is_effective=bool(momenta))},
        ),
        repeats=repeats,
        resources=resources,
    )


def _size(spec: TrainSpec, profile: Profile, expected: Expected, budget_s: float, used_s: float) -> _Size:
    batches, momenta = _candidates(profile), list[float]()
    if f"optimizer.{spec.optimizer.momentum_option}" == MOMENTUM:
        momenta = [0.0, spec.optimizer.momentum_value or USUAL_MOMENTUM]

    def one_of_each() -> float:
        return sum(map(expected.of_a_search, batches)) * (len(momenta) or 1)

    def num_runs() -> int:
        """How many runs of every batch and momentum fit."""
        solutions_s = sum(map(expected.to_the_end, expected.chosen_for_the_end(batches, budget_s)))
        sweep_s = min(SWEEP_SHARE * budget_s, (1 - OTHER_SHARE) * budget_s - used_s - solutions_s)
        return int((sweep_s - START_S) / one_of_each())

    while len(batches) > 3 and num_runs() < FEWEST_RUNS:
        if len(momenta) > 1 and len(batches) <= 4:
            momenta = [spec.optimizer.momentum_value]
        else:  # the ends cost most, many steps below and many samples above; large batches are what is asked about, and go later
            is_last_dear = expected.of_a_search(batches[-1]) > 2 * expected.of_a_search(batches[0])
            batches = batches[:-1] if is_last_dear else batches[1:]
    if num_runs() < 1:
        sweep_s = START_S + one_of_each()
        needed = max(sweep_s / SWEEP_SHARE, (sweep_s + used_s) / (1 - OTHER_SHARE - SOLUTIONS_SHARE))
        raise InputError("--budget", f"{budget_s:g} s hold no sweep of this recipe; one run at each of {len(batches)} batch sizes needs "
                         f"about {needed:,.0f} s.", f"Use --budget {int(needed / 60) + 1}m.")  # fmt: skip
    return _Size(batches, momenta, num_runs())


def _candidates(profile: Profile) -> list[int]:
    """Batches four times apart, from 16 to half the training set, that one included, as far as they can be trained."""
    sizes = [point.global_batch_size for point in profile.points]
    largest = max(min(profile.num_train_samples // 2, max(sizes)), min(sizes))
    smallest = max(16, min(sizes))
    batches = [smallest]
    while batches[-1] * BATCH_STEP <= largest:
        batches.append(batches[-1] * BATCH_STEP)
    if largest >= 2 * batches[-1]:
        batches.append(largest)
    return batches if len(batches) >= 3 else sorted({smallest, max((smallest + largest) // 2, 1), largest})


def what_was_chosen(sweep: SweepSpec) -> str:
    """What was chosen, for a person."""
    batches = ", ".join(f"{batch:,}" for batch in sweep.each[BATCH] if isinstance(batch, int))
    momenta = f", momentum {' and '.join(f'{m:g}' for m in sweep.each[MOMENTUM] if isinstance(m, float))}" if MOMENTUM in sweep.each else ""
    rates, seeds = sweep.search.num_trials(), sweep.repeats
    return (
        f"Batch sizes {batches}{momenta}: {rates} learning rate{'s' if rates > 1 else ''} each, the best with {seeds} seed{'s' if seeds > 1 else ''}."
    )
