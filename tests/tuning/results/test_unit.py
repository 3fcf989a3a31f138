"""What batches and costs are told in."""

import pytest

from largebatch.tuning.results.unit import SAMPLES, Unit, in_digits, times_in_words, unit_of


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


def test_a_factor_near_one_is_not_called_one() -> None:
    assert [times_in_words(factor) for factor in (1.0021, 1.51, 1234.5)] == ["1.002 times", "1.51 times", "1,234 times"]
    assert times_in_words(243.7, 2) == "244 times"


def test_one_unit_for_what_all_say() -> None:
    assert unit_of([128, 128]) == Unit("tokens", 128)
    assert unit_of([128, 256]) == unit_of([128, None]) == unit_of([None]) == unit_of([]) == SAMPLES
