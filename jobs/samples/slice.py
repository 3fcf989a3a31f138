"""Slice: samples that follow each other in an epoch's order, and how they are cut up for ranks and micro-batches."""

import math
from typing import NamedTuple


class Slice(NamedTuple):
    """Samples `start` to `stop` of an epoch's order."""

    epoch: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of samples."""
        return self.stop - self.start

    def split(self, size: int, unit: int = 1, at_least: int = 1) -> list["Slice"]:
        """Micro-batches of at most `size` samples, in order, every sample once.

        Args:
            unit: samples that stay together (a batch-norm group), so that statistics do not depend on `size`.
            at_least: aim for this many micro-batches (the noise scale needs two); fewer where units do not allow it.
        """
        size = min(size, max(math.ceil(self.size / at_least / unit), 1) * unit)
        if size >= self.size > 0:
            return [self]
        return [Slice(self.epoch, start, min(start + size, self.stop)) for start in range(self.start, self.stop, size)]

    def middle(self, unit: int = 1) -> int:
        """Where the second half begins, after whole units."""
        return self.start + math.ceil(math.ceil(self.size / unit) / 2) * unit

    def cut(self, at: int) -> list["Slice"]:
        """The samples before `at`, and the others; what is empty is left out."""
        at = min(max(at, self.start), self.stop)
        return [part for part in (Slice(self.epoch, self.start, at), Slice(self.epoch, at, self.stop)) if part.size]

    def share(self, rank: int, world_size: int, unit: int = 1) -> "Slice":
        """The samples that `rank` works on: contiguous, whole units, as even as these allow.

        Empty where a short batch has fewer units than there are ranks.
        """
        if world_size == 1:
            return self
        units = math.ceil(self.size / unit)
        first, last = units * rank // world_size, units * (rank + 1) // world_size
        return Slice(self.epoch, min(self.start + first * unit, self.stop), min(self.start + last * unit, self.stop))
