"""A handful of runs as one figure: median, interval and count, with misses ranked last."""

import math
from collections.abc import Sequence

from largebatch.tuning.results.answers import Spread


def spread(values: Sequence[float | None]) -> Spread:
    """Median and an interval of at least 95 % for it, where so many runs allow one; else their range.

    The interval is that of order statistics: the r-th smallest and r-th largest of n enclose the median of any
    continuous distribution with probability 1 - 2 P(Binomial(n, 1/2) < r). From six runs on that reaches 95 %.

    Args: values: one per run, None for a miss; not empty.
    """
    ranked = sorted(math.inf if value is None else value for value in values)
    count = len(ranked)
    rank = 0  # how many values to leave out on each side
    while 2 * _binomial_below(count, rank + 2) <= 0.05 and rank + 1 < count - rank - 1:
        rank += 1
    middle = ranked[count // 2] if count % 2 else (ranked[count // 2 - 1] + ranked[count // 2]) / 2
    median, low, high = (value if math.isfinite(value) else None for value in (middle, ranked[rank], ranked[-1 - rank]))
    return Spread(median=median, low=low, high=high, num_reached=sum(map(math.isfinite, ranked)), num_runs=count)


def _binomial_below(count: int, bound: int) -> float:
    """P(Binomial(count, 1/2) < bound)."""
    return sum(math.comb(count, k) for k in range(bound)) / 2.0**count
