"""The frontier, what is advised from it, and a handful of runs as one figure."""

import random

import pytest

from largebatch.tuning.results.analysis.advice import Limit, advise, frontier
from largebatch.tuning.results.analysis.configurations import spread
from largebatch.tuning.results.answers import Choice, Spread


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
    assert "batch 512, with 8 s" in within.reason


def test_one_choice_and_none() -> None:
    assert advise([]) == []
    assert [answer.choice for answer in advise(CHOICES[:1])] == [CHOICES[0]] * 3


@pytest.mark.parametrize(
    ("values", "median", "low", "high", "num_reached"),
    [
        ([3.0, 1.0, 2.0], 2.0, 1.0, 3.0, 3),
        ([4.0, 1.0, 2.0, 3.0], 2.5, 1.0, 4.0, 4),
        ([1.0, None, 2.0], 2.0, 1.0, None, 2),
        ([None, 5.0], None, 5.0, None, 1),
        ([None, None], None, None, None, 0),
    ],
)
def test_misses_rank_last_and_never_count_as_numbers(
    values: list[float | None], median: float | None, low: float | None, high: float | None, num_reached: int
) -> None:
    seeds = spread(values)
    assert seeds == Spread(median=median, low=low, high=high, num_reached=num_reached, num_runs=len(values))
    assert ("missed" if median is None else f"{num_reached} of {len(values)}") in seeds.text


@pytest.mark.parametrize("count", [6, 9, 15, 30])
def test_the_interval_holds_the_median_in_95_of_100(count: int) -> None:
    draws = random.Random(count)
    hits = 0
    for _ in range(1000):
        found = spread([draws.lognormvariate(0.0, 1.0) for _ in range(count)])
        hits += found.low <= 1.0 <= found.high
    # At least 95 %, less three standard deviations of a count of 1000.
    assert hits >= 929


def test_many_runs_give_a_shorter_interval_than_their_range() -> None:
    values = [float(number) for number in range(30)]
    found = spread(values)
    assert found.low > 5
