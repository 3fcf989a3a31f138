"""Losses of batches whose rate is tuned each, from branches at several rates: of each order at the rate that the other orders choose.

The lowest of several noisy losses is too low, and the more so the more rates are tried: of three that are equal but for normal noise by 0.85 of its
standard deviations. So no order judges the rate that it has chosen. With L(k, r, j) the loss of the multiple k at the rate r in the order j,

    r(k, j)  = the rate of the lowest mean of L(k, r, i) over the orders i other than j
    L(k, j)  = L(k, r(k, j), j)

which is an unbiased loss of a rate that was chosen with one order less. A rate that diverged in any order is not chosen while there is another.

Short branches like low rates, which lower the noise at once and cost what they cost later: so the run's own batch is tuned as the others are.
"""

from typing import NamedTuple

import numpy as np

from largebatch.tuning.branch.critical import Losses

TRIED = (1.0, 0.5, 2.0)
"""The rates of each batch, times what the rule gives; the first is the rule's own."""


class Tuned(NamedTuple):
    """What tuning each multiple's rate comes to."""

    losses: Losses
    """(orders, multiples), as `critical_batch` takes them."""
    chosen: list[int]
    """For each multiple, the number of the rate that all orders together choose."""


def tuned_losses(by_rate: Losses) -> Tuned:
    """Args: by_rate: (orders, multiples, rates), at least two orders; infinite where a branch diverged."""
    num_orders = len(by_rate)
    has_diverged = ~np.isfinite(by_rate).all(axis=0)
    rows = np.arange(by_rate.shape[1])
    losses = np.empty(by_rate.shape[:2])
    for order in range(num_orders):
        others = np.delete(by_rate, order, axis=0).mean(axis=0)
        losses[order] = by_rate[order, rows, np.where(has_diverged, np.inf, others).argmin(axis=1)]
    losses[:, np.logical_and.reduce(has_diverged, axis=1)] = np.inf  # no rate trains in all orders
    return Tuned(losses, np.where(has_diverged, np.inf, by_rate.mean(axis=0)).argmin(axis=1).tolist())
