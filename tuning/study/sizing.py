"""Which sweep a time budget holds, by what its runs may be expected to take: fewer batch sizes and a shorter search, never less care at one
batch than another.
"""

import contextlib
from collections.abc import Sequence

from largebatch.jobs.errors import InputError
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.results.analysis.reference import Curve, curve_through
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.sweep.spec import BATCH, MOMENTUM, RangeSpec, ResourcesSpec, SearchSpec, SweepSpec

SWEEP_SHARE = 0.65
"""Of a study's budget, at most."""
SOLUTIONS_SHARE = 0.25
"""Of a study's budget, for the runs to the end, at most; what does not fit is left out."""
OVERHEAD_PER_RUN_S = 0.7
"""Of each run beside its training and evaluation, for data, checkpoint and journal: twice the 0.35 s that the runs of F1 took in the study of
docs/results."""
UNTUNED = 1.6
"""How many more samples than predicted the runs of a search take, those that miss included: between the 1.3 of F1 on MNIST and the 2.3 of the
digits in the studies of docs/results."""
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


class Expected:
    """Seconds of runs, by the study's profile and the recipe's own run. Args: reference: the recipe as it is."""

    def __init__(self, spec: TrainSpec, profile: Profile, reference: RunResult) -> None:
        summary = reference.summary
        self._profile = profile
        self.epochs = float(spec.stop.epochs or summary.samples_seen / profile.num_train_samples)
        self._curve: Curve | None = None
        if spec.stop.at_target:
            with contextlib.suppress(InputError):  # it did not reach its target: runs are expected to last to their end
                assert spec.stop.target_score is not None  # a study without a target is refused
                self._curve = curve_through(reference, spec.stop.target_score)
        # As fast, and as often interrupted by evaluations, as the run that has just been done beside whatever else there is.
        profiled_s = profile.seconds_per_step(summary.global_batch_size)
        self._pace = summary.training_seconds / (summary.steps * profiled_s) if summary.steps else 1.0
        self._evaluation_s = summary.evaluation_seconds / summary.samples_seen if summary.samples_seen else 0.0

    def _seconds(self, batch: int, samples: float) -> float:
        return samples * (self._pace * self._profile.seconds_per_step(batch) / batch + self._evaluation_s) + OVERHEAD_PER_RUN_S

    def to_the_end(self, batch: int) -> float:
        """Wall-clock seconds of a run through all epochs."""
        return self._seconds(batch, self.epochs * self._profile.num_train_samples)

    def of_a_search(self, batch: int) -> float:
        """Wall-clock seconds of a run to the target, with a rate that is not yet tuned, or to its end."""
        samples = self.epochs * self._profile.num_train_samples
        return self._seconds(batch, samples if self._curve is None else min(samples, UNTUNED * self._curve.samples(batch)))

    def chosen_for_the_end(self, batches: Sequence[int], budget_s: float) -> list[int]:
        """The batches whose best settings the study trains to the end: all, or the first and the last, or none, as they fit."""
        choices = [[*batches], [batches[0], batches[-1]]]
        return next((chosen for chosen in choices if sum(map(self.to_the_end, chosen)) <= SOLUTIONS_SHARE * budget_s), [])


def size_sweep(spec: TrainSpec, profile: Profile, reference: RunResult, budget_s: float, resources: ResourcesSpec) -> SweepSpec:
    """As many batch sizes, momenta and trials as the budget holds, the same for every batch.

    Args: reference: the recipe as it is; budget_s: wall-clock seconds of the whole study; resources: of each run.
    Raises: InputError for a budget that does not hold one run of each.
    """
    expected = Expected(spec, profile, reference)
    batches, momenta, num_runs = _size(spec, profile, expected, budget_s, used_s=reference.summary.wall_seconds)
    repeats = min(REPEATS, max(num_runs - 1, 1))
    rate = reference.learning_rate * (min(batches) / reference.summary.global_batch_size) ** POWER
    is_effective = bool(momenta) and spec.optimizer.accumulates
    centre = rate / (1 - spec.optimizer.momentum_value) if is_effective else rate
    return SweepSpec(
        name="sweep",
        recipe=spec.name,
        # The search finds each batch's own rate, so no rule moves it once more; and a growing batch is no batch size.
        set={"stop.epochs": expected.epochs, "stop.steps": None, "learning_rate.scaling": "none", "batch.schedule": {}},
        each={BATCH: [*batches], **({MOMENTUM: [*momenta]} if momenta else {})},
        search=SearchSpec(
            trials=min(max(num_runs - (repeats - 1), 1), MOST_TRIALS),
            space={"learning_rate.base": RangeSpec(low=centre / REACH, high=centre * REACH, times_batch=POWER, is_effective=is_effective)},
        ),
        repeats=repeats,
        resources=resources,
    )


def _size(spec: TrainSpec, profile: Profile, expected: Expected, budget_s: float, used_s: float) -> tuple[list[int], list[float], int]:
    """(batches and momenta to compare, no momenta for an optimizer without; how many runs of each combination the budget holds)."""
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
    return batches, momenta, num_runs()


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
    rates, seeds = sweep.num_trials, sweep.repeats
    return (
        f"Batch sizes {batches}{momenta}: {rates} learning rate{'s' if rates > 1 else ''} each, the best with {seeds} seed{'s' if seeds > 1 else ''}."
    )
