"""Which sweep a time budget holds, by what its runs may be expected to take: fewer batch sizes and a shorter search, never less care at one
batch than another.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, pairwise

from largebatch.jobs.errors import InputError
from largebatch.jobs.optim.by_samples.options import StepSize
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.results.analysis.crossing import crossing
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.study.expected import AFTER_S, COARSE, FINE, SHARPNESS_SHARE, SOLUTIONS_SHARE, Expected, candidates
from largebatch.tuning.study.options import PROFILE_SHARE
from largebatch.tuning.sweep.optimizers import OPTIMIZER, RATE_POWER, RATE_REACH, usual_rate
from largebatch.tuning.sweep.spec import BATCH, HALF_LIVES, MOMENTUM, RATE, BudgetSpec, RangeSpec, ResourcesSpec, SearchSpec, SweepSpec

SWEEP_SHARE = 0.65
"""Of a study's budget, at most."""
FURTHER_PROFILE_SHARE = 0.02
"""Of a study's budget, for the step times under each optimizer but the recipe's."""
RAY_START_S = 10.0
"""Of a sweep once, where its runs are Ray's."""
MOST_TRIALS, REPEATS = 12, 3
FEWEST_BATCHES, MOST_FINE = 3, 6
"""Sizes that are compared at least; sizes up to which they lie twice apart, and not four times."""
FEWEST_WITH_MOMENTA = 5
"""Sizes that two momenta are compared at, where the budget is small."""
FEWEST_RUNS = 3
"""At each batch size, before there are fewer sizes: two learning rates, and another seed of the better."""
USUAL_MOMENTUM = 0.9
"""Compared with none where the recipe has none."""
AHEAD = 1.25
"""A budget is advised for so many times what was measured: the machine may become busier, and runs that are evaluated more often last longer."""
SHORTER = 4.0
"""Of two half-lives of momentum that are compared, how many times the other is shorter than the recipe's."""
EVALUATES_EVERY = "evaluation.every_epochs"


def size_sweep(
    spec: TrainSpec,
    profile: Profile,
    reference: RunResult,
    budget_s: float,
    resources: ResourcesSpec,
    optimizers: Mapping[str, Profile] | None = None,
    left_s: float | None = None,
) -> SweepSpec:
    """As many batch sizes, momenta and trials as the budget holds, the same for every batch and optimizer. The further seeds are three at most, as
    many as there is time for once it comes to them. Where the recipe's own run has reached its target the size nearest to its batch is among them,
    so that one at least is likely to reach it, unless the budget holds no three runs at each of three sizes with that one.

    Args:
        reference: the recipe as it is.
        budget_s: wall-clock seconds of the whole study.
        resources: of each run.
        optimizers: what is compared, each with its own profile; momenta, which not all of them have, then stay as they are. None: the recipe's alone.
        left_s: of the budget; None: by what profile and reference run are expected to have taken.
    Raises: InputError for a budget that does not hold one run of each.
    """
    expected = [Expected(spec, profile, reference, own) for own in (optimizers.values() if optimizers else [profile])]
    of_reference = StepSize(reference.summary.global_batch_size, reference.summary.tokens_per_sample)
    field, momenta = (MOMENTUM, []) if optimizers else _momenta(spec, of_reference)
    num_further = sum(own is not profile for own in (optimizers or {}).values())
    if left_s is None:
        left_s = (1 - profiles_share(num_further)) * budget_s - reference.summary.wall_seconds
    start_s = RAY_START_S if resources.gpus_per_worker else 0.0
    time = SweepTime(expected, budget_s, left_s - start_s, resources.max_searching or 1)
    assert spec.stop.target_score is not None  # a study without a target is refused
    own_batch = reference.summary.global_batch_size if crossing(reference, spec.stop.target_score) else None
    batches, momenta, num_runs = _size(profile, momenta, time, own_batch)
    if num_runs < 1:
        sweep_s = time.of_each(batches, 1, 0) * (len(momenta) or 1)
        needed_s = budget_for(sweep_s, reference.summary.wall_seconds + start_s, num_further, budget_s - time.left_s)
        under = f" under each of {len(expected)} optimizers" if len(expected) > 1 else ""
        raise InputError("--budget", f"{budget_s:g} s hold no sweep of this recipe; one run at each of {len(batches)} batch sizes{under} needs "
                         f"about {needed_s:,.0f} s.", f"Use --budget {in_minutes(AHEAD * needed_s)}.")  # fmt: skip
    num_trials, repeats = _split(num_runs)
    has_seeds = num_trials > 1 and repeats > 0
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
            trials=num_trials,
            space={} if optimizers else {RATE: _around(centre, is_effective)},
            by_optimizer={name: {RATE: _around(_middle(name, rate, spec, min(batches)))} for name in optimizers or {}},
        ),
        repeats=REPEATS if has_seeds else repeats,
        budget=BudgetSpec(rounds_seconds=time.for_the_sweep(batches)) if has_seeds else BudgetSpec(),
        resources=resources if has_seeds else resources.model_copy(update={"max_searching": None}),  # else the search's own runs report
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


class SweepTime:
    """Seconds that a study has for its sweep, and that its runs take.

    Args: expected: under each optimizer; left_s: of the budget; at_once: runs of a search that go at a time, where they do not report.
    """

    def __init__(self, expected: Sequence[Expected], budget_s: float, left_s: float, at_once: int = 1) -> None:
        self.expected, self.budget_s, self.left_s, self._at_once = expected, budget_s, left_s, at_once

    def one_at(self, batch: int) -> float:
        """A run at one batch under each optimizer."""
        return sum(under.of_a_search(batch) for under in self.expected)

    def of_each(self, batches: Sequence[int], num_trials: int, repeats: float) -> float:
        """So many runs at every batch under each optimizer."""
        return sum(map(self.one_at, batches)) * (num_trials / (self._at_once if repeats else 1) + repeats)

    def after(self, batches: Sequence[int]) -> float:
        """What comes after the sweep, about: solutions, their sharpness, the report, MLflow."""
        solved = [(under, under.chosen_for_the_end(batches, SOLUTIONS_SHARE * self.budget_s)) for under in self.expected]
        sharpness_s = max(under.of_sharpness(self.budget_s) if len(chosen) > 1 else 0.0 for under, chosen in solved)
        return max(sum(map(under.to_the_end, chosen)) for under, chosen in solved) + sharpness_s + AFTER_S

    def for_the_sweep(self, batches: Sequence[int]) -> float:
        """What is left for it, at most a share of the budget."""
        return min(SWEEP_SHARE * self.budget_s, self.left_s - self.after(batches))

    def left_with(self, sweep: SweepSpec) -> float:
        """Seconds of a study from its sweep on."""
        batches = batches_of(sweep)
        times = math.prod(len(values) for field, values in sweep.each.items() if field not in {OPTIMIZER, BATCH})
        most_s = sweep.budget.rounds_seconds
        least, most = (times * self.of_each(batches, sweep.num_trials, seeds) for seeds in (min(sweep.num_repeated, 1), sweep.num_repeated))
        return (most if most_s is None else max(least, min(most, most_s))) + self.after(batches)


def _split(num_runs: int) -> tuple[int, int]:
    """(Runs of a search, further seeds of its best) of so many runs. Of two both search, for a rate matters more than a seed; the answer says that
    they report as well.
    """
    repeats = min(REPEATS, num_runs - 2) if num_runs > 1 else 1
    return min(max(num_runs - repeats, 1), MOST_TRIALS), repeats


def _size(profile: Profile, momenta: list[float], time: SweepTime, own_batch: int | None) -> tuple[list[int], list[float], int]:
    """(batches and momenta to compare; how many runs of each combination, under each optimizer, the time holds).

    Args: momenta: the recipe's last; own_batch: the recipe's, where its own run has reached its target.
    """

    def num_runs(batches: Sequence[int], momenta: Sequence[float]) -> int:
        """How many runs of every combination fit."""
        sweep_s, times = time.for_the_sweep(batches), len(momenta) or 1

        def fits(number: int) -> bool:
            trials, repeats = _split(number)
            return times * time.of_each(batches, trials, repeats if number > 1 else 0) <= sweep_s

        return max(filter(fits, range(1, MOST_TRIALS + REPEATS + 1)), default=0)

    fine, coarse = candidates(profile, FINE), candidates(profile, COARSE)
    if len(fine) <= MOST_FINE and num_runs(fine, momenta) >= FEWEST_RUNS:
        return fine, momenta, num_runs(fine, momenta)
    fewest = [*_ever_fewer(coarse, momenta, time.one_at)]
    about_own = [] if own_batch is None else _ever_fewer(coarse, momenta, time.one_at, _nearest(own_batch, coarse))
    held = (choice for choice in chain(about_own, fewest) if num_runs(*choice) >= FEWEST_RUNS)
    batches, momenta = next(held, fewest[-1])
    return batches, momenta, num_runs(batches, momenta)


def fewest_sizes(profile: Profile, seconds_at: Callable[[int], float]) -> list[int]:
    """The batch sizes of the smallest sweep. Args: seconds_at: of a run at a batch."""
    *_, (batches, _) = _ever_fewer(candidates(profile, COARSE), [], seconds_at)
    return batches


def _ever_fewer(
    batches: list[int], momenta: list[float], seconds_at: Callable[[int], float], kept: int | None = None
) -> Iterator[tuple[list[int], list[float]]]:
    """Batches and momenta to compare, from all of them to the fewest. Args: seconds_at: of a run at a batch; kept: a size that stays."""
    yield batches, momenta
    while len(momenta) > 1 or len(batches) > FEWEST_BATCHES:
        if len(momenta) > 1 and len(batches) < FEWEST_WITH_MOMENTA:
            momenta = momenta[-1:]
        else:
            batches = _one_fewer(batches, seconds_at, kept)
        yield batches, momenta


def _one_fewer(batches: list[int], seconds_at: Callable[[int], float], kept: int | None) -> list[int]:
    """Without the dearer end, for the ends cost most, many steps below and many samples above; large batches are what is asked about, and go later.
    Where that end is kept one in between goes: that which leaves the sizes nearest to each other, of several such the dearest.
    """

    def without(left_out: int) -> list[int]:
        return [batch for batch in batches if batch != left_out]

    end = batches[-1] if seconds_at(batches[-1]) > 2 * seconds_at(batches[0]) else batches[0]
    if end != kept:
        return without(end)
    widest_gap = {batch: max(larger / smaller for smaller, larger in pairwise(without(batch))) for batch in batches[1:-1]}
    return without(min(widest_gap, key=lambda batch: (widest_gap[batch], -seconds_at(batch))))


def _nearest(own_batch: int, batches: Sequence[int]) -> int:
    """The size that is the fewest times larger or smaller; of two the larger, whose runs take fewer steps."""
    return min(batches, key=lambda batch: (max(batch, own_batch) / min(batch, own_batch), -batch))


def profiles_share(num_further: int) -> float:
    """Of a study's budget, for its profiles. Args: num_further: optimizers beside the recipe's."""
    return PROFILE_SHARE + FURTHER_PROFILE_SHARE * num_further


def budget_for(sweep_s: float, reference_s: float, num_further: int = 0, spent_s: float = 0.0) -> float:
    """Seconds of a budget that holds a sweep, as every larger one does: beside all that profiles and solutions may use of it.

    Args: reference_s: wall-clock seconds of the recipe's own run; num_further: optimizers that are compared with the recipe's; spent_s: of the
        budget by now, which may be more than is counted for what came before.
    """
    others = SOLUTIONS_SHARE + SHARPNESS_SHARE
    as_planned_s = (sweep_s + reference_s + AFTER_S) / (1 - others - profiles_share(num_further))
    return max(sweep_s / SWEEP_SHARE, as_planned_s, (spent_s + sweep_s + AFTER_S) / (1 - others))


def in_minutes(seconds: float) -> str:
    """As `--budget` takes it, rounded up."""
    return f"{int(seconds / 60) + 1}m"


def batches_of(sweep: SweepSpec) -> list[int]:
    """The batch sizes that a study's sweep compares."""
    return [batch for batch in sweep.each[BATCH] if isinstance(batch, int)]


def what_was_chosen(sweep: SweepSpec) -> str:
    """What was chosen, for a person."""
    batches = ", ".join(f"{batch:,}" for batch in batches_of(sweep))
    momenta = "".join(
        f", {name} {' and '.join(f'{value:g}' for value in sweep.each[field] if isinstance(value, float))}"
        for field, name in ((MOMENTUM, "momentum"), (HALF_LIVES[0], "half-lives of momentum (samples)"))
        if field in sweep.each
    )
    rates, seeds = sweep.num_trials, sweep.repeats
    under = f", under {' and '.join(sweep.optimizers)}" if sweep.optimizers else ""
    searched = f"{rates} learning rate{'s' if rates > 1 else ''}"
    at_most = "up to " if sweep.budget.rounds_seconds is not None and seeds > 1 else ""
    further = f"the best with {at_most}{seeds} further seed{'s' if seeds > 1 else ''}, which alone are reported"
    repeated = further if sweep.num_repeated else "a single seed"
    evaluated = f" Evaluated every {sweep.set[EVALUATES_EVERY]:g} epochs, to tell their times apart." if EVALUATES_EVERY in sweep.set else ""
    together = f" Searched {at_once} at a time, reported alone." if (at_once := sweep.resources.max_searching) else ""
    kept = " Momentum is not varied beside optimizers: a study of one alone compares it." if sweep.optimizers and not momenta else ""
    return f"Batch sizes {batches}{momenta}{under}: {searched} each, {repeated}.{kept}{evaluated}{together}"


def what_was_left_out(sweep: SweepSpec, profile: Profile, time: SweepTime, reference: RunResult) -> str:
    """The batch sizes that the budget did not hold, and one that does, for a person; empty where there are none. Args: profile: of the recipe."""
    batches, compared = candidates(profile), batches_of(sweep)
    if len(compared) >= len(batches):
        return ""
    has_momenta = len(batches) >= FEWEST_WITH_MOMENTA and any(field in sweep.each for field in (MOMENTUM, HALF_LIVES[0]))
    sweep_s = (2 if has_momenta else 1) * time.of_each(batches, *_split(FEWEST_RUNS))
    start_s = RAY_START_S if sweep.resources.gpus_per_worker else 0.0
    needed_s = budget_for(sweep_s, reference.summary.wall_seconds + start_s, len(sweep.optimizers), time.budget_s - time.left_s)
    needed_s = max(AHEAD * needed_s, time.budget_s)  # which did not hold them
    left_out = ", ".join(f"{batch:,}" for batch in batches if batch not in compared)
    return f"Left out, for the budget: {left_out}. A new study with --budget {in_minutes(needed_s)} compares all {len(batches)}."
