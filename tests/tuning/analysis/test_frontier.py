"""The frontier: no point on it is beaten, every point off it is, and the order of the points does not matter."""

import random

import pytest

from largebatch.tuning.results.analysis.advice import Limit, advise
from largebatch.tuning.results.analysis.frontier import frontier
from largebatch.tuning.results.answers import Choice


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] <= other[1] and one != other


def cloud(seed: int) -> list[tuple[float, float]]:
    """Few values, so that ties and equal points are common."""
    draws = random.Random(seed)
    return [(float(draws.randrange(12)), float(draws.randrange(12))) for _ in range(draws.randrange(1, 40))]


@pytest.mark.parametrize("seed", range(200))
def test_what_stands_and_what_falls(seed: int) -> None:
    points = cloud(seed)
    kept = set(frontier(points))
    for number, point in enumerate(points):
        is_beaten = any(beats(other, point) for other in points)
        assert (number in kept) == (not is_beaten)


@pytest.mark.parametrize("seed", range(50))
def test_the_order_does_not_matter(seed: int) -> None:
    points = cloud(seed)
    shuffled = points.copy()
    random.Random(seed + 1).shuffle(shuffled)
    assert sorted(points[n] for n in frontier(points)) == sorted(shuffled[n] for n in frontier(shuffled))
    ordered = [points[n] for n in frontier(points)]
    assert ordered == sorted(ordered)


def test_misses_never_stand() -> None:
    assert frontier([(float("inf"), 1.0), (float("nan"), 0.0), (2.0, 2.0)]) == [2]
    assert frontier([]) == []


def choice(batch: int, seconds: float, samples: float) -> Choice:
    return Choice(global_batch_size=batch, seconds=seconds, samples=samples, learning_rate=0.1, momentum=0.9, optimizer="sgd", num_seeds=3)


CHOICES = [choice(32, 40.0, 1000.0), choice(128, 15.0, 1100.0), choice(512, 8.0, 1800.0), choice(2048, 10.0, 5000.0), choice(8, 90.0, 1000.0)]


def test_advice() -> None:
    answers = {answer.question: answer for answer in advise(CHOICES, [Limit("seconds", 20.0, None), Limit("samples", 1050.0, None)])}
    batches = {question: answer.choice.global_batch_size if answer.choice else None for question, answer in answers.items()}
    # Knee: 8 * 1800 = 14,400 is less than 15 * 1100 = 16,500 and 40 * 1000.
    assert batches == {"soonest": 512, "cheapest": 32, "knee": 512, "within 20 s": 128, "within 1,050 samples": 32}
    assert "1.8 times the samples" in answers["soonest"].reason
    assert "5 times the training time" in answers["cheapest"].reason


def test_a_limit_that_nothing_keeps_is_said_with_numbers() -> None:
    (*_, within) = advise(CHOICES, [Limit("seconds", 1.0, None)])
    assert within.choice is None
    assert "none of 5" in within.reason
    assert "512 with 8 s" in within.reason


def test_one_choice_and_none() -> None:
    assert advise([]) == []
    assert {answer.choice for answer in advise(CHOICES[:1])} == {CHOICES[0]}
