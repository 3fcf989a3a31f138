"""A handful of runs as one figure: misses are later than every hit."""

import random

import pytest

from largebatch.tuning.results.analysis.intervals import spread
from largebatch.tuning.results.answers import Spread


@pytest.mark.parametrize(
    ("values", "median", "low", "high", "num_reached"),
    [
        ([3.0, 1.0, 2.0], 2.0, 1.0, 3.0, 3),
        ([4.0, 1.0, 2.0, 3.0], 2.5, 1.0, 4.0, 4),
        ([1.0, None, 2.0], 2.0, 1.0, None, 2),
        ([None, 5.0], None, 5.0, None, 1),
        ([None, None], None, None, None, 0),
    ],
)
def test_misses_rank_last_and_never_count_as_numbers(
    values: list[float | None], median: float | None, low: float | None, high: float | None, num_reached: int
) -> None:
    seeds = spread(values)
    assert seeds == Spread(median=median, low=low, high=high, num_reached=num_reached, num_runs=len(values))
    assert ("missed" if median is None else f"{num_reached} of {len(values)}") in seeds.text


@pytest.mark.parametrize("count", [6, 9, 15, 30])
def test_the_interval_holds_the_median_in_95_of_100(count: int) -> None:
    draws = random.Random(count)
    hits = 0
    for _ in range(1000):
        found = spread([draws.lognormvariate(0.0, 1.0) for _ in range(count)])
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 1.0 <= found.high
    # At least 95 %, less three standard deviations of a count of 1000.
    assert hits >= 929


def test_many_runs_give_a_shorter_interval_than_their_range() -> None:
    values = [float(number) for number in range(30)]
    found = spread(values)
    assert found.low is not None
    assert found.low > 5
