"""The search of `largebatch find-rate`: the rate with the lowest loss on a logarithmic grid, and the rates that were tried next to it."""

import math
from collections.abc import Callable
from typing import NamedTuple

STRIDES = (4, 2, 1)
"""Factors 4, 2 and the root of 2 between neighbours, as powers of the root of 2."""
MOST_MOVES = 8
"""With each stride: of factor 4 from the first rate to one 65,536 times as high or low."""


class FoundRate(NamedTuple):
    """The learning rate that a search has found, and between which others the best one lies."""

    rate: float
    """The one with the lowest loss."""
    low: float | None
    """Tried next below; None where the search ended at its lowest rate. Between the two, or up to `high`, a lower loss may lie."""
    high: float | None
    """The same above."""
    losses: dict[float, float]
    """Of every rate that was tried, by rising rate; infinite where it diverged."""


def find_rate(loss_of: Callable[[float], float], first: float) -> FoundRate | None:
    """Try `first` and its neighbours, move to whichever has the lowest loss until both its neighbours are worse, and so on with closer neighbours.

    Of equal losses the lower rate's counts. Args: loss_of: infinite for a rate that diverges. Returns: None where every rate does.
    """
    losses = {0: loss_of(first)}

    def rate_at(place: int) -> float:
        return float(f"{first * 2 ** (place / 2):.3g}") if place else first

    def best() -> int:
        return min(losses, key=lambda place: (losses[place], place))

    for stride in STRIDES:
        for _ in range(MOST_MOVES):
            middle = best()
            for place in (middle - stride, middle + stride):
                if place not in losses:
                    losses[place] = loss_of(rate_at(place))
            if best() == middle:
                break
    if math.isinf(losses[best()]):
        return None
    tried, chosen = sorted(losses), sorted(losses).index(best())
    low, high = (None if number in (-1, len(tried)) else rate_at(tried[number]) for number in (chosen - 1, chosen + 1))
    return FoundRate(rate_at(best()), low, high, {rate_at(place): losses[place] for place in tried})
