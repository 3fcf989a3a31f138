"""StepPlan: one optimizer step as far as arithmetic decides it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from largebatch.jobs.samples.slice import Slice


class Position(NamedTuple):
    """How far a run is: the only clock of its plan."""

    epoch: int
    offset: int
    """Samples of this epoch that were used already."""
    step: int = 0
    """Optimizer steps done."""
    samples_seen: int = 0
    schedule_samples: float = 0.0
    """Progress of the schedules: samples seen, or what AdaScale's gain makes of them."""


@dataclass(frozen=True)
class StepPlan:
    """One optimizer step, decided before its samples are read; `TrainPlan.step_at` makes it."""

    begin: Position
    samples: Slice
    """The global batch."""
    world_size: int
    unit: int
    """Samples that stay together: a batch-norm group, or 1."""
    sequence_length: int | None
    """Tokens of each sequence that its samples are cut into; None: samples stay whole."""
    learning_rate: float
    options: Mapping[str, float]
    """Options of the optimizer that follow its samples, by name: see `FollowsSamples.options_at`."""
    options_by_progress: Mapping[str, float]
    """Options of the optimizer that follow how far the run is, like the learning rate at the middle of its samples, by name."""
    average_power: float
    """How many steps at the batch that `ema.decay` was tuned at it counts for."""
    advance: float
    """Samples by which the schedules move on."""
    gain: float | None
    """AdaScale's; 1 until the step's gradient was measured (`TrainPlan.with_gain`). None for every other rule."""
    is_local: bool
    """Whether each rank takes this step by itself (post-local SGD)."""
    measures_noise: bool
    """Whether it measures the noise between its pieces, and is cut in two at least."""
    measures_norms: bool
    """Whether it measures the noise of the norms' gradients, sample by sample."""
    measures_dual: bool
    """Whether it measures noise in the optimizer's own norm besides, between the two halves of its samples: no micro-batch is of both."""
    tokens_seen: int | None
    """With it; None where the task does not count in them."""
    evaluates: bool
    saves: bool
    """Whether a checkpoint is due with it, by the count of steps."""

    @property
    def number(self) -> int:
        """Of this step in the run; the first is 1."""
        return self.begin.step + 1

    @property
    def end(self) -> Position:
        """Where the next step begins."""
        begin, samples = self.begin, self.samples
        return Position(samples.epoch, samples.stop, self.number, begin.samples_seen + samples.size, begin.schedule_samples + self.advance)

    def share(self, rank: int) -> Slice:
        """The samples that `rank` works on; maybe none."""
        return self.samples.share(rank, self.world_size, self.unit)

    def micro_batches(self, rank: int, micro_batch_size: int) -> list[Slice]:
        """A rank's share, cut up; one process alone sees noise between two micro-batches at least."""
        if self.measures_dual:
            return [part for half in self.share(rank).cut(self.middle) for part in half.split(micro_batch_size, self.unit)]
        return self.share(rank).split(micro_batch_size, self.unit, 2 if self.measures_noise and self.world_size == 1 else 1)

    @property
    def middle(self) -> int:
        """Where the second half of its samples begins; it follows from them alone, on any number of ranks."""
        return self.samples.middle(self.unit)

    @property
    def largest_share(self) -> int:
        """Samples of the rank that has most of the step: the last one, where shares are uneven."""
        return self.share(self.world_size - 1).size
