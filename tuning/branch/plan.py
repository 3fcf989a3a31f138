"""BranchPlan: a run's plan from a checkpoint on, with a multiple of its batch: the same samples in the same order, another rate.

Everything else is the run's own plan: its schedules, which are read by samples, its horizon, its groups of batch-norm. With the multiple 1
it *is* the run's plan, so that branch is, bit for bit, the run that goes on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property

from largebatch.jobs.plan.step_plan import Position, StepPlan
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.samples.slice import Slice

LAST_PART = 0.25
"""Of a branch: where its loss is evaluated, and the mean taken."""
MOST_EVALUATIONS = 4
"""Of one branch."""


@dataclass(frozen=True)
class BranchPlan(TrainPlan):
    """See this file; build with `branch_plan`."""

    multiple: int = 1
    """Of the run's batch."""
    followed_power: float = 0.0
    """The power of the multiple that the learning rate follows."""
    rate_times: float = 1.0
    """What the rate is multiplied by besides."""

    def batch_size_at(self, position: Position) -> int:
        """See `TrainPlan`."""
        return self.global_batch_size * self.multiple

    def counted_size(self, batch: Slice) -> int:
        """See `TrainPlan`."""
        return max(batch.size, self.global_batch_size)

    def rate_factor(self, batch: Slice) -> float:
        """See `TrainPlan`."""
        return self.rate_times * float((self.counted_size(batch) / self.global_batch_size) ** self.followed_power)

    def next_batch(self, position: Position) -> Slice:
        """See `TrainPlan`. Where short last batches are dropped, a multiple uses the samples that the run itself would use, no fewer."""
        left = self.samples_per_epoch - position.offset
        if left <= 0:
            return self.next_batch(Position(position.epoch + 1, 0))
        return Slice(position.epoch, position.offset, position.offset + min(self.batch_size_at(position), left))

    def average_power(self, batch: Slice) -> float:
        """See `TrainPlan`. An average of weights keeps its half-life in samples, whether or not it says at which batch its decay was tuned."""
        base = self.spec.ema.base_global_batch_size if self.spec.ema else None
        return self.counted_size(batch) / (base or self.global_batch_size)

    @cached_property
    def noise_every_steps(self) -> int:
        """See `TrainPlan`. A multiple is cut into several micro-batches anyhow, so that every step of it tells the whole gradient's noise.

        In the optimizer's own norm that costs far more than a step may: then a multiple measures after as many samples as the run does.
        """
        every = super().noise_every_steps
        if self.multiple == 1 or (self.measures_dual_norm and every):
            return -(-every // self.multiple)
        return int(self.measures_pieces and not self.couples_samples and self.spec.gradient.noise_every_steps != 0)

    def steps_from(self, position: Position) -> Iterator[StepPlan]:
        """The steps from `position` on, for ever."""
        while True:
            step = self.step_at(position)
            yield step
            position = step.end


def branch_plan(plan: TrainPlan, multiple: int, power: float, seed: int, rate_times: float = 1.0) -> BranchPlan:
    """The plan of one branch. Args: power: of the multiple that the rate follows; seed: of the order; rate_times: of what the rule gives."""
    own = {field.name: getattr(plan, field.name) for field in fields(TrainPlan)}
    return BranchPlan(**(own | {"spec": plan.spec.model_copy(update={"seed": seed})}), multiple=multiple, followed_power=power, rate_times=rate_times)


def evaluation_places(largest: BranchPlan, position: Position, num_samples: int) -> tuple[int, ...]:
    """Where every branch from `position` is evaluated, in samples seen: ends of steps of the largest multiple, and so of all that divide it.

    They lie in the last quarter of the branch, `MOST_EVALUATIONS` at most and evenly spread; the last one is where the branch ends, with the
    first step that has brought it to `num_samples`.
    """
    end, ends = position.samples_seen + num_samples, list[int]()
    for step in largest.steps_from(position):
        ends.append(step.end.samples_seen)
        if ends[-1] >= end:
            break
    late = [place for place in ends if place > ends[-1] - LAST_PART * (ends[-1] - position.samples_seen)]
    stride = -(-len(late) // MOST_EVALUATIONS)
    return tuple(late[::-1][::stride][::-1])
