"""The critical batch of a checkpoint from its branches: the largest batch without loss, with its interval.

Merrill et al. (arXiv:2505.23971, section 3) branch a run at multiples of its batch and call critical the largest whose smoothed loss, after the
same samples, is within a tolerance of the best. Here L(k, j) is the smoothed loss of the multiple k in the order j of samples, and

    e(k)  = mean over j of L(k, j) - L(1, j)           the excess of k; of the same samples, so that much of their noise falls out
    tau   = standard deviation over j of L(1, j)       what another order of the samples would have changed anyhow
    B*    = B k*,  e(k*) = tau                         where the excess passes the tolerance

e is made to rise with k (isotonic least squares), is 0 at k = 1, and is read between two multiples as a straight line in the batch: the
excess of a step that is too long grows with its first power, or faster. tau does not shrink with the number of orders: more of them tell
B* more closely, they do not move it. A tolerance may be given instead, in the unit of the loss.

The standard deviation s of few numbers is mostly too low, of two in the median 0.67 of the true one, of four 0.89, and B* with it: of planted
quadratics the median answer was 0.76, 0.86 and 0.91 of the truth with 2, 3 and 4 orders. So tau is s over the median of such an s of normal numbers
whose deviation is 1, and the medians are 0.97 to 1.06, 0.95 to 1.00 and 0.99. With two orders half of the answers are still some 30 % off or more.

The interval is a bootstrap over the orders, in its parametric form, for of three or four rows a resampling with replacement knows too
little (Efron and Tibshirani, 1993, chapters 6 and 12): the means are drawn from the multivariate t distribution with the rows' own
covariance, tau from its scaled chi distribution, and B* is read anew from each draw. Where the excess leaps, as where a branch diverges, all that
is known is that training breaks between two multiples: the line puts B* at the lower, the largest batch that was seen without loss, or a little
above it, and the interval reaches to the upper.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from largebatch.tuning.results.answers import Answer

NUM_DRAWS = 2000
HELD = 0.98
"""The share of draws between the interval's ends. With 0.95, intervals of planted quadratics, whose losses are skewed, held the truth in 92 to
100 of 100 trials, by case and number of orders."""
LEAP = 10.0
"""Tolerances. An excess that goes from below one to beyond so many within one multiple, or to infinity, is no line: that multiple is where training
breaks, and it may do so anywhere between the two."""
Losses = NDArray[np.float64]


class BranchedBatch(Answer):
    """The critical batch at one place of a run."""

    critical_batch_size: float | None
    """In samples; None: above every batch that was tried."""
    low: float
    high: float | None
    """Ends of the 95 % interval; None: above every batch that was tried."""
    tolerance: float
    """tau, in the unit of the loss."""
    excess: dict[int, float | None]
    """e by batch; None where a branch diverged."""
    excess_errors: dict[int, float | None]
    """Standard errors of the excess."""
    loss: float
    """Mean over the orders of the loss at the run's own batch."""
    num_orders: int


def critical_batch(losses: Losses, multiples: Sequence[int], global_batch_size: int, tolerance: float | None = None) -> BranchedBatch:
    """The critical batch from smoothed losses.

    Args:
        losses: (orders, multiples), at least two orders; infinite where a branch diverged, never in the first column.
        multiples: of the batch, by rising size; the first is 1.
        tolerance: in place of the measured tau.
    """
    num_orders = len(losses)
    with np.errstate(invalid="ignore"):
        excess = losses[:, 1:] - losses[:, :1]
    mean, freedom = excess.mean(axis=0), num_orders - 1
    num_finite = int(np.isfinite(mean).cumprod().sum())
    ks = np.asarray(multiples, dtype=float)
    spread = float(losses[:, 0].std(ddof=1))
    median_spread = float(np.sqrt(2 * gammaincinv(freedom / 2, 0.5) / freedom))  # of freedom + 1 normal numbers whose deviation is 1
    tau = spread / median_spread if tolerance is None else tolerance

    draws = np.random.default_rng(0)
    deviations = (excess[:, :num_finite] - mean[:num_finite]) / np.sqrt(freedom)  # d' d is the covariance of a row
    scale, tau_scale = (np.sqrt(freedom / draws.chisquare(freedom, NUM_DRAWS)) for _ in range(2))
    shifts = draws.normal(size=(NUM_DRAWS, num_orders)) @ deviations * (scale / np.sqrt(num_orders))[:, None]
    drawn_mean = np.concatenate([mean[:num_finite] + shifts, np.full((NUM_DRAWS, len(mean) - num_finite), np.inf)], axis=1)
    drawn = _crossings(drawn_mean, spread * tau_scale if tolerance is None else np.full(NUM_DRAWS, tau), ks)
    outside = int((1 - HELD) / 2 * NUM_DRAWS)
    low, high = np.sort(drawn.earliest)[outside], np.sort(drawn.latest)[-1 - outside]

    def in_samples(multiple: float) -> float | None:
        return float(multiple * global_batch_size) if np.isfinite(multiple) else None

    batches = [global_batch_size * multiple for multiple in multiples[1:]]
    errors = [float(column.std(ddof=1) / np.sqrt(num_orders)) if np.isfinite(column).all() else None for column in excess.T]
    return BranchedBatch(
        critical_batch_size=in_samples(_crossings(mean[None], np.array([tau]), ks).earliest[0]),
        low=in_samples(min(low, ks[-1])) or 0.0,
        high=in_samples(high),
        tolerance=tau,
        excess={batch: float(value) if np.isfinite(value) else None for batch, value in zip(batches, mean, strict=True)},
        excess_errors=dict(zip(batches, errors, strict=True)),
        loss=float(losses[:, 0].mean()),
        num_orders=num_orders,
    )


class Crossings(NamedTuple):
    """Where rows of excesses pass their tolerances, as multiples; infinite where they never do."""

    earliest: Losses
    """On a straight line from the multiple before: an excess that bends upwards passes later, never earlier."""
    latest: Losses
    """The same, but for a row that leaps from below the tolerance to beyond `LEAP` of them: the multiple that it leaps to."""


def _crossings(excess: Losses, tolerances: Losses, multiples: Losses) -> Crossings:
    """Where each row's excess passes its tolerance. Args: excess: (rows, multiples without the first); tolerances: (rows,)."""
    rising = np.concatenate([np.zeros((len(excess), 1)), np.maximum(_isotonic(excess), 0.0)], axis=1)
    above = rising > tolerances[:, None]
    last = np.clip(above.argmax(axis=1), 1, None)
    rows = np.arange(len(excess))
    below, beyond = rising[rows, last - 1], rising[rows, last]
    with np.errstate(invalid="ignore", divide="ignore"):  # rows that never pass
        share = (tolerances - below) / (beyond - below)
        crossed = multiples[last - 1] + (multiples[last] - multiples[last - 1]) * share
    earliest = np.where(above.any(axis=1), crossed, np.inf)
    leaps = above.any(axis=1) & (beyond > LEAP * tolerances)
    return Crossings(earliest, np.where(leaps, multiples[last], earliest))


def _isotonic(values: Losses) -> Losses:
    """Each row's rising sequence that is nearest by least squares: max over a <= i of min over b >= i of mean(a ... b).

    Barlow et al., Statistical inference under order restrictions (1972), section 1.2; an infinite value makes all after it infinite.
    """
    count = values.shape[1]
    sums = np.concatenate([np.zeros((len(values), 1)), np.where(np.isfinite(values), values, 0.0).cumsum(axis=1)], axis=1)
    is_finite = np.isfinite(values).cumprod(axis=1).astype(bool)
    means = np.stack(
        [[(sums[:, b + 1] - sums[:, a]) / (b + 1 - a) if b >= a else np.full(len(values), np.inf) for b in range(count)] for a in range(count)]
    )
    means = np.where(is_finite.T[None], means, np.inf)
    fitted = [means[: i + 1, i:].min(axis=1).max(axis=0) for i in range(count)]
    return np.where(is_finite, np.stack(fitted, axis=1), np.inf)
