"""Shallue et al.'s three regimes of steps to target against batch size (arXiv:1811.03600, section 4.1).

On the fitted curve a doubling of the batch divides the steps by 2 (B + B_crit) / (2 B + B_crit): nearly two far
below B_crit, nearly one far above. The paper draws no numbers; ours are below.
"""

from enum import StrEnum

PERFECT = 1.8
"""A doubling that saves at least this factor of steps still scales as good as perfectly."""
NOTHING_LEFT = 1.2
"""A doubling that saves less than this factor buys next to nothing."""


class Regime(StrEnum):
    """Where a batch stands."""

    PERFECT_SCALING = "perfect scaling"
    DIMINISHING_RETURNS = "diminishing returns"
    MAXIMAL_DATA_PARALLELISM = "maximal data parallelism"


def gain_of_doubling(batch: float, critical_batch_size: float) -> float:
    """Steps at `batch` over steps at twice of it; 2 ... 1."""
    return 2 * (batch + critical_batch_size) / (2 * batch + critical_batch_size)


def regime(batch: float, critical_batch_size: float) -> Regime:
    """Which of the three regimes a batch is in."""
    gain = gain_of_doubling(batch, critical_batch_size)
    if gain >= PERFECT:
        return Regime.PERFECT_SCALING
    return Regime.DIMINISHING_RETURNS if gain >= NOTHING_LEFT else Regime.MAXIMAL_DATA_PARALLELISM


def edges(critical_batch_size: float) -> tuple[float, float]:
    """(batch where perfect scaling ends, batch where maximal data parallelism begins).

    From gain = g: B = B_crit (2 - g) / (2 (g - 1)).
    """

    def at(gain: float) -> float:
        return critical_batch_size * (2 - gain) / (2 * (gain - 1))

    return at(PERFECT), at(NOTHING_LEFT)
