"""Which sweep a time budget holds, by what its runs may be expected to take: fewer batch sizes and a shorter search, never less care at one
batch than another.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence

from largebatch.jobs.errors import InputError
from largebatch.jobs.optim.by_samples.options import StepSize
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.results.analysis.crossing import crossing
from largebatch.tuning.results.analysis.reference import Curve, curve_through
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.sweep.optimizers import OPTIMIZER, RATE_POWER, RATE_REACH, usual_rate
from largebatch.tuning.sweep.spec import BATCH, HALF_LIVES, MOMENTUM, RATE, RangeSpec, ResourcesSpec, SearchSpec, SweepSpec

SWEEP_SHARE = 0.65
"""Of a study's budget, at most."""
SOLUTIONS_SHARE = 0.25
"""Of a study's budget, for the runs to the end, at most; what does not fit is left out."""
BESIDE_RUN_S = 0.15
"""Of each run, for its process and what is told of it, beside what the recipe's own run took for data, checkpoint and journal."""
UNTUNED = 1.6
"""How many more samples than predicted the runs of a search take, those that miss included: between the 1.3 of F1 on MNIST and the 2.3 of the
digits in the studies of docs/results."""
OTHER_SHARE = 0.16
"""Of a study's budget, for the profile, measuring sharpness, and the report. On top comes the reference run."""
FURTHER_PROFILE_SHARE = 0.02
"""Of a study's budget, for the step times under each optimizer but the recipe's."""
AROUND_S = 6.0
"""Of a study once, whatever its budget: its start, drawing the report, and MLflow, until it has everything."""
RAY_START_S = 10.0
"""Of a sweep once, where its runs are Ray's."""
MOST_TRIALS, REPEATS = 12, 3
FEWEST_RUNS = 3
"""At each batch size, before there are fewer sizes: two learning rates, and another seed of the better."""
USUAL_MOMENTUM = 0.9
"""Compared with none where the recipe has none."""
SHORTER = 4.0
"""Of two half-lives of momentum that are compared, how many times the other is shorter than the recipe's."""
BATCH_STEP = 4
EVALUATES_EVERY = "evaluation.every_epochs"
SPACING, EVALUATION_SHARE = 0.05, 0.2
"""Of the samples to the target at the smallest batch, how far evaluations lie apart; of a run's training seconds, how much they may take."""


class Expected:
    """Seconds of runs under one optimizer, by the study's profiles and the recipe's own run.

    Args: profile: of the recipe as it is; reference: its run; own: the optimizer's profile.
    """

    def __init__(self, spec: TrainSpec, profile: Profile, reference: RunResult, own: Profile | None = None) -> None:
        summary = reference.summary
        self._profile = own or profile
        self.epochs = float(spec.stop.epochs or summary.samples_seen / profile.num_train_samples)
        self._curve: Curve | None = None
        if spec.stop.at_target:
            with contextlib.suppress(InputError):  # it did not reach its target: runs are expected to last to their end
                assert spec.stop.target_score is not None  # a study without a target is refused
                self._curve = curve_through(reference, spec.stop.target_score)
        self.evaluates_every = evaluates_every(spec, profile, reference)
        # As fast, and as often interrupted by evaluations, as the run that has just been done beside whatever else there is.
        profiled_s = profile.seconds_per_step(summary.global_batch_size)
        self._pace = summary.training_seconds / (summary.steps * profiled_s) if summary.steps else 1.0
        as_often = spec.evaluation.every_epochs / (self.evaluates_every or spec.evaluation.every_epochs)
        self._beside_s = max(summary.wall_seconds - summary.training_seconds - summary.evaluation_seconds, 0.0) + BESIDE_RUN_S
        self._evaluation_s = as_often * summary.evaluation_seconds / summary.samples_seen if summary.samples_seen else 0.0

    def _seconds(self, batch: int, samples: float) -> float:
        return samples * (self._pace * self._profile.seconds_per_step(batch) / batch + self._evaluation_s) + self._beside_s

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


def evaluates_every(spec: TrainSpec, profile: Profile, reference: RunResult) -> float | None:
    """Epochs between the evaluations of the study's runs, so that times of batch sizes are told apart; None: the recipe's, which are as close.

    A twentieth of what the smallest batch is expected to take to the target, by the recipe's own run; farther where evaluating so often would take
    more than a fifth of the training seconds, at the batch whose samples are the fastest. The recipe's, too, with `stop.patience`, which counts them.
    """
    assert spec.stop.target_score is not None  # a study without a target is refused
    met = crossing(reference, spec.stop.target_score)
    summary = reference.summary
    if met is None or not summary.steps or spec.stop.patience is not None:
        return None
    needed = met.samples
    with contextlib.suppress(InputError):  # it measured no noise: its own samples stand for those of the smallest batch
        needed = min(curve_through(reference, spec.stop.target_score).crossed(min(candidates(profile))), needed)
    pace = summary.training_seconds / (summary.steps * profile.seconds_per_step(summary.global_batch_size))
    seconds_per_sample = pace * min(profile.seconds_per_step(batch) / batch for batch in candidates(profile))
    evaluation_s = summary.evaluation_seconds / len(reference.evaluations)
    samples = max(SPACING * needed, evaluation_s / (EVALUATION_SHARE * seconds_per_sample))
    epochs = float(f"{samples / profile.num_train_samples:.3g}")
    return epochs if epochs < spec.evaluation.every_epochs else None


def size_sweep(
    spec: TrainSpec,
    profile: Profile,
    reference: RunResult,
    budget_s: float,
    resources: ResourcesSpec,
    optimizers: Mapping[str, Profile] | None = None,
) -> SweepSpec:
    """As many batch sizes, momenta and trials as the budget holds, the same for every batch and optimizer.

    Args:
        reference: the recipe as it is.
        budget_s: wall-clock seconds of the whole study.
        resources: of each run.
        optimizers: what is compared, each with its own profile; momenta, which not all of them have, then stay as they are. None: the recipe's alone.
    Raises: InputError for a budget that does not hold one run of each.
    """
    expected = [Expected(spec, profile, reference, own) for own in (optimizers.values() if optimizers else [profile])]
    of_reference = StepSize(reference.summary.global_batch_size, reference.summary.tokens_per_sample)
    field, momenta = (MOMENTUM, []) if optimizers else _momenta(spec, of_reference)
    share = OTHER_SHARE + FURTHER_PROFILE_SHARE * sum(own is not profile for own in (optimizers or {}).values())
    used_s = AROUND_S + reference.summary.wall_seconds + (RAY_START_S if resources.gpus_per_worker else 0.0)
    batches, momenta, num_runs = _size(candidates(profile), momenta, expected, budget_s, share, used_s)
    # Of two runs both search, for a rate matters more than a seed; the answer says that they report as well.
    repeats = min(REPEATS, num_runs - 2) if num_runs > 1 else 1
    rate = reference.learning_rate * (min(batches) / reference.summary.global_batch_size) ** RATE_POWER
    is_effective = bool(momenta) and spec.optimizer.accumulates
    centre = rate / (1 - spec.optimizer.momentum_at(of_reference)) if is_effective else rate
    return SweepSpec(
        name="sweep",
        recipe=spec.name,
        # The search finds each batch's own rate, so no rule moves it once more; and a growing batch is no batch size.
        set={
            "stop.epochs": expected[0].epochs,
            "stop.steps": None,
            "learning_rate.scaling": "none",
            "batch.schedule": {},
            "checkpoint.best": False,  # nothing reads the best of a run that only compares
            **({} if (every := expected[0].evaluates_every) is None else {EVALUATES_EVERY: every}),
        },
        each={**({OPTIMIZER: [*optimizers]} if optimizers else {}), BATCH: [*batches], **({field: [*momenta]} if momenta else {})},
        search=SearchSpec(
            trials=min(max(num_runs - repeats, 1), MOST_TRIALS),
            space={} if optimizers else {RATE: _around(centre, is_effective)},
            by_optimizer={name: {RATE: _around(_middle(name, rate, spec, min(batches)))} for name in optimizers or {}},
        ),
        repeats=repeats,
        resources=resources,
    )


def _around(middle: float, is_effective: bool = False) -> RangeSpec:
    """The learning rates that are searched, all ranges as wide."""
    return RangeSpec(low=middle / RATE_REACH, high=middle * RATE_REACH, times_batch=RATE_POWER, is_effective=is_effective)


def _middle(optimizer: str, rate: float, spec: TrainSpec, batch: int) -> float:
    """The rate that an optimizer is searched about: the recipe's own by its rate, another by what is usual."""
    usual = rate if optimizer == spec.optimizer.label else usual_rate(optimizer, batch)
    assert usual is not None  # one whose rates nobody knows is refused
    return usual


def _momenta(spec: TrainSpec, of_reference: StepSize) -> tuple[str, list[float]]:
    """(The field that says the momentum, its values to compare: none or a shorter half-life, and the recipe's own; no values for an optimizer
    without.)
    """
    if f"optimizer.{spec.optimizer.momentum_option}" != MOMENTUM:
        return MOMENTUM, []
    told = spec.optimizer.half_lives.get(spec.optimizer.momentum_option)
    if told is None:
        return MOMENTUM, [0.0, spec.optimizer.momentum_at(of_reference) or USUAL_MOMENTUM]
    in_samples = told[1] * of_reference.num_samples / of_reference.amount(told[0])
    return HALF_LIVES[0], [in_samples / SHORTER, in_samples]


def _size(
    batches: list[int], momenta: list[float], expected: Sequence[Expected], budget_s: float, other_share: float, used_s: float
) -> tuple[list[int], list[float], int]:
    """(batches and momenta to compare; how many runs of each combination, under each optimizer, the budget holds).

    Args: momenta: the recipe's own last; expected: under each optimizer; other_share: of the budget, for what is no run.
    """

    def seconds(batch: int) -> float:
        return sum(under.of_a_search(batch) for under in expected)

    def one_of_each() -> float:
        return sum(map(seconds, batches)) * (len(momenta) or 1)

    def num_runs() -> int:
        """How many runs of every combination fit."""
        solutions_s = max(sum(map(under.to_the_end, under.chosen_for_the_end(batches, budget_s))) for under in expected)
        sweep_s = min(SWEEP_SHARE * budget_s, (1 - other_share) * budget_s - used_s - solutions_s)
        return int(sweep_s / one_of_each())

    while len(batches) > 3 and num_runs() < FEWEST_RUNS:
        if len(momenta) > 1 and len(batches) <= 4:
            momenta = momenta[-1:]
        else:  # the ends cost most, many steps below and many samples above; large batches are what is asked about, and go later
            is_last_dear = seconds(batches[-1]) > 2 * seconds(batches[0])
            batches = batches[:-1] if is_last_dear else batches[1:]
    if num_runs() < 1:
        sweep_s = one_of_each()
        needed = max(sweep_s / SWEEP_SHARE, (sweep_s + used_s) / (1 - other_share - SOLUTIONS_SHARE))
        under = f" under each of {len(expected)} optimizers" if len(expected) > 1 else ""
        raise InputError("--budget", f"{budget_s:g} s hold no sweep of this recipe; one run at each of {len(batches)} batch sizes{under} needs "
                         f"about {needed:,.0f} s.", f"Use --budget {int(needed / 60) + 1}m.")  # fmt: skip
    return batches, momenta, num_runs()


def expected_seconds(sweep: SweepSpec, expected: Sequence[Expected], budget_s: float) -> float:
    """Wall-clock seconds of a study from its sweep on, by what its runs may be expected to take. Args: expected: under each optimizer."""
    batches = [batch for batch in sweep.each[BATCH] if isinstance(batch, int)]
    runs_of_each = sweep.num_in_group * math.prod(len(values) for field, values in sweep.each.items() if field not in {OPTIMIZER, BATCH})
    sweep_s = runs_of_each * sum(under.of_a_search(batch) for under in expected for batch in batches)
    solutions_s = max(sum(map(under.to_the_end, under.chosen_for_the_end(batches, budget_s))) for under in expected)
    return sweep_s + solutions_s + AROUND_S


def candidates(profile: Profile) -> list[int]:
    """Batches four times apart, from 16 to half the training set, that one included, as far as they can be trained.

    Half of an odd number is rounded up: else every epoch would end in a third batch, of a single sample.
    """
    sizes = [point.global_batch_size for point in profile.points]
    largest = max(min((profile.num_train_samples + 1) // 2, max(sizes)), min(sizes))
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
    momenta = "".join(
        f", {name} {' and '.join(f'{value:g}' for value in sweep.each[field] if isinstance(value, float))}"
        for field, name in ((MOMENTUM, "momentum"), (HALF_LIVES[0], "half-lives of momentum (samples)"))
        if field in sweep.each
    )
    rates, seeds = sweep.num_trials, sweep.repeats
    under = f", under {' and '.join(sweep.optimizers)}" if sweep.optimizers else ""
    searched = f"{rates} learning rate{'s' if rates > 1 else ''}"
    repeated = f"the best with {seeds} further seed{'s' if seeds > 1 else ''}, which alone are reported" if sweep.num_repeated else "a single seed"
    evaluated = f" Evaluated every {sweep.set[EVALUATES_EVERY]:g} epochs, to tell their times apart." if EVALUATES_EVERY in sweep.set else ""
    return f"Batch sizes {batches}{momenta}{under}: {searched} each, {repeated}.{evaluated}"
