"""The critical batch size: where a larger batch stops buying steps, and the regimes below and above it.

McCandlish et al., arXiv:1812.06162, eq. 2.11: with S steps and E = S B samples to one target,

    (S / S_min - 1) (E / E_min - 1) = 1,    B_crit = E_min / S_min,

which for the points of one curve is the line E = E_min (1 + B / B_crit), or S = S_min (1 + B_crit / B).

Errors are multiplicative (runs at every batch vary by so many per cent), so the fit is least squares of log E:
for one B_crit the best log E_min is a mean, and what is left is a search over B_crit alone.

Shallue et al. (arXiv:1811.03600, section 4.1) see three regimes of steps to target against batch size. On the fitted curve
a doubling of the batch divides the steps by 2 (B + B_crit) / (2 B + B_crit): nearly two far below B_crit, nearly one far
above. That paper draws no numbers; ours are below.
"""

import math
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from largebatch.jobs.errors import InputError
from largebatch.tuning.results.answers import CriticalBatch

GRID = 600
NUM_BOOTSTRAP = 2000
FINE = 1e-3
"""Points that lie on the curve this closely leave nothing to draw errors from; the grid is no finer."""
ROWS_AT_ONCE = 128
"""Of a bootstrap's draws: their squares at all points of the grid, 600 kB, stay in a core's cache."""
WIDEST = 1e3
"""How far beyond the measured batches B_crit is looked for, as a factor."""
PERFECT = 1.8
"""A doubling that saves at least this factor of steps still scales as good as perfectly."""
NOTHING_LEFT = 1.2
"""A doubling that saves less than this factor buys next to nothing."""


class Regime(StrEnum):
    """Where a batch stands."""

    PERFECT_SCALING = "perfect scaling"
    DIMINISHING_RETURNS = "diminishing returns"
    MAXIMAL_DATA_PARALLELISM = "maximal data parallelism"


def regime(batch: float, critical_batch_size: float) -> Regime:
    """Which of the three regimes a batch is in."""
    perfect, maximal = edges(critical_batch_size)
    if batch <= perfect:
        return Regime.PERFECT_SCALING
    return Regime.DIMINISHING_RETURNS if batch <= maximal else Regime.MAXIMAL_DATA_PARALLELISM


def edges(critical_batch_size: float) -> tuple[float, float]:
    """(batch where perfect scaling ends, batch where maximal data parallelism begins).

    Where a doubling divides the steps by g: B = B_crit (2 - g) / (2 (g - 1)).
    """
    perfect, maximal = (critical_batch_size * (2 - gain) / (2 * (gain - 1)) for gain in (PERFECT, NOTHING_LEFT))
    return perfect, maximal


def fit_critical_batch(batches: Sequence[float], samples: Sequence[float], seed: int = 0) -> CriticalBatch | None:
    """The curve through (global batch size, samples to target), one point a run; None for fewer than three batches.

    The interval is a residual bootstrap's, studentised (Efron and Tibshirani, chapter 12): with few points a
    percentile interval is too short. Residuals of a handful of runs hold no wide errors, which left it at about 94 %, so
    it is never narrower than where the sum of squares passes its F bound, which is right for normal errors.
    Runs that missed have no place on the curve: leave them out, and say so.

    What a batch's settings miss the best by, its seeds share: as independent points they would make the interval too short, and the more so the more
    seeds there are (of 10 % shared beside 5 % of each run's own, three seeds at six batches, intervals held the truth in 70 of 100 trials; now in
    96). So where batches lie farther from the curve than their own seeds explain, each counts as one point, the mean of its runs, besides.

    All of this takes errors to be of one size at every batch. Where there are seeds, the interval is never narrower than where theirs allow it (of
    errors from 2 % at the smallest batch to 30 % at the largest, three to five seeds, it held the truth in 86 to 91 of 100 trials; now in 94). Of
    single seeds nothing tells one batch's error from another's, and it holds the truth in 87.

    Raises: InputError for what is no batch size, or no number of samples.
    """
    _refuse_points(batches, samples)
    if len(set(batches)) < 3:
        return None
    batch, log_samples = np.asarray(batches, dtype=float), np.log(np.asarray(samples, dtype=float))
    of_runs = _fit_points(batch, log_samples, seed)
    sizes, members, counts = np.unique(batch, return_inverse=True, return_counts=True)
    means = np.bincount(members, log_samples) / counts
    off_curve = means - np.log1p(sizes / of_runs.critical_batch_size) - np.log(of_runs.min_samples)
    own = float(((log_samples - means[members]) ** 2).sum()) * (len(sizes) - 2)
    if float((counts * off_curve**2).sum()) * (len(batch) - len(sizes)) <= own:
        return of_runs
    of_means = _fit_points(sizes, means, seed)
    highs = [fit.high for fit in (of_runs, of_means) if fit.high is not None]
    widest = {"low": min(of_runs.low, of_means.low), "high": max(highs) if len(highs) == 2 else None}
    return of_means.model_copy(update={**widest, "error": of_runs.error, "num_points": len(batch)})


def _refuse_points(batches: Sequence[float], samples: Sequence[float]) -> None:
    if len(batches) != len(samples):
        raise InputError("samples", f"has {len(samples)} numbers for {len(batches)} batches.", "Give one for each run.")
    for field, numbers in (("batches", batches), ("samples", samples)):
        for batch, number in zip(batches, numbers, strict=True):
            if number is None or not 0 < float(number) < math.inf:
                raise InputError(field, f"has {number} at batch {batch}, and is a number above 0.", "Leave out runs that missed the target.")


def _fit_points(batch: NDArray[np.float64], log_samples: NDArray[np.float64], seed: int) -> CriticalBatch:
    """The curve through points whose errors are independent."""
    grid = np.geomspace(batch.min() / WIDEST, batch.max() * WIDEST, GRID)
    log_grid = np.log(grid)
    curves = np.log1p(batch[None, :] / grid[:, None])  # (grid, points)
    curves_c = curves - curves.mean(axis=1, keepdims=True)
    indices, deviations = _fit(curves_c, log_samples[None, :])
    log_critical, deviation = float(np.interp(indices[0], np.arange(GRID), log_grid)), float(deviations[0])
    curve = np.log1p(batch / np.exp(log_critical))
    log_min = float((log_samples - curve).mean())
    if deviation < FINE and 1 < indices[0] < GRID - 2:
        low = high = np.exp(log_critical)
    else:
        residuals = log_samples - curve - log_min
        # Residuals of a fit are smaller than the errors; this widens them to the right variance on the whole.
        residuals = (residuals - residuals.mean()) * np.sqrt(len(batch) / max(len(batch) - 2, 1))
        draws = np.random.default_rng(seed).choice(residuals, (NUM_BOOTSTRAP, len(batch)))
        drawn_indices, drawn_deviations = _fit(curves_c, curve + log_min + draws)
        drawn = np.interp(drawn_indices, np.arange(GRID), log_grid)
        standard_errors = _standard_error(batch, drawn) * np.maximum(drawn_deviations, 1e-12)
        ratios = np.quantile((drawn - log_critical) / standard_errors, [0.025, 0.975])
        with np.errstate(over="ignore"):  # an end that is beyond any number is no finding
            ends = np.exp(log_critical - ratios[::-1] * _standard_error(batch, log_critical) * deviation)
        inner, outer = _where_squares_allow(curves_c, log_samples, log_grid)
        low, high = min(ends[0], inner), max(ends[1], outer)
        if len(set(batch)) < len(batch):  # of single seeds there is no saying
            unequal = np.exp(log_grid[_where_unequal_errors_allow(curves_c, log_samples, _slope(batch, log_grid), round(float(indices[0])))])
            low, high = min(low, unequal[0]), max(high, unequal[-1])
    critical, min_samples = float(np.exp(log_critical)), float(np.exp(log_min))
    return CriticalBatch(
        critical_batch_size=critical,
        low=float(low) if low > grid[1] else 0.0,  # beyond the grid an end is no finding
        high=float(high) if high < grid[-2] else None,
        min_steps=min_samples / critical,
        min_samples=min_samples,
        error=deviation,
        num_points=len(batch),
        largest_batch=float(batch.max()),
        is_boundless=bool(high >= grid[-2] and critical > batch.max() * WIDEST / 2),
    )


def _fit(curves_c: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(index on the grid, with a fraction; standard deviation about the curve) for each row of `values`.

    Args: curves_c: (grid, points), each row without its mean; values: (rows, points).
    """
    values_c = values - values.mean(axis=1, keepdims=True)
    of_values, of_curves, num_rows = (values_c**2).sum(axis=1), (curves_c**2).sum(axis=1), len(values)
    best, near = np.empty(num_rows, dtype=np.intp), np.empty((3, num_rows))
    for first in range(0, num_rows, ROWS_AT_ONCE):
        part = slice(first, first + ROWS_AT_ONCE)
        squares = 2 * values_c[part] @ curves_c.T
        np.subtract(of_values[part, None], squares, out=squares)
        squares += of_curves
        best[part] = np.minimum(np.maximum(squares.argmin(axis=1), 1), len(curves_c) - 2)
        near[:, part] = [squares[np.arange(len(squares)), best[part] + step] for step in (-1, 0, 1)]
    left, middle, right = near
    bend = left - 2 * middle + right
    shift = np.where(bend > 0, 0.5 * (left - right) / np.where(bend > 0, bend, 1), 0.0).clip(-1, 1)
    smallest = np.maximum(middle - 0.25 * (left - right) * shift, 0.0)
    return best + shift, np.sqrt(smallest / max(values.shape[1] - 2, 1))


def _where_squares_allow(curves_c: NDArray[np.float64], values: NDArray[np.float64], log_grid: NDArray[np.float64]) -> tuple[float, float]:
    """The ends of the B_crit at which squares stay below (1 + F / (n - 2)) times the least, with F's 95 % for 1 and n - 2."""
    freedom = len(values) - 2
    squares = ((values - values.mean() - curves_c) ** 2).sum(axis=1)
    bound = max(float(squares.min()), freedom * FINE**2) * (1 + float(stdtrit(freedom, 0.975)) ** 2 / freedom)
    allowed = np.flatnonzero(squares <= bound)
    ends = []
    for inside, outside in ((allowed[0], allowed[0] - 1), (allowed[-1], allowed[-1] + 1)):
        log_end = log_grid[inside]
        if 0 <= outside < len(log_grid):  # the bound is passed between two points of the grid
            log_end += (bound - squares[inside]) / (squares[outside] - squares[inside]) * (log_grid[outside] - log_grid[inside])
        ends.append(float(np.exp(log_end)))
    return ends[0], ends[1]


def _where_unequal_errors_allow(
    curves_c: NDArray[np.float64], values: NDArray[np.float64], slopes_c: NDArray[np.float64], best: int
) -> NDArray[np.intp]:
    """Which B_crit of the grid about the best one a step from there to the least squares does not tell from it, where errors need not be of one size.

    The step's error is HC3's (MacKinnon and White, 1985): each residual over what its point leaves of itself. Args: slopes_c: see `_slope`.
    """
    residuals, squares = values - values.mean() - curves_c, (slopes_c**2).sum(axis=1, keepdims=True)
    steps = (slopes_c * residuals).sum(axis=1, keepdims=True) / squares
    leverages = 1 / len(values) + slopes_c**2 / squares
    left = (residuals - steps * slopes_c) / np.maximum(1 - leverages, 1e-9)
    errors = np.sqrt(((slopes_c * left) ** 2).sum(axis=1, keepdims=True)) / squares
    outside = np.flatnonzero(np.abs(steps) > stdtrit(len(values) - 2, 0.975) * errors)
    inside = np.searchsorted(outside, best)
    first, last = (outside[inside - 1] if inside else -1), (outside[inside] if inside < len(outside) else len(curves_c))
    return np.arange(min(first + 1, best), max(last, best + 1))


def _standard_error(batch: NDArray[np.float64], log_critical: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Of log B_crit, for errors of log E of variance 1: 1 / |d curve / d log B_crit|, the mean taken out."""
    return np.asarray(1 / np.sqrt((_slope(batch, log_critical) ** 2).sum(axis=-1)))


def _slope(batch: NDArray[np.float64], log_critical: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """How the curve changes with log B_crit at each batch, the mean taken out."""
    critical = np.exp(np.asarray(log_critical))[..., None]
    slope = -batch / (batch + critical)
    return np.asarray(slope - slope.mean(axis=-1, keepdims=True))
