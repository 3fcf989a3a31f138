"""Epochs in samples, and back: what is told in epochs (warm-up, milestones, evaluations) is where the epochs are, whatever samples each uses."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple


class Epochs(NamedTuple):
    """How many samples the epochs of a run use."""

    each: int
    """Of every epoch at the nominal batch."""
    starts: Sequence[int] = ()
    """Samples before each epoch of the budget, and after its last, which is as long as all that would follow; empty: each has `each`."""

    def at(self, samples: float) -> float:
        """How many epochs so many samples are."""
        if not self.starts:
            return samples / self.each
        epoch = min(bisect_right(self.starts, samples), len(self.starts) - 1) - 1
        done, used = samples - self.starts[epoch], self.starts[epoch + 1] - self.starts[epoch]
        whole, rest = (1, done - used) if done >= used else (0, done)
        return epoch + whole + rest / max(self.each, used)

    def samples_in(self, epochs: float, first: float = 0.0) -> float:
        """Samples that are used in so many epochs. Args: first: where they begin, in epochs from the start."""
        return self._before(first + epochs) - self._before(first) if self.starts else epochs * self.each

    def _before(self, epoch: float) -> float:
        whole = min(int(epoch), len(self.starts) - 2)
        used = self.starts[whole + 1] - self.starts[whole]
        return self.starts[whole] + min((epoch - whole) * max(self.each, used), used)  # what an epoch drops is the end of its order
