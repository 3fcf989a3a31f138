"""Runs that differ in their seed alone, taken together; and the best of them at each batch size."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any

from largebatch.jobs.tasks.metric import Metric
from largebatch.tuning.results.analysis.crossing import Crossing, crossing
from largebatch.tuning.results.answers import Choice, Spread
from largebatch.tuning.results.run_result import RunResult


@dataclass(frozen=True)
class Configuration:
    """One choice of hyper-parameters and the runs that tried it.

    Costs are those to `target`, each run's own first evaluation that met it.
    """

    runs: tuple[RunResult, ...]
    """Those that count: the repeats, whose seeds did not choose it, where there are any."""
    target: float
    search_runs: tuple[RunResult, ...] = ()
    """Those by which a sweep chose it, kept apart from its repeats."""

    @property
    def first(self) -> RunResult:
        """Any of the runs, for what they share."""
        return self.runs[0]

    @property
    def metric(self) -> Metric:
        """What the runs are judged by."""
        return self.first.metric

    @property
    def global_batch_size(self) -> int:
        """Samples per step."""
        return self.first.summary.global_batch_size

    @cached_property
    def seconds(self) -> Spread:
        """Training seconds to the target."""
        return self._cost("training_seconds")

    @property
    def search_seconds(self) -> float | None:
        """The same of the run that chose it; None where that missed, or none is kept apart."""
        return replace(self, runs=self.search_runs).seconds.median if self.search_runs else None

    @cached_property
    def steps(self) -> Spread:
        """Optimizer steps to the target."""
        return self._cost("step")

    @cached_property
    def samples(self) -> Spread:
        """Samples to the target."""
        return self._cost("samples")

    def _cost(self, field: str) -> Spread:
        return spread([getattr(run.first_at(self.target), field, None) for run in self.runs])

    @cached_property
    def crossings(self) -> list[Crossing]:
        """Where its runs met the target, of those that did."""
        return [met for run in self.runs if (met := crossing(run, self.target)) is not None]

    @cached_property
    def best_score(self) -> Spread:
        """Best score of each run; one that was never evaluated ranks below the others."""
        return score_spread([run.summary.best_score for run in self.runs], self.metric)

    @property
    def reached_by_most(self) -> float | None:
        """The best score that more than half of the runs came to; None where no more were evaluated."""
        scores = [run.summary.best_score for run in self.runs]
        ranked = sorted(scores, key=lambda score: -math.inf if score is None else self.metric.goodness(score))
        return ranked[(len(ranked) - 1) // 2]

    @cached_property
    def train_score(self) -> Spread:
        """Of the final weights on the training set."""
        return score_spread([run.summary.train_score for run in self.runs], self.metric)

    @cached_property
    def noise_scale(self) -> float | None:
        """Median of the runs' gradient noise scales, in samples; None where half of them or more measured none."""
        return spread([run.summary.gradient_noise_scale for run in self.runs]).median

    @property
    def rank(self) -> tuple[float, float]:
        """Smaller is better: soonest to the target; where that is missed, the best."""
        seconds, best = self.seconds.median, self.best_score.median
        return (math.inf if seconds is None else seconds, math.inf if best is None else -self.metric.goodness(best))

    @property
    def standing(self) -> tuple[int, bool, bool, tuple[float, float]]:
        """Smaller is better, among those of one batch: first more seeds, then those that a search chose, then rank.

        A search tries many with one seed and repeats the best with others; a lucky single run must not win over those. Of several that were
        repeated (one for each momentum, say) those that reach the target stand first, and then the search's own runs decide: what was chosen
        by the repeats would be too favourable in them.
        """
        was_repeated = bool(self.search_runs)
        rank = replace(self, runs=self.search_runs).rank if was_repeated else self.rank
        return -len(self.runs), not was_repeated, was_repeated and self.seconds.median is None, rank

    @property
    def sureness(self) -> dict[str, tuple[float | None, float | None] | float]:
        """What a `Choice` says of how sure its costs are: intervals, none for a single seed, and how far evaluations lie apart."""
        costs = {"seconds": self.seconds, "samples": self.samples} if len(self.runs) > 1 else {}
        intervals = {f"{cost}_interval": (spread.low, spread.high) for cost, spread in costs.items()}
        met = self.crossings
        between = {"seconds": [met.seconds_interval for met in met], "samples": [float(met.interval) for met in met]}
        return {**intervals, **{f"{cost}_between_evaluations": median(values) for cost, values in between.items() if values}}

    @property
    def cost(self) -> Choice | None:
        """The configuration at what it costs to the target; None where half of the runs or more missed that."""
        seconds, samples = self.seconds.median, self.samples.median
        return None if seconds is None or samples is None else self.choice(seconds, samples).model_copy(update=self.sureness)

    def choice(self, seconds: float, samples: float) -> Choice:
        """The configuration as an answer has it, at a cost."""
        return Choice(
            global_batch_size=self.global_batch_size,
            seconds=seconds,
            samples=samples,
            learning_rate=self.first.learning_rate,
            momentum=self.first.momentum,
            momentum_half_life_samples=self.first.momentum_half_life_samples,
            optimizer=self.first.optimizer,
            num_seeds=len(self.runs),
            grows=self.first.grows,
        )


def spread(values: Sequence[float | None]) -> Spread:
    """A handful of runs as one figure: their median, misses ranked last, and an interval of at least 95 % for it; of too few for one, their range.

    The interval is that of order statistics: the r-th smallest and r-th largest of n enclose the median of any
    continuous distribution with probability 1 - 2 P(Binomial(n, 1/2) < r). From six runs on that reaches 95 %.

    Args: values: one per run, None for a miss; not empty.
    """
    ranked = sorted(math.inf if value is None else value for value in values)
    count = len(ranked)
    rank = 0  # how many values to leave out on each side
    while 2 * _binomial_below(count, rank + 2) <= 0.05 and rank + 1 < count - rank - 1:
        rank += 1
    middle, low, high = (value if math.isfinite(value) else None for value in (median(ranked), ranked[rank], ranked[-1 - rank]))
    return Spread(median=middle, low=low, high=high, num_reached=sum(map(math.isfinite, ranked)), num_runs=count)


def _binomial_below(count: int, bound: int) -> float:
    """P(Binomial(count, 1/2) < bound)."""
    return sum(math.comb(count, k) for k in range(bound)) / 2.0**count


def overlaps(one: Spread, other: Spread) -> bool:
    """Whether the intervals of two costs overlap, so that the seeds do not tell them apart; of two single seeds neither has one."""
    if max(one.num_runs, other.num_runs) < 2:
        return False
    lows, highs = ([math.inf if end is None else end for end in ends] for ends in ((one.low, other.low), (one.high, other.high)))
    return max(lows) <= min(highs)


def score_spread(scores: Sequence[float | None], metric: Metric) -> Spread:
    """Of scores, whichever way is better; None ranks below every number."""
    if metric.better == "lower":
        return spread(scores)
    return spread([None if score is None else -score for score in scores]).negated


def once_each(runs: Iterable[RunResult]) -> list[RunResult]:
    """The runs without those that were run again in the same setting with the same settings and seed: the last is the one measurement."""
    return list({(run.setting, run.settings, run.seed): run for run in runs}.values())


def configurations(runs: Iterable[RunResult], target: float) -> list[Configuration]:
    """The runs by configuration, by rising batch, best first within one."""
    members: dict[tuple[tuple[str, str], ...], dict[tuple[int, str], RunResult]] = {}
    for run in runs:
        # A configuration that was run again with a seed is one measurement, the last one, not two.
        members.setdefault(run.settings, {})[(run.seed, run.device)] = run
    made = [_configuration(list(by_seed.values()), target) for by_seed in members.values()]
    return sorted(made, key=lambda configuration: (configuration.global_batch_size, configuration.rank))


def _configuration(runs: Sequence[RunResult], target: float) -> Configuration:
    """Of runs that differ in their seed alone: those that chose it are kept apart, unless there are no others."""
    repeats, search_runs = (tuple(run for run in runs if run.chose is chose) for chose in (False, True))
    return Configuration(repeats, target, search_runs) if repeats else Configuration(search_runs, target)


def best_of_each_batch(tried: Sequence[Configuration]) -> list[Configuration]:
    """One configuration for each batch: of those with the most seeds, the best; by rising batch."""
    best: dict[int, Configuration] = {}
    for configuration in sorted(tried, key=lambda configuration: configuration.standing):
        best.setdefault(configuration.global_batch_size, configuration)
    return [best[batch] for batch in sorted(best)]


def target_of_all(runs: Sequence[RunResult]) -> float:
    """The best score that every compared choice reached in more than half of its runs, rounded to what is easier.

    A choice is an optimizer at a batch size under a batch schedule. As with a target that was given, its best configuration speaks for it, of those
    with the most seeds, and where a search chose them those. One of which half of the runs or more were never
    evaluated says nothing of it and is left out; where none says anything it is 0.
    """
    metric, choices = runs[0].metric, dict[tuple[Any, ...], list[Configuration]]()
    for tried in configurations(runs, math.nan):
        choices.setdefault((tried.first.optimizer, tried.global_batch_size, tried.first.batch_schedule), []).append(tried)
    of_choices: list[float | None] = []
    for members in choices.values():
        standing = min(tried.standing[:2] for tried in members)
        reached = [tried.reached_by_most for tried in members if tried.standing[:2] == standing]
        of_choices.append(max((score for score in reached if score is not None), key=metric.goodness, default=None))
    known = [score for score in of_choices if score is not None]
    if not known:
        return 0.0
    return rounded_to_easier(min(known, key=metric.goodness), metric)


def rounded_to_easier(score: float, metric: Metric) -> float:
    """The nearest round number that the score meets: three places of a fraction, four digits of any other score and of a fraction without three."""
    if not score:
        return 0.0
    places = 3 if metric.is_fraction and abs(score) >= 1e-3 else 3 - math.floor(math.log10(abs(score)))
    nearest = round(score, places)
    if metric.meets(score, nearest):
        return nearest
    return round(nearest + math.copysign(10.0**-places, -metric.goodness(1.0)), places)


def common_target(runs: Sequence[RunResult]) -> float | None:
    """The target that most runs were given, of those that no run ended short of; None where none was."""
    targets = [run.summary.target for run in runs if run.summary.target is not None]
    targets = [target for target in targets if not any(run.ended_short_of(target) for run in runs)]
    return max(set(targets), key=lambda target: (targets.count(target), target)) if targets else None
