"""What batches and costs are told in for people: samples, or the tokens of which samples are sequences. Numbers of programs stay in samples."""

from collections.abc import Iterable
from typing import NamedTuple


def in_digits(value: float, digits: int = 6) -> str:
    """So many digits that count, as `%g` writes them; a number that has more before its point in full: `0.0412`, `1.5`, `12,345`."""
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e+" in text else text


def clock_in_words(seconds: float) -> str:
    """Seconds among others in a table, without their unit: two places, and three digits of less than a second: `12.34`, `0.00123`."""
    return f"{seconds:.2f}" if seconds >= 1 else f"{seconds:.3g}"


def times_in_words(factor: float, digits: int = 3) -> str:
    """`1.51 times`; one that so few digits would call 1 has four: `1.002 times`."""
    text = in_digits(factor, digits)
    return f"{f'{factor:.4g}' if text == '1' else text} times"


class Unit(NamedTuple):
    """Samples, or tokens."""

    name: str = "samples"
    per_sample: int = 1
    """How many of them a sample is."""

    def of(self, num_samples: float) -> float:
        """So many samples in this unit."""
        return num_samples * self.per_sample

    def words(self, num_samples: float) -> str:
        """`1,024 samples`, `1 sample`, or `131,072 tokens`."""
        number = f"{self.of(num_samples):,.0f}"
        return f"{number} {self.name.removesuffix('s') if number == '1' else self.name}"

    def batch(self, global_batch_size: float) -> str:
        """A batch: `64`, or `8,192 tokens (64 sequences)`."""
        return f"{global_batch_size:,.0f}" if self == SAMPLES else f"{self.words(global_batch_size)} ({global_batch_size:,.0f} sequences)"


SAMPLES = Unit()


def unit_of(tokens_per_sample: Iterable[int | None]) -> Unit:
    """The unit of runs or profiles, of what each says of its samples: tokens, where all say the same number of them."""
    told = set(tokens_per_sample)
    number = told.pop() if len(told) == 1 else None
    return SAMPLES if number is None else Unit("tokens", number)
