"""The critical batch size: planted curves come back within their interval, and so do published points."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from mlperf import RESNET_POINTS

from largebatch.jobs.errors import InputError
from largebatch.tuning.results.analysis.critical_batch import Regime, edges, fit_critical_batch, regime

BATCHES = [64, 128, 256, 512, 1024, 2048, 4096]


@pytest.mark.parametrize("planted", [100.0, 900.0, 5000.0])
def test_an_exact_curve_comes_back(planted: float) -> None:
    found = fit_critical_batch(BATCHES, [1e5 * (1 + batch / planted) for batch in BATCHES])
    assert found.critical_batch_size == pytest.approx(planted, rel=0.01)
    assert found.min_samples == pytest.approx(1e5, rel=0.01)
    assert found.min_steps == pytest.approx(1e5 / planted, rel=0.02)
    assert found.low == found.high == found.critical_batch_size
    for batch in (10.0, 777.0):
        steps, samples = found.steps_to_target(batch), found.samples_to_target(batch)
        assert samples == pytest.approx(steps * batch)
        assert (steps / found.min_steps - 1) * (samples / found.min_samples - 1) == pytest.approx(1), "McCandlish et al., eq. 2.11"


def hits_of(planted: float, noise: float, num_seeds: int, repeats: int) -> int:
    """How many of so many synthetic repeats have the planted value in their interval."""
    generator = np.random.default_rng(5)
    batches = np.repeat(BATCHES, num_seeds)
    hits = 0
    for number in range(repeats):
        samples = 1e5 * (1 + batches / planted) * np.exp(generator.normal(0, noise, len(batches)))
        found = fit_critical_batch(batches.tolist(), samples.tolist(), seed=number)
        hits += found.low <= planted <= (math.inf if found.high is None else found.high)
    return hits


def test_the_interval_holds_the_planted_value() -> None:
    # 95 % of 300 is 285; three standard deviations of such a count are 11. The slow test below looks more closely.
    assert hits_of(300.0, 0.1, 3, 300) >= 274


@pytest.mark.slow
@pytest.mark.parametrize(("planted", "noise", "num_seeds"), [(300.0, 0.1, 3), (1500.0, 0.05, 5), (600.0, 0.2, 2), (600.0, 0.05, 1), (5000.0, 0.1, 3)])
def test_the_interval_holds_the_planted_value_in_95_of_100(planted: float, noise: float, num_seeds: int) -> None:
    # 95 % of 2,000 is 1,900; two standard deviations of such a count are 20.
    assert hits_of(planted, noise, num_seeds, 2000) >= 1880


def hits_of_shared(shared: float, own: float | Sequence[float], num_seeds: int, repeats: int) -> int:
    """The same where what a batch's settings miss the best by is in all of its seeds. Args: own: of each run, at all batches or at each."""
    generator, sizes = np.random.default_rng(7), np.array(BATCHES[:6])
    batches, own_of_runs = np.repeat(sizes, num_seeds), np.repeat(np.broadcast_to(own, len(sizes)), num_seeds)
    hits = 0
    for number in range(repeats):
        errors = np.repeat(generator.normal(0, shared, len(sizes)), num_seeds) + generator.normal(0, own_of_runs)
        found = fit_critical_batch(batches.tolist(), (1e5 * (1 + batches / 600) * np.exp(errors)).tolist(), seed=number)
        hits += found.low <= 600 <= (math.inf if found.high is None else found.high)
    return hits


@pytest.mark.parametrize(("shared", "num_seeds"), [(0.1, 3), (0.1, 10), (0.05, 5)])
def test_the_interval_holds_where_seeds_share_their_batchs_error(shared: float, num_seeds: int) -> None:
    # 95 % of 200 is 190; three standard deviations of such a count are 9.
    assert hits_of_shared(shared, 0.05, num_seeds, 200) >= 181


def test_the_interval_holds_where_larger_batches_vary_more() -> None:
    # Errors of one size for all batches held it 354 times. 95 % of 400 is 380; three standard deviations of such a count are 13.
    assert hits_of_shared(0.0, np.geomspace(0.02, 0.3, 6).tolist(), 3, 400) >= 367


def test_a_curve_that_does_not_rise_bounds_it_from_below_by_what_is_measured() -> None:
    found = fit_critical_batch([32, 64, 128, 256], [500.0] * 4)
    assert found.high is None
    assert found.low < 0.5 * found.critical_batch_size, "the search for it ended there"


def test_mlperfs_points() -> None:
    found = fit_critical_batch(*zip(*RESNET_POINTS, strict=True))
    assert found.min_samples == pytest.approx(34.6, rel=0.03)
    assert 42_000 <= found.critical_batch_size <= 52_000


def test_points_far_below_bound_it_from_one_side_only() -> None:
    generator = np.random.default_rng(0)
    samples = 1e5 * np.exp(generator.normal(0, 0.05, 6))
    found = fit_critical_batch([1, 2, 4, 8, 16, 32], samples.tolist())
    assert found.high is None


def test_two_batches_are_no_curve() -> None:
    assert fit_critical_batch([64, 64, 128], [1.0, 2.0, 3.0]) is None
    assert fit_critical_batch([], []) is None


def gain_of_doubling(batch: float, critical: float) -> float:
    """Steps at `batch` over steps at twice of it, on the curve."""
    return (1 + critical / batch) / (1 + critical / (2 * batch))


def test_regimes() -> None:
    assert gain_of_doubling(1e-6, 100.0) == pytest.approx(2)
    assert gain_of_doubling(1e9, 100.0) == pytest.approx(1)
    perfect, maximal = edges(1000.0)
    assert gain_of_doubling(perfect, 1000.0) == pytest.approx(1.8)
    assert gain_of_doubling(maximal, 1000.0) == pytest.approx(1.2)
    assert [regime(batch, 1000.0) for batch in (perfect * 0.99, 1000.0, maximal * 1.01)] == list(Regime)


@pytest.mark.parametrize(
    ("batches", "samples", "sentence"),
    [
        ([32, 128, 512], [9e3, 1e4, None], "samples: has None at batch 512, and is a number above 0. Leave out runs that missed the target."),
        ([32, 128, 512], [9e3, math.nan, 2e4], "samples: has nan at batch 128"),
        ([32, 128, 512], [9e3, math.inf, 2e4], "samples: has inf at batch 128"),
        ([32, 128, 512], [9e3, 0, 2e4], "samples: has 0 at batch 128"),
        ([0, 128, 512], [9e3, 1e4, 2e4], "batches: has 0 at batch 0"),
        ([32, 128, 512], [9e3, 1e4], "samples: has 2 numbers for 3 batches"),
    ],
)
def test_what_is_no_point_of_a_curve_is_refused(batches: list[float], samples: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        fit_critical_batch(batches, samples)
