"""What batches and costs are told in for people: samples, or the tokens of which samples are sequences. Numbers of programs stay in samples."""

from collections.abc import Iterable
from typing import NamedTuple


class Unit(NamedTuple):
    """Samples, or tokens."""

    name: str = "samples"
    per_sample: int = 1
    """How many of them a sample is."""

    def of(self, num_samples: float) -> float:
        """So many samples in this unit."""
        return num_samples * self.per_sample

    def words(self, num_samples: float) -> str:
        """`1,024 samples`, or `131,072 tokens`."""
        return f"{self.of(num_samples):,.0f} {self.name}"

    def batch(self, global_batch_size: float) -> str:
        """A batch: `64`, or `8,192 tokens (64 sequences)`."""
        return f"{global_batch_size:,.0f}" if self == SAMPLES else f"{self.words(global_batch_size)} ({global_batch_size:,.0f} sequences)"


SAMPLES = Unit()


def unit_of(tokens_per_sample: Iterable[int | None]) -> Unit:
    """The unit of runs or profiles, of what each says of its samples: tokens, where all say the same number of them."""
    told = set(tokens_per_sample)
    number = told.pop() if len(told) == 1 else None
    return SAMPLES if number is None else Unit("tokens", number)
