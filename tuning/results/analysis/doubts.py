"""What makes a fitted critical batch doubtful: that it is asked beyond the measured batches, and that the curves of batch sizes cross.

* Beyond: held to MLPerf Training's published points, the curve through the batches up to a half, or a quarter, of the largest misses the largest by
  what `AT_TWICE` and `AT_FOUR_TIMES` say; past the critical batch the real curves mostly bend up more than (1 + B / B_crit) does.
* Crossing: on that curve a larger batch never needs fewer samples, whatever the target. Under a rate that stays and falls late it may, at lower
  targets (arXiv:2601.05034): then every target has a critical batch of its own.
"""

from collections.abc import Sequence
from itertools import combinations
from statistics import median
from typing import NamedTuple

from largebatch.tuning.results.analysis.configurations import Configuration
from largebatch.tuning.results.analysis.crossing import crossing
from largebatch.tuning.results.answers import CriticalBatch, CurveCrossing
from largebatch.tuning.results.unit import Unit

AT_TWICE, AT_FOUR_TIMES = (-0.10, 0.07), (-0.27, 0.14)
"""Predicted over published samples, less one: the lowest and the highest of the tasks, at the next batch after a half, or a quarter, of it."""
NUM_LEVELS = 12
"""Of the score, at which curves are compared."""


def times_beyond(critical: CriticalBatch) -> float | None:
    """How many times the largest measured batch the critical batch is; None where it is not beyond."""
    if critical.largest_batch is None or critical.critical_batch_size <= critical.largest_batch:
        return None
    return critical.critical_batch_size / critical.largest_batch


def critical_in_words(critical: CriticalBatch, unit: Unit) -> str:
    """`412 samples (95 % interval 300 ... 640)`; `above 900 samples` where the fit's one number is no finding."""
    if critical.is_boundless:
        return beyond_in_words(critical.low, unit)
    high = "beyond what was measured" if critical.high is None else f"{unit.of(critical.high):,.0f}"
    return f"{size_in_words(critical.critical_batch_size, unit)} (95 % interval {unit.of(critical.low):,.0f} ... {high})"


def beyond_in_words(low: float, unit: Unit) -> str:
    """Of a critical batch that nothing bounds from above. Args: low: the lower end of its interval, in samples; 0 where there is none."""
    return f"above {unit.words(low)}, and how far above, the runs do not say" if low else "bounded by the runs on neither side"


def size_in_words(size: float, unit: Unit) -> str:
    """A batch that was fitted, which may be smaller than one sample."""
    return unit.words(size) if size >= 1 else f"less than {unit.words(1)}"


def bias_in_words() -> str:
    """How far such curves were off beyond what they were fitted to."""
    twice, four = (f"from {-low:.0%} too low to {high:.0%} too high" for low, high in (AT_TWICE, AT_FOUR_TIMES))
    return (
        f"on MLPerf's published points the samples of such curves came out {twice} at twice the largest batch that was fitted, {four} at four times"
    )


class _Needed(NamedTuple):
    """The samples that one batch's runs needed to a score."""

    samples: list[float]
    interval: float
    """Between evaluations, the widest."""


def crossing_curves(tried: Sequence[Configuration], target: float) -> CurveCrossing | None:
    """Two batches of which the larger needs fewer samples to a lower target and more to the target, or to one between; None where none are found.

    Beyond the seeds, whose ranges must lie apart, and beyond two evaluations. Args: tried: of one optimizer, one for each batch size, that reached
    the target; those of a single seed say nothing.
    """
    several = [each for each in tried if len(each.runs) > 1]
    if len(several) < 2:
        return None
    levels = _levels(several, target)
    for small, large in combinations(sorted(several, key=lambda each: each.global_batch_size), 2):
        signs = [_compare(_needed(small, level), _needed(large, level)) for level in levels]
        for number, sign in enumerate(signs):
            if sign < 0 and any(later > 0 for later in signs[number + 1 :]):
                return CurveCrossing(smaller_batch=small.global_batch_size, larger_batch=large.global_batch_size, at_score=levels[number])
    return None


def _levels(tried: Sequence[Configuration], target: float) -> list[float]:
    """Scores from where every run had been evaluated once up to the target, evenly apart."""
    metric = tried[0].metric
    firsts = [run.evaluations[0].score for each in tried for run in each.runs if run.evaluations]
    begin = max(firsts, key=metric.goodness)
    if metric.meets(begin, target):
        return []
    return [*(begin + (target - begin) * number / NUM_LEVELS for number in range(1, NUM_LEVELS)), target]


def _needed(tried: Configuration, level: float) -> _Needed | None:
    """None where some run never came so far."""
    met = [crossing(run, level) for run in tried.runs]
    known = [each for each in met if each is not None]
    return _Needed([each.samples for each in known], max(each.interval for each in known)) if len(known) == len(met) else None


def _compare(small: _Needed | None, large: _Needed | None) -> int:
    """1: the larger batch needs more; -1: fewer; 0: they are not told apart."""
    if small is None or large is None:
        return 0
    difference = median(large.samples) - median(small.samples)
    if abs(difference) <= max(small.interval, large.interval):
        return 0
    if max(small.samples) < min(large.samples):
        return 1
    return -1 if max(large.samples) < min(small.samples) else 0
