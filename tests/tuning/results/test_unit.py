"""What batches and costs are told in."""

from largebatch.tuning.results.unit import SAMPLES, Unit, unit_of


def test_samples_are_told_as_they_are() -> None:
    assert (SAMPLES.words(1024.4), SAMPLES.batch(1024), SAMPLES.of(3)) == ("1,024 samples", "1,024", 3)


def test_tokens_with_the_sequences_that_they_are_of() -> None:
    unit = Unit("tokens", 128)
    assert (unit.words(1024), unit.batch(64), unit.of(0.5)) == ("131,072 tokens", "8,192 tokens (64 sequences)", 64)


def test_one_unit_for_what_all_say() -> None:
    assert unit_of([128, 128]) == Unit("tokens", 128)
    assert unit_of([128, 256]) == unit_of([128, None]) == unit_of([None]) == unit_of([]) == SAMPLES
