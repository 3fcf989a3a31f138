"""One run's curve: the noise weighted by progress, the crossing between two evaluations, what an evaluation sees late."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from made_runs import TARGET, made_profile, made_run

from largebatch.jobs.engine.noise_scale import NoiseSums, estimate
from largebatch.jobs.errors import InputError
from largebatch.tuning.results.analysis.prediction import predict
from largebatch.tuning.results.analysis.reference import WINDOW, curve_through, weighted_by_progress
from largebatch.tuning.results.run_result import Evaluation, NoiseEstimate

WAY = 150.0
"""Steps that a noiseless gradient would take."""
FIRST, LAST = 100.0, 8000.0


def noise_at(done: float) -> float:
    """The noise scale grows along the way, as it does while a loss falls."""
    return FIRST * (LAST / FIRST) ** (done / WAY)


def walk(batch: int, norm_squared: Callable[[float], float] = lambda done: 1.0) -> list[NoiseEstimate]:
    """Every step of a run to the end of the way, without errors of measurement."""
    done, made = 0.0, []
    while done < WAY:
        noise = noise_at(done)
        made.append(NoiseEstimate(len(made) + 1, noise * norm_squared(done), norm_squared(done)))
        done += 1 / (1 + noise / batch)
    return made


def plain(estimates: list[NoiseEstimate]) -> float:
    sums = NoiseSums()
    for one in estimates:
        sums.add(one.covariance_trace, one.gradient_norm_squared)
    return sums.noise_scale


@pytest.mark.parametrize("batch", [64, 256, 1024])
def test_a_run_at_one_batch_tells_the_steps_of_all_others(batch: int) -> None:
    """The gradient's norm falls by a hundred on the way, so the plain ratio hears its beginning only."""
    way = walk(batch, lambda done: 10_000.0 ** (-done / WAY))
    critical = weighted_by_progress(way, batch)
    for other in (16, 256, 4096, 65_536):
        expected = len(way) * batch * (1 + other / critical) / (1 + batch / critical)
        assert expected == pytest.approx(len(walk(other)) * other, rel=0.03)
    assert plain(way) < critical / 2


def test_a_noise_that_stays_is_the_critical_batch() -> None:
    estimates = [NoiseEstimate(step, 300.0 * size, size) for step, size in enumerate((9.0, 4.0, 1.0) * WINDOW, 1)]
    assert weighted_by_progress(estimates, 64) == pytest.approx(300.0)
    assert weighted_by_progress(estimates, 4096) == pytest.approx(300.0)


def test_measured_from_samples() -> None:
    """Gradients drawn around a mean that shrinks, through the engine's own estimator."""
    generator, dimensions, batch, pieces = np.random.default_rng(0), 400, 256, 2
    estimates, exact = [], []
    for step in range(1, 401):
        size = 10.0 ** (-step / 400)
        mean = np.full(dimensions, size / math.sqrt(dimensions))
        parts = mean + generator.normal(0.0, 1.0, (pieces, dimensions)) / math.sqrt(batch / pieces)
        whole = parts.mean(axis=0)
        trace, norm_squared = estimate(float((parts**2).sum(axis=1).mean()), float(whole @ whole), batch, pieces)
        estimates.append(NoiseEstimate(step, trace, norm_squared))
        exact.append(NoiseEstimate(step, float(dimensions), size**2))
    planted = weighted_by_progress(exact, batch)
    assert weighted_by_progress(estimates, batch) == pytest.approx(planted, rel=0.1)


def test_estimates_that_say_nothing() -> None:
    assert weighted_by_progress([], 64) is None
    assert weighted_by_progress([NoiseEstimate(1, 1.0, -2.0)], 64) is None
    assert weighted_by_progress([NoiseEstimate(1, -1.0, 2.0)], 64) is None


def test_the_crossing_is_between_two_evaluations_and_seen_half_an_interval_late() -> None:
    points = (Evaluation(10, 1000, 1.0, 0.5), Evaluation(20, 2000, 2.0, 0.88), Evaluation(30, 3000, 3.0, 0.96), Evaluation(40, 4000, 4.0, 0.97))
    run = replace(made_run(100), evaluations=points)
    curve = curve_through(run, TARGET)
    assert curve.met.samples == pytest.approx(2250.0)
    assert (curve.met.interval, curve.met.at.step, curve.met.at.training_seconds) == (1000, 30, 3.0)
    assert curve.critical_batch == run.summary.gradient_noise_scale == 400.0
    assert curve.samples(100) == pytest.approx(2750.0)
    assert curve.samples(4000) == pytest.approx(2250 * (1 + 10) / (1 + 0.25) + 2000), "a step is longer than the interval"
    first = replace(run, evaluations=points[2:])
    assert curve_through(first, TARGET).met.samples == 1500.0, "met at the first evaluation: some time before it"
    assert curve_through(first, TARGET).samples(100) == 3000.0, "where it was seen"


def test_runs_that_are_evaluated_more_often_are_predicted_to_see_it_sooner() -> None:
    points = (Evaluation(10, 1000, 1.0, 0.5), Evaluation(20, 2000, 2.0, 0.88), Evaluation(30, 3000, 3.0, 0.96))
    run = replace(made_run(100), evaluations=points)
    (as_its_own,), (closer,) = (predict(run, made_profile(), TARGET, [100], interval) for interval in (None, 200.0))
    assert (as_its_own.samples, closer.samples) == (pytest.approx(2750.0), pytest.approx(2350.0))


def test_only_the_way_to_the_target_counts() -> None:
    points = (Evaluation(10, 1000, 1.0, 0.5), Evaluation(20, 2000, 2.0, 0.95), Evaluation(30, 3000, 3.0, 0.99))
    estimates = tuple(NoiseEstimate(step, 200.0 if step <= 20 else 9000.0, 1.0) for step in range(1, 31))
    run = replace(made_run(100), evaluations=points, noise_estimates=estimates)
    assert curve_through(run, TARGET).critical_batch == pytest.approx(200.0)
    assert curve_through(run, 0.97).critical_batch > 300.0


def test_a_run_that_missed_or_measured_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"did not reach 0\.9"):
        curve_through(made_run(128, reaches=False), TARGET)
    silent = made_run(128)
    silent = replace(silent, summary=silent.summary.model_copy(update={"gradient_noise_scale": None}))
    with pytest.raises(InputError, match="has no gradient noise scale"):
        curve_through(silent, TARGET)
    coupled = replace(silent, settings=(*silent.settings, ("task.name", "contrastive")))
    with pytest.raises(InputError, match=r"has no gradient noise scale\. Its loss looks at all samples of a batch together, and has none\."):
        curve_through(coupled, TARGET)
    told = replace(silent, noise_estimates=(NoiseEstimate(1, 50.0, 1.0),))
    assert curve_through(told, TARGET).critical_batch == pytest.approx(50.0)
