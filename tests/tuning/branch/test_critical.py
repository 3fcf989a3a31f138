"""The critical batch read from losses: exact where there is no noise, and planted quadratics whose truth is known by formula."""

import math
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import chi2

from largebatch.tuning.branch.critical import critical_batch

MULTIPLES = (1, 2, 4, 8, 16)


class Quadratic(NamedTuple):
    """SGD on L(w) = |w|^2 / 2 in `dimensions`, from w = (start, ...), whose gradient of one sample is w + noise of standard deviation `noise`.

    With the multiple k the batch is k B and the rate lr k^power, so that w after t steps is normal in each dimension:

        a = 1 - lr k^power,   mean a^t start,   variance v(t) = (lr k^power noise)^2 / (k B) (1 - a^2t) / (1 - a^2),   Cov(w_s, w_t) = a^(t-s) v(s)
    """

    rate: float
    power: float
    noise: float
    start: float
    dimensions: int
    num_batches: int
    batch: int = 8

    @property
    def places(self) -> NDArray[np.float64]:
        """Where losses are taken: ends of the largest batch's steps in the last quarter, in batches of the smallest."""
        ends = np.arange(MULTIPLES[-1], self.num_batches + 1, MULTIPLES[-1])
        return ends[ends > 0.75 * self.num_batches]

    def moments(self, multiple: float) -> tuple[float, float]:
        """Mean and variance of the smoothed loss: of half the sum of squares of normal numbers that are correlated over time."""
        rate, steps = self.rate * multiple**self.power, self.places / multiple
        factor = 1 - rate
        means = factor**steps * self.start
        variances = (rate * self.noise) ** 2 / (multiple * self.batch) * (1 - factor ** (2 * steps)) / (1 - factor**2)
        earlier = np.minimum.outer(steps, steps)
        covariances = factor ** (np.maximum.outer(steps, steps) - earlier) * np.interp(earlier, steps, variances)
        of_losses = self.dimensions / 4 * (2 * covariances**2 + 4 * covariances * np.outer(means, means))
        return float((self.dimensions / 2 * (variances + means**2)).mean()), float(of_losses.mean())

    @property
    def truth(self) -> float:
        """The batch whose mean loss is above the smallest one's by the standard deviation of that."""
        mean, variance = self.moments(1.0)
        return self.batch * float(brentq(lambda multiple: self.moments(multiple)[0] - mean - math.sqrt(variance), 1.01, MULTIPLES[-1]))

    def losses(self, draws: np.random.Generator, num_trials: int, num_orders: int) -> NDArray[np.float64]:
        """Smoothed losses of simulated branches, all multiples of an order over the same samples: (trials, orders, multiples)."""
        noise = draws.normal(0, self.noise / math.sqrt(self.batch), (num_trials, num_orders, self.num_batches, self.dimensions))
        smoothed = np.zeros((num_trials, num_orders, len(MULTIPLES)))
        for column, multiple in enumerate(MULTIPLES):
            weights = np.full((num_trials, num_orders, self.dimensions), self.start)
            for end in range(multiple, self.num_batches + 1, multiple):
                gradient = weights + noise[:, :, end - multiple : end].mean(axis=2)
                weights = weights - self.rate * multiple**self.power * gradient
                if end in self.places:
                    smoothed[:, :, column] += 0.5 * (weights**2).sum(axis=2) / len(self.places)
        return smoothed


LINEAR = Quadratic(rate=0.08, power=1.0, noise=1.0, start=0.0, dimensions=40, num_batches=256)
ROOT = Quadratic(rate=0.02, power=0.5, noise=2.0, start=0.2, dimensions=50, num_batches=128)


@pytest.mark.parametrize("quadratic", [LINEAR, ROOT], ids=["linear", "sqrt"])
def test_the_formula_is_what_is_simulated(quadratic: Quadratic) -> None:
    """Else a wrong truth could be held by wrong intervals: means within five standard errors."""
    losses = quadratic.losses(np.random.default_rng(0), 200, 2).reshape(-1, len(MULTIPLES))
    for column, multiple in enumerate(MULTIPLES):
        mean, variance = quadratic.moments(multiple)
        assert abs(losses[:, column].mean() - mean) < 5 * math.sqrt(variance / len(losses))
    assert losses[:, 0].std() == pytest.approx(math.sqrt(quadratic.moments(1)[1]), rel=0.2)


@pytest.mark.parametrize("num_orders", [3, 4, 8])
@pytest.mark.parametrize("quadratic", [LINEAR, ROOT], ids=["linear", "sqrt"])
def test_intervals_hold_the_planted_truth(quadratic: Quadratic, num_orders: int) -> None:
    losses, held, ratios = quadratic.losses(np.random.default_rng(1), 100, num_orders), 0, []
    for trial in losses:
        answer = critical_batch(trial, MULTIPLES, quadratic.batch)
        held += answer.low <= quadratic.truth <= (answer.high or math.inf)
        ratios.append((answer.critical_batch_size or math.inf) / quadratic.truth)
    assert held >= 95
    assert 0.9 < np.median(ratios) < 1.1


@pytest.mark.parametrize("num_orders", [2, 3, 4])
@pytest.mark.parametrize("quadratic", [LINEAR, ROOT], ids=["linear", "sqrt"])
def test_few_orders_are_wide_but_not_low(quadratic: Quadratic, num_orders: int) -> None:
    """The median of 250 answers. Half of them lie within 0.35 of it at most, so that its standard error is 0.35 / 0.67 x 1.25 / 15.8 = 0.041."""
    trials = quadratic.losses(np.random.default_rng(2), 250, num_orders)
    answers = [critical_batch(trial, MULTIPLES, quadratic.batch).critical_batch_size or math.inf for trial in trials]
    assert abs(np.median(answers) / quadratic.truth - 1) < 0.1


def exact(*excess: float, orders: int = 3) -> NDArray[np.float64]:
    """Losses of three orders whose excesses are the same in each; those of the multiple 1 are 1 - s, 1, 1 + s, of standard deviation s = 0.1."""
    base = 1.0 + 0.1 * np.arange(-(orders // 2), orders // 2 + 1)
    return np.stack([base, *(base + value for value in excess)], axis=1)


def test_a_crossing_is_read_on_a_line_in_the_batch() -> None:
    """At 0.1 three quarters of the way from 4 to 8; the measured tolerance is 0.1 over the median of such a deviation, where the true one is 1."""
    assert critical_batch(exact(0.02, 0.06, 0.14), (1, 2, 4, 8), 10, tolerance=0.1).critical_batch_size == pytest.approx(60)
    answer = critical_batch(exact(0.02, 0.06, 0.14), (1, 2, 4, 8), 10)
    assert answer.tolerance == pytest.approx(0.1 / math.sqrt(chi2.median(2) / 2))
    assert answer.critical_batch_size == pytest.approx(40 + 40 * (answer.tolerance - 0.06) / 0.08)
    assert answer.excess == pytest.approx({20: 0.02, 40: 0.06, 80: 0.14})
    assert answer.excess_errors == pytest.approx({20: 0.0, 40: 0.0, 80: 0.0})
    given = critical_batch(exact(0.02, 0.06, 0.14), (1, 2, 4, 8), 10, tolerance=0.01)
    assert (given.critical_batch_size, given.low, given.high) == pytest.approx((15, 15, 15)), "nothing is left to draw"


def test_a_batch_that_never_loses_is_open_above() -> None:
    answer = critical_batch(exact(-0.5, -0.5, -0.5), (1, 2, 4, 8), 10)
    assert (answer.critical_batch_size, answer.low, answer.high) == (None, 80, None)


def test_what_falls_again_is_evened_out() -> None:
    """0.2 and 0.0 are pooled to 0.1 and 0.1, which is the tolerance; 0.3 then passes it, from the 4 on."""
    answer = critical_batch(exact(0.2, 0.0, 0.3), (1, 2, 4, 8), 10, tolerance=0.1000001)
    assert answer.critical_batch_size == pytest.approx(40, rel=1e-4)


def test_a_branch_that_diverged_is_one_with_loss() -> None:
    losses = exact(0.01, 0.02, 0.03)
    losses[1, 2] = math.inf
    answer = critical_batch(losses, (1, 2, 4, 8), 10)
    assert (answer.critical_batch_size, answer.low, answer.high) == (20, 20, 40), "it breaks somewhere between, and nothing says where"
    assert answer.excess == {20: pytest.approx(0.01), 40: None, 80: pytest.approx(0.03)}
    assert answer.excess_errors[40] is None


@pytest.mark.parametrize("broken", [math.inf, 1e6], ids=["diverged", "about to"])
def test_where_training_breaks_between_two_multiples_the_interval_holds_it(broken: float) -> None:
    """SGD of rate 0.08 k on |w|^2 / 2, settled: it is stable up to k = 25, so that 16 times the batch trains and 32 times does not.

    L(k) = d / 2 (rate k)^2 / (k B) / (1 - (1 - rate k)^2)
    """
    draws, batch, dimensions, rate, multiples = np.random.default_rng(0), 8, 40, 0.08, (1, 2, 4, 8, 16, 32)

    def settled(multiple: float) -> float:
        return dimensions / 2 * (rate * multiple) ** 2 / (multiple * batch) / (1 - (1 - rate * multiple) ** 2)

    held, tolerance = 0, settled(20) - settled(1)
    for _ in range(100):
        factors = 1 + 0.02 * draws.normal(size=(4, len(multiples)))
        losses = factors * [settled(multiple) if multiple < 25 else broken for multiple in multiples]
        answer = critical_batch(losses, multiples, batch, tolerance)
        held += answer.low <= 20 * batch <= (answer.high or math.inf)
    assert held >= 95
