"""What batches and costs are told in."""

import pytest

from largebatch.jobs.tasks.metric import in_places
from largebatch.tuning.results.unit import SAMPLES, Unit, clock_in_words, in_digits, times_in_words, unit_of


def test_samples_are_told_as_they_are() -> None:
    assert (SAMPLES.words(1024.4), SAMPLES.batch(1024), SAMPLES.of(3)) == ("1,024 samples", "1,024", 3)


def test_tokens_with_the_sequences_that_they_are_of() -> None:
    unit = Unit("tokens", 128)
    assert (unit.words(1024), unit.batch(64), unit.of(0.5)) == ("131,072 tokens", "8,192 tokens (64 sequences)", 64)


def test_one_of_them_is_singular() -> None:
    assert (SAMPLES.words(1), Unit("tokens", 1).words(0.6)) == ("1 sample", "1 token")


@pytest.mark.parametrize(
    ("number", "digits", "text"),
    [(0.04123, 3, "0.0412"), (999.7, 3, "1,000"), (12_345.0, 3, "12,345"), (1e6, 6, "1,000,000"), (1000.0, 6, "1000"), (1e-6, 6, "1e-06")],
)
def test_numbers_are_written_without_a_power_above_one(number: float, digits: int, text: str) -> None:
    assert in_digits(number, digits) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(123.456, "123.46"), (1.0, "1.00"), (0.28, "0.28"), (0.0012, "0.0012"), (0.00274, "0.00274"), (0.0, "0")]
)
def test_a_clock_in_a_table_keeps_three_digits_of_less_than_a_second(seconds: float, text: str) -> None:
    assert clock_in_words(seconds) == text


@pytest.mark.parametrize(
    ("score", "text"), [(0.91254, "0.9125"), (0.0, "0.0000"), (12.5, "12.5000"), (-0.5, "-0.5000"), (1.6e-5, "1.6e-05"), (-0.00123456, "-0.001235")]
)
def test_a_score_in_a_table_is_not_blurred_to_zero(score: float, text: str) -> None:
    assert in_places(score) == text


def test_a_factor_near_one_is_not_called_one() -> None:
    assert [times_in_words(factor) for factor in (1.0021, 1.51, 1234.5)] == ["1.002 times", "1.51 times", "1,234 times"]
    assert times_in_words(243.7, 2) == "244 times"


def test_one_unit_for_what_all_say() -> None:
    assert unit_of([128, 128]) == Unit("tokens", 128)
    assert unit_of([128, 256]) == unit_of([128, None]) == unit_of([None]) == unit_of([]) == SAMPLES
