"""Epochs in samples, and back: what is told in epochs (warm-up, milestones, evaluations) is where the epochs are, whatever samples each uses."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple


class Epochs(NamedTuple):
    """How many samples the epochs of a run use."""

    each: int
    """Of every epoch; with `starts`, that its order has, whatever of its end is dropped."""
    starts: Sequence[int] = ()
    """Samples used before each epoch of the budget, and after its last, which is as long as all that would follow; empty: each uses `each`."""

    def at(self, samples: float) -> float:
        """How many epochs so many used samples are."""
        if not self.starts:
            return samples / self.each
        epoch = min(bisect_right(self.starts, samples), len(self.starts) - 1) - 1
        done, used = samples - self.starts[epoch], self.starts[epoch + 1] - self.starts[epoch]
        return epoch + 1 + (done - used) / self.each if done >= used else epoch + done / self.each

    def samples_in(self, epochs: float, first: float = 0.0) -> float:
        """Samples that are used in so many epochs. Args: first: where they begin, in epochs from the start."""
        return self._before(first + epochs) - self._before(first) if self.starts else epochs * self.each

    def _before(self, epoch: float) -> float:
        whole = min(int(epoch), len(self.starts) - 2)
        return min(self.starts[whole] + (epoch - whole) * self.each, self.starts[whole + 1])  # what is dropped is the end of the order
