"""What a set of runs says: the best of each batch size under each optimizer, the frontiers, the critical batch, the advice."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

from largebatch.jobs.errors import InputError
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.tasks.metric import Metric
from largebatch.tuning.results.analysis.advice import Cost, Limit, Partial, advise, frontier, tied_by
from largebatch.tuning.results.analysis.configurations import (
    Configuration,
    best_of_each_batch,
    common_target,
    configurations,
    once_each,
    score_spread,
    target_of_all,
)
from largebatch.tuning.results.analysis.critical_batch import fit_critical_batch
from largebatch.tuning.results.analysis.doubts import crossing_curves
from largebatch.tuning.results.analysis.growing import growth_advice
from largebatch.tuning.results.answers import Advice, Choice, CriticalBatch, CurveCrossing, GrowthAdvice, ScorePoint, Setting
from largebatch.tuning.results.background import BegunFrom, begun_from, branched_runs
from largebatch.tuning.results.collect import collect
from largebatch.tuning.results.run_folders import ended_runs, failures_in_words
from largebatch.tuning.results.run_result import RunResult, differences, settings_of
from largebatch.tuning.results.unit import Unit, unit_of


class NothingEndedError(InputError):
    """No run has ended."""

    missing: tuple[str, ...] = ()
    """What is known of those that have not, in sentences."""

    @classmethod
    def beside(cls, missing: Sequence[str]) -> "NothingEndedError":
        """The error, where so much is known."""
        hint = "" if missing else "Wait for one, or run `largebatch sweep`."
        nothing = cls("runs", " ".join(["there is no run that has ended.", *missing]), hint)
        nothing.missing = tuple(missing)
        return nothing


@dataclass(frozen=True)
class Findings:
    """Runs of one setting, analysed. Build with `find`."""

    setting: Setting
    target: float
    target_is_chosen: bool
    """Nobody gave it: it is what every choice that is compared reached."""
    runs: tuple[RunResult, ...]
    other_settings: dict[Setting, int]
    """Runs that may not be put on the same axes, and how many."""
    limits: Mapping[Cost, float]
    """What may be spent of a cost, asked about beside."""
    missing: Sequence[str]
    """What is known not to be there, in sentences."""
    begun_from: BegunFrom | None = None
    """The recipe that the runs are held against; None where it is not known."""

    @property
    def metric(self) -> Metric:
        """What target and scores are of."""
        return self.runs[0].metric

    @cached_property
    def unit(self) -> Unit:
        """What batches and costs are told in."""
        return unit_of(run.summary.tokens_per_sample for run in self.runs)

    @cached_property
    def configurations(self) -> list[Configuration]:
        """Every choice of hyper-parameters, by rising batch."""
        return configurations(self.runs, self.target)

    @cached_property
    def by_optimizer(self) -> dict[str, "Findings"]:
        """The same of each optimizer's runs alone, in the order of their first runs."""
        names = list(dict.fromkeys(run.optimizer for run in self.runs))
        if len(names) == 1:
            return {names[0]: self}
        own = self.run_as_it_was.optimizer if self.run_as_it_was else None
        runs = {name: tuple(run for run in self.runs if run.optimizer == name) for name in names}
        return {name: replace(self, runs=of_name, begun_from=self.begun_from if name == own else None) for name, of_name in runs.items()}

    @property
    def compares_optimizers(self) -> bool:
        """Whether there are several."""
        return len(self.by_optimizer) > 1

    @cached_property
    def leading(self) -> "Findings":
        """Those of the optimizer that is soonest; where none reached the target, that came nearest."""
        return self.by_optimizer[min(self.best, key=lambda best: best.rank).first.optimizer]

    @cached_property
    def differing(self) -> list[str]:
        """Fields in which the runs differ beside batch, rate, momentum and optimizer."""
        return [*differences(self.runs)]

    @cached_property
    def best(self) -> list[Configuration]:
        """The best of each batch size under each optimizer: optimizer by optimizer, by rising batch."""
        if self.compares_optimizers:
            return [best for side in self.by_optimizer.values() for best in side.best]
        return best_of_each_batch(self.configurations)

    @cached_property
    def reached(self) -> list[Configuration]:
        """The best of each batch size that reached the target; where half of the runs miss, those that hit are the lucky ones."""
        return [best for best in self.best if best.seconds.median is not None]

    @cached_property
    def fitted(self) -> list[Configuration]:
        """The best of each batch size among the runs whose batch stays: of one that grows there is no one batch that its samples are of."""
        if self.compares_optimizers:
            return [best for side in self.by_optimizer.values() for best in side.fitted]
        return best_of_each_batch([tried for tried in self.configurations if not tried.first.grows])

    @cached_property
    def fitted_reached(self) -> list[Configuration]:
        """Those of them that reached the target."""
        return [best for best in self.fitted if best.seconds.median is not None]

    @cached_property
    def crossed(self) -> list[Configuration]:
        """Those of which it is known where most runs crossed the target: between two evaluations, not before the first."""
        return [best for best in self.fitted_reached if 2 * sum(met.is_between for met in best.crossings) > len(best.crossings)]

    @cached_property
    def chosen_by_their_runs(self) -> list[Configuration]:
        """The best of those batch sizes at which runs that count chose among several settings."""

        def choice(of: Configuration) -> tuple[Any, ...]:
            return of.global_batch_size, of.first.optimizer, of.first.batch_schedule

        tried = Counter(map(choice, self.configurations))
        return [best for best in self.best if tried[choice(best)] > 1 and not best.search_runs]

    @cached_property
    def other_schedules(self) -> list[Configuration]:
        """What reached the target at a batch size whose best has another batch schedule, such as one that grows: of each schedule the best."""
        if self.compares_optimizers:
            return [other for side in self.by_optimizer.values() for other in side.other_schedules]
        told = {best.global_batch_size: best.first.batch_schedule for best in self.best}
        others: dict[tuple[Any, ...], Configuration] = {}
        for tried in sorted(self.configurations, key=lambda configuration: configuration.standing):
            if tried.first.batch_schedule != told[tried.global_batch_size] and tried.cost:
                others.setdefault((tried.global_batch_size, tried.first.batch_schedule), tried)
        return [*others.values()]

    @cached_property
    def missed(self) -> list[Configuration]:
        """The best of each batch size that missed the target."""
        return [best for best in self.best if best.seconds.median is None]

    @cached_property
    def choices(self) -> list[Choice]:
        """What each batch size that reached the target costs."""
        return [self._choice(best, best.seconds.median or 0.0, best.samples.median or 0.0, best.sureness) for best in self.reached]

    @cached_property
    def run_as_it_was(self) -> RunResult | None:
        """The run of the recipe as it was, which answers hold the others against; None where there is none, or it stands on another axis."""
        run = self.begun_from.run if self.begun_from else None
        return run if run is not None and run.setting == self.runs[0].setting else None

    @cached_property
    def as_it_was(self) -> Choice | None:
        """What the recipe as it was costs, trained once; None where that is not known, or missed the target."""
        return Configuration((self.run_as_it_was,), self.target).cost if self.run_as_it_was else None

    @cached_property
    def counted_as_it_was(self) -> Choice | None:
        """The recipe as it was, where answers count it among the choices: not where the search tried its batch and optimizer, and found no worse."""
        own = self.as_it_was
        alike = next((choice for choice in self.choices if own is not None and choice.is_same_step(own)), None)
        if own is None or alike is None:
            return own
        return own if own.samples < alike.samples and tied_by(own, alike, ["samples"]) is None else None

    @cached_property
    def considered(self) -> list[Choice]:
        """What answers choose among: what was searched, by rising batch, and the recipe as it was."""
        own = self.counted_as_it_was
        if own is None:
            return self.choices
        others = [choice for choice in self.choices if not choice.is_same_step(own)]
        return sorted([*others, own], key=lambda choice: choice.global_batch_size)

    def runs_of(self, choice: Choice) -> Configuration:
        """The runs that one of `choices` speaks for."""
        return next(best for best in self.reached if (best.global_batch_size, best.first.optimizer) == (choice.global_batch_size, choice.optimizer))

    def _choice(self, tried: Configuration, seconds: float, samples: float, sureness: Mapping[str, Any] = MappingProxyType({})) -> Choice:
        """A configuration as an answer has it, at a cost."""
        return tried.choice(seconds, samples).model_copy(update={**sureness, "others": tried.first.values_of(self.differing)})

    def measured_seconds(self, optimizer: str) -> dict[int, float]:
        """Seconds to the target of each batch size that reached it under an optimizer; empty for one that no run had."""
        side = self.by_optimizer.get(optimizer)
        return {choice.global_batch_size: choice.seconds for choice in side.choices} if side else {}

    @cached_property
    def critical_batch(self) -> CriticalBatch | None:
        """Fitted to where the runs crossed the target, of the batches that stay, whose median reached it, and not at their first evaluation; None
        for fewer than three such batches.

        Of several optimizers that of the soonest: each has a curve of its own.
        """
        if self.compares_optimizers:
            return self.leading.critical_batch
        points = [(best.global_batch_size, met.samples) for best in self.crossed for met in best.crossings]
        fitted = fit_critical_batch([batch for batch, _ in points], [samples for _, samples in points])
        return fitted and fitted.model_copy(update={"optimizer": self.runs[0].optimizer})

    @cached_property
    def curve_crossing(self) -> CurveCrossing | None:
        """Two batch sizes whose curves cross below the target; of several optimizers those of the soonest."""
        return self.leading.curve_crossing if self.compares_optimizers else crossing_curves(self.fitted_reached, self.target)

    @cached_property
    def noise_scale(self) -> float | None:
        """Median over the batches that measured it, in samples; of several optimizers that of the soonest."""
        if self.compares_optimizers:
            return self.leading.noise_scale
        scales = [best.noise_scale for best in self.best if best.noise_scale is not None]
        return median(scales) if scales else None

    @cached_property
    def advice(self) -> list[Advice]:
        """Soonest, cheapest, knee, and within the limits that were given."""
        return advise(self.considered, [Limit(cost, most, self._by(cost, most)) for cost, most in self.limits.items()], self.unit)

    @cached_property
    def growing(self) -> list[GrowthAdvice]:
        """Whether the batch should grow while training, by optimizer."""
        return growth_advice(self.runs, branched_runs(self.runs), self.unit)

    def _by(self, cost: Cost, most: float) -> list[Partial]:
        """How good each batch had become within a limit, under each optimizer: its best configuration, of those with the most seeds."""
        partials = [(tried, partial) for tried in self.configurations if (partial := self._partial(tried, cost, most)) is not None]
        best: dict[tuple[int, str], Partial] = {}
        for _, partial in sorted(partials, key=lambda of: (-len(of[0].runs), not of[0].search_runs, -self.metric.goodness(of[1].score))):
            best.setdefault((partial.choice.global_batch_size, partial.choice.optimizer), partial)
        return [best[key] for key in sorted(best)]

    def _partial(self, tried: Configuration, cost: Cost, most: float) -> Partial | None:
        """How far a configuration had come; None where half of its runs had not been evaluated by then, which ranks below the others."""
        within = [[at for at in run.evaluations if (at.training_seconds if cost == "seconds" else at.samples) <= most] for run in tried.runs]
        tops = [max(points, key=lambda at: tried.metric.goodness(at.score), default=None) for points in within]
        scores = score_spread([None if top is None else top.score for top in tops], tried.metric)
        if scores.median is None:
            return None
        evaluated = [top for top in tops if top is not None]
        seconds, samples = median(top.training_seconds for top in evaluated), median(top.samples for top in evaluated)
        return Partial(self._choice(tried, seconds, samples), scores.median, tried.metric, (scores.low, scores.high) if len(tops) > 1 else None)

    @cached_property
    def score_frontier(self) -> list[ScorePoint]:
        """Time against score: at each point no run of any batch had been as good sooner."""
        points = [
            ScorePoint(seconds=at.training_seconds, score=at.score, global_batch_size=run.summary.global_batch_size, optimizer=run.optimizer)
            for run in self.runs
            for at in run.evaluations
        ]
        return [points[number] for number in frontier([(point.seconds, -self.metric.goodness(point.score)) for point in points])]

    @cached_property
    def cost_frontier(self) -> list[Choice]:
        """Time against samples to the target."""
        return [self.considered[number] for number in frontier([(choice.seconds, choice.samples) for choice in self.considered])]


def find(
    runs: Sequence[RunResult],
    target: float | None = None,
    *,
    limits: Mapping[Cost, float] = MappingProxyType({}),
    missing: Sequence[str] = (),
    begun_from: BegunFrom | None = None,
) -> Findings:
    """Analyse runs: those of the setting that has most; the others are named, never mixed in.

    Args:
        target: in the runs' headline metric; default the one that most runs were given, of those that none ended short of; else what every choice
            that is compared reached.
        limits: what may be spent of a cost, each a question more.
        missing: what is known not to be there, in sentences.
        begun_from: the recipe that the runs are held against.
    Raises: NothingEndedError if there is nothing to analyse.
    """
    whole = [run for run in runs if run.summary.outcome.is_result]
    num_failed = sum(run.summary.outcome is Outcome.FAILED for run in runs)
    num_stopped = len(runs) - len(whole) - num_failed
    left_out = [f"Left out: {num_stopped} {'run that was' if num_stopped == 1 else 'runs that were'} ended early."] if num_stopped else []
    if num_failed:
        left_out.append(f"Left out: {num_failed} {'run' if num_failed == 1 else 'runs'} that failed.")
    missing = [*left_out, *missing]
    if not whole:
        raise NothingEndedError.beside(missing)
    num_ended, whole = len(whole), once_each(whole)
    if num_repeated := num_ended - len(whole):
        were = "1 run whose settings and seed are" if num_repeated == 1 else f"{num_repeated} runs whose settings and seeds are"
        missing = [f"Left out: {were} those of a later one, which counts.", *missing]
    by_setting = settings_of(whole)
    setting, largest = next(iter(by_setting.items()))
    others = {other: len(members) for other, members in by_setting.items() if other != setting}
    given = common_target(largest) if target is None else target
    target = target_of_all(largest) if given is None else given
    own_run = [begun_from.run] if begun_from is not None and begun_from.run is not None and begun_from.run.setting == largest[0].setting else []
    _refuse_runs_that_ended_short([*largest, *own_run], target)
    _refuse_what_needs_no_training(largest, target)
    _refuse_clocks_that_stand(largest, target)
    return Findings(setting, target, given is None, tuple(largest), others, limits, missing, begun_from)


def _refuse_runs_that_ended_short(runs: Sequence[RunResult], target: float) -> None:
    """Raise InputError where runs ended at an easier target of their own: they did not miss it, and who passed both at once was lucky."""
    short = [run for run in runs if run.ended_short_of(target)]
    if not short:
        return
    metric, own = runs[0].metric, [run.summary.target for run in short if run.summary.target is not None]
    easiest = min(own, key=metric.goodness)
    ended = f"{len(short)} of {len(runs)} runs ended at their own target, {metric.name} {easiest:g}"
    hint = f"Give {easiest:g} or an easier one, or train these runs on, with stop.at_target false."
    raise InputError("--target", f"{ended}, before they came to {target:g}: when they would have is not known.", hint)


def _refuse_what_needs_no_training(runs: Sequence[RunResult], target: float) -> None:
    """Raise InputError for a target that an evaluation before the first step met: no cost of training to it exists."""
    begun = sum(any(not at.samples and run.metric.meets(at.score, target) for at in run.evaluations) for run in runs)
    if begun:
        met = f"{runs[0].metric.name} {target:g} was met before the first step by {begun} of {len(runs)} runs"
        raise InputError("--target", f"{met}: what training to it costs is not known.", "Give a harder one.")


def _refuse_clocks_that_stand(runs: Sequence[RunResult], target: float) -> None:
    """Raise InputError where another program's clock counted nothing up to the target: no cost stands in a ratio to 0 s."""
    standing = sum(at is not None and at.training_seconds <= 0 for at in (run.first_at(target) for run in runs))
    if standing:
        problem = f"{standing} of {len(runs)} runs met the target after 0 s or less by their clock, so what training to it costs is not known."
        hint = "Of MLflow's runs name a metric that counts training seconds (`seconds` of --mapping); leave out runs whose clock did not run."
        raise InputError("runs", problem, hint)


def find_in(folder: Path, target: float | None = None) -> Findings:
    """Analyse a sweep's folder: its ended runs, and a word on those that failed. Raises: NothingEndedError."""
    return find(collect(ended_runs(folder)), target, missing=failures_in_words(folder), begun_from=begun_from(folder))
