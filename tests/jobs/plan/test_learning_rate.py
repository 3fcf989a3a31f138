"""Learning rates: the scaling rules against their papers' formulas, and the schedules at a table of places and against the area under the curve."""

import math
from typing import Any

import pytest

from largebatch.jobs.engine.noise_scale import GainAverages
from largebatch.jobs.plan.learning_rate import adascale_gain, learning_rate_fraction, scale
from largebatch.jobs.spec.train_spec import LearningRateSpec


@pytest.mark.parametrize(
    ("scaling", "batch", "peak", "warmup"),
    [
        ("none", 4096, 0.1, 5.0),
        ("linear", 8192, 3.2, 5.0),  # Goyal et al.: 0.1 at 256 is 3.2 at 8192
        ("linear", 128, 0.05, 5.0),
        ("sqrt", 4096, 0.4, 5.0),
        ("sqrt", 64, 0.05, 5.0),
        ("legw", 1024, 0.2, 20.0),  # the warm-up grows by the ratio, the rate by its root
        ("legw", 64, 0.05, 1.25),
        ("legw", 256, 0.1, 5.0),
        ("adascale", 4096, 0.1, 5.0),  # the gain comes step by step
    ],
)
def test_peak_and_warm_up(scaling: str, batch: int, peak: float, warmup: float) -> None:
    spec = LearningRateSpec(base=0.1, base_global_batch_size=256, scaling=scaling, warmup_epochs=5.0)
    scaled = scale(spec, batch, 256)
    assert scaled.peak == pytest.approx(peak, rel=1e-12)
    assert scaled.warmup_epochs == pytest.approx(warmup, rel=1e-12)


def test_the_reason_names_rule_and_numbers() -> None:
    for scaling, name in (("linear", "linear"), ("sqrt", "square root"), ("legw", "LEGW"), ("adascale", "AdaScale")):
        reason = scale(LearningRateSpec(base=0.1, base_global_batch_size=256, scaling=scaling), 1024, 256).reason
        assert name in reason
        assert "0.1" in reason
        assert "4" in reason


@pytest.mark.parametrize("scaling", ["none", "linear", "sqrt", "legw", "adascale"])
def test_at_the_base_batch_nothing_changes(scaling: str) -> None:
    spec = LearningRateSpec(base=0.1, base_global_batch_size=256, scaling=scaling, warmup_epochs=2.0)
    assert scale(spec, 256, 256)[:2] == (0.1, 2.0)


def test_legw_warms_up_over_the_same_number_of_steps() -> None:
    # Epochs times B / B0, over steps of B samples: the paper's "linear epoch" means constant steps.
    spec = LearningRateSpec(base=0.1, base_global_batch_size=128, scaling="legw", warmup_epochs=0.5)
    steps = {scale(spec, batch, 128).warmup_epochs * 50_000 / batch for batch in (32, 128, 1024, 8192)}
    assert max(steps) == pytest.approx(min(steps), rel=1e-12)


@pytest.mark.parametrize(
    ("variance", "squared_norm", "ratio", "gain"),
    [
        (3.0, 1.0, 4.0, 4.0 / 1.75),  # (3 + 1) / (3 / 4 + 1)
        (1.0, 1.0, 2.0, 2.0 / 1.5),
        (0.0, 1.0, 16.0, 1.0),  # no noise: a larger batch brings nothing
        (1.0, 0.0, 16.0, 16.0),  # nothing but noise: linear scaling
        (0.0, 0.0, 16.0, 1.0),  # nothing measured
        (5.0, 2.0, 1.0, 1.0),  # the base batch itself
        (3.0, 1.0, 0.5, 4.0 / 7.0),  # half a base batch: (3 + 1) / (3 / 0.5 + 1)
        (1.0, 0.0, 0.5, 0.5),  # never less than its share of the samples
        (0.0, 1.0, 0.5, 1.0),
        (0.0, 0.0, 0.5, 0.5),
    ],
)
def test_gain(variance: float, squared_norm: float, ratio: float, gain: float) -> None:
    assert adascale_gain(variance, squared_norm, ratio) == pytest.approx(gain, rel=1e-12)


def test_gain_lies_between_one_and_the_ratio_and_grows_with_the_noise() -> None:
    for ratio in (1.0, 1.5, 8.0, 1000.0):
        noises = [0.0] + [10.0**power for power in range(-12, 13)]
        gains = [adascale_gain(noise, 1.0, ratio) for noise in noises]
        assert all(1.0 <= gain <= ratio for gain in gains)
        assert gains == sorted(gains)
        # Both limits, to first order in what is left: (S - 1) / S * 1e-12 and S (S - 1) / 1e12.
        assert gains[1] == pytest.approx(1.0, abs=2e-12)
        assert gains[-1] == pytest.approx(ratio, abs=2 * ratio**2 * 1e-12)


def reference_average(values: list[float], ratio: float) -> float:
    """The moving average of arXiv:2007.05105, section 3.3, its first steps a plain mean."""
    average = 0.0
    for count, value in enumerate(values, 1):
        keep = min(max(1 - ratio / 1000, 0.0), (count - 1) / count)
        average = keep * average + (1 - keep) * max(value, 0.0)
    return average


@pytest.mark.parametrize("ratio", [2.0, 50.0, 2000.0])
def test_moving_averages(ratio: float) -> None:
    variances = [3.0, -1.0, 5.0, 2.0, 7.0] * 30
    norms = [0.5, 0.25, -0.1, 1.0] * 38
    averages = GainAverages()
    for variance, norm in zip(variances, norms, strict=False):
        averages.add(variance, norm, ratio)
    expected: dict[str, Any] = {"rel": 1e-12}
    assert averages.variance == pytest.approx(reference_average(variances, ratio), **expected)
    assert averages.squared_norm == pytest.approx(reference_average(norms[:150], ratio), **expected)


def test_the_first_steps_are_a_plain_mean() -> None:
    averages = GainAverages()
    for value in (1.0, 2.0, 6.0):
        averages.add(value, 2 * value, 4.0)
    assert averages.variance == pytest.approx(3.0, rel=1e-12)
    assert averages.squared_norm == pytest.approx(6.0, rel=1e-12)
    assert math.isclose(adascale_gain(averages.variance, averages.squared_norm, 4.0), 9.0 / 6.75)


EPOCH = 100.0


def fraction(progress: float, total: float = 1000.0, warmup: float = 0.0, **options: Any) -> float:
    spec = LearningRateSpec(base=1.0, **options)
    return learning_rate_fraction(spec, progress, total=total, warmup=warmup, milestones=[milestone * EPOCH for milestone in spec.decay_milestones])


CONSTANT: dict[str, Any] = {}
STEPS: dict[str, Any] = {"decay": "step", "decay_milestones": (3.0, 6.5), "decay_factor": 0.2}
SLOW_START: dict[str, Any] = {"decay": "step", "decay_milestones": (0.0, 4.0, 7.0, 8.5), "decay_fractions": (0.5, 0.075, 0.01, 0.001)}
LOW_THEN_HIGH: dict[str, Any] = {"decay": "step", "decay_milestones": (0.0, 3.0, 6.0), "decay_fractions": (0.25, 1.0, 0.1)}
COSINE: dict[str, Any] = {"decay": "cosine"}
LINE: dict[str, Any] = {"decay": "polynomial", "decay_power": 1.0}
SQUARE: dict[str, Any] = {"decay": "polynomial"}
RAISED: dict[str, Any] = {"final_fraction": 0.1}


@pytest.mark.parametrize(
    ("options", "warmup", "progress", "expected"),
    [
        (CONSTANT, 0.0, 0.0, 1.0),
        (CONSTANT, 0.0, 1e9, 1.0),
        (CONSTANT, 200.0, 0.0, 0.0),
        (CONSTANT, 200.0, 50.0, 0.25),
        (CONSTANT, 200.0, 199.0, 0.995),
        (CONSTANT, 200.0, 200.0, 1.0),
        (STEPS, 0.0, 299.9, 1.0),
        (STEPS, 0.0, 300.0, 0.2),
        (STEPS, 0.0, 649.9, 0.2),
        (STEPS, 0.0, 650.0, 0.04),
        (STEPS, 0.0, 5000.0, 0.04),
        (STEPS, 400.0, 310.0, 0.775),  # a milestone inside of the warm-up waits for its end
        (STEPS, 400.0, 400.0, 0.2),
        (SLOW_START, 0.0, 0.0, 0.5),  # Akiba et al.'s, ten times as fast
        (SLOW_START, 0.0, 399.9, 0.5),
        (SLOW_START, 0.0, 400.0, 0.075),
        (SLOW_START, 0.0, 700.0, 0.01),
        (SLOW_START, 0.0, 849.9, 0.01),
        (SLOW_START, 0.0, 850.0, 0.001),
        (SLOW_START, 0.0, 5000.0, 0.001),
        (SLOW_START, 200.0, 50.0, 0.125),  # warm-up rises to the half that follows it
        (SLOW_START, 200.0, 200.0, 0.5),
        (LOW_THEN_HIGH, 0.0, 299.9, 0.25),
        (LOW_THEN_HIGH, 0.0, 300.0, 1.0),
        (LOW_THEN_HIGH, 0.0, 600.0, 0.1),
        (STEPS | {"decay_factor": 0.1, "decay_fractions": (0.3, 0.2)}, 0.0, 299.9, 1.0),  # before the first milestone it is the peak
        (STEPS | {"decay_factor": 0.1, "decay_fractions": (0.3, 0.2)}, 0.0, 700.0, 0.2),
        (COSINE, 0.0, 0.0, 1.0),
        (COSINE, 0.0, 250.0, 0.5 + math.sqrt(2) / 4),
        (COSINE, 0.0, 500.0, 0.5),
        (COSINE, 0.0, 1000.0, 0.0),
        (COSINE, 0.0, 2000.0, 0.0),  # past the end it stays down
        (COSINE, 200.0, 100.0, 0.5),
        (COSINE, 200.0, 200.0, 1.0),
        (COSINE, 200.0, 600.0, 0.5),  # half of what warm-up leaves
        (COSINE | RAISED, 0.0, 500.0, 0.55),
        (COSINE | RAISED, 0.0, 1000.0, 0.1),
        (LINE, 0.0, 250.0, 0.75),
        (LINE, 500.0, 750.0, 0.5),
        (LINE | RAISED, 0.0, 500.0, 0.55),
        (LINE | RAISED, 0.0, 9999.0, 0.1),
        (SQUARE, 0.0, 500.0, 0.25),
        (SQUARE | RAISED, 0.0, 500.0, 0.1 + 0.9 * 0.25),
        ({"decay": "polynomial", "decay_power": 0.5}, 0.0, 750.0, 0.5),
        (COSINE, 1000.0, 999.0, 0.999),  # warm-up to the very end: nothing is left to decay
        (COSINE, 1000.0, 1000.0, 1.0),
        (LINE, 1500.0, 1200.0, 0.8),
    ],
)
def test_table(options: dict[str, Any], warmup: float, progress: float, expected: float) -> None:
    assert fraction(progress, warmup=warmup, **options) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("options", [CONSTANT, STEPS, SLOW_START, COSINE, LINE, SQUARE, COSINE | RAISED], ids=str)
def test_it_rises_in_warm_up_and_never_after(options: dict[str, Any]) -> None:
    values = [fraction(progress, warmup=200.0, **options) for progress in range(1200)]
    assert values[:201] == sorted(values[:201])
    assert values[200:] == sorted(values[200:], reverse=True)
    assert all(0.0 <= value <= 1.0 for value in values)


@pytest.mark.parametrize("steps", [[200, 800], [100] * 10, [1] * 1000, [7, 193, 1, 2, 397, 400], [50, 150, 333, 333, 134]], ids=len)
@pytest.mark.parametrize(
    ("options", "area"),
    [
        # A triangle of 200, then 800 samples: all, a triangle, a triangle on a base of 0.1.
        (CONSTANT, 100 + 800),
        (LINE, 100 + 400),
        (LINE | RAISED, 100 + 0.1 * 800 + 0.9 * 400),
    ],
    ids=["constant", "line", "raised line"],
)
def test_rate_times_samples_adds_up_to_the_area_under_any_batch(steps: list[int], options: dict[str, Any], area: float) -> None:
    # All lists have a step that ends with the warm-up: only a step across a kink would be off.
    done, total = 0.0, 0.0
    for size in steps:
        total += size * fraction(done + size / 2, warmup=200.0, **options)
        done += size
    assert done == 1000
    assert total == pytest.approx(area, rel=1e-12)


def test_a_curve_is_followed_to_second_order() -> None:
    # The midpoint rule is off by h^2 / 24 times the difference of the slopes at both ends, here 2 / 1000.
    for size in (10, 100):
        total = sum(size * fraction(start + size / 2, **SQUARE) for start in range(0, 1000, size))
        assert 1000 / 3 - total == pytest.approx(size**2 / 24 * 2 / 1000, rel=1e-6)
