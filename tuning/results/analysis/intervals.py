"""A handful of runs as one figure: median, interval and count, with misses ranked last."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """What several seeds say together. A miss counts as later than every hit."""

    median: float | None
    """None where half of the runs or more missed."""
    low: float | None
    high: float | None
    """None where the interval reaches into the misses."""
    num_reached: int
    num_runs: int

    @property
    def text(self) -> str:
        """`12.3 (11.9 ... 13.0), 5 of 5`."""
        reached = f"{self.num_reached} of {self.num_runs}"
        if self.median is None:
            return f"missed ({reached} reached)"
        low, high = ("missed" if end is None else _digits(end) for end in (self.low, self.high))
        return f"{_digits(self.median)} ({low} ... {high}), {reached}"

    @property
    def negated(self) -> "Spread":
        """Of what is the better the larger, where misses rank below every hit."""
        median, low, high = (None if value is None else -value for value in (self.median, self.high, self.low))
        return Spread(median, low, high, self.num_reached, self.num_runs)


def _digits(value: float) -> str:
    """Four that count; whole numbers in full."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


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
    return Spread(_finite(middle), _finite(ranked[rank]), _finite(ranked[-1 - rank]), sum(map(math.isfinite, ranked)), count)


def _binomial_below(count: int, bound: int) -> float:
    """P(Binomial(count, 1/2) < bound)."""
    return sum(math.comb(count, k) for k in range(bound)) / 2.0**count


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
