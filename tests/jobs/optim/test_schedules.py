"""The learning rate at a table of places, and its sum over steps against the area under the curve."""

import math
from typing import Any

import pytest

from largebatch.jobs.plan.schedules import learning_rate_fraction
from largebatch.jobs.spec.train_spec import LearningRateSpec

EPOCH = 100.0


def fraction(progress: float, total: float = 1000.0, warmup: float = 0.0, **options: Any) -> float:
    spec = LearningRateSpec(base=1.0, **options)
    return learning_rate_fraction(spec, progress, total=total, warmup=warmup, epoch=EPOCH)


CONSTANT: dict[str, Any] = {}
STEPS: dict[str, Any] = {"decay": "step", "decay_milestones": (3.0, 6.5), "decay_factor": 0.2}
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


@pytest.mark.parametrize("options", [CONSTANT, STEPS, COSINE, LINE, SQUARE, COSINE | RAISED], ids=str)
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
