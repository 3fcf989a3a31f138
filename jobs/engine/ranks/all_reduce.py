"""The gradient of one step's batch, summed over micro-batches and ranks.

    with all_reduce.step(step, total_weight, num_micro_batches) as gradient_sum:
        for micro_batch in micro_batches:
            with gradient_sum.micro_batch(weight):
                ...  # backward pass of the micro-batch's summed loss over `total_weight`

and `.grad` holds the sum: the mean gradient of the batch. One process, several ranks, compression and local SGD
look alike here. Weights are what the mean divides by, of a micro-batch and in all: today each sample weighs 1.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from largebatch.jobs.engine.ranks.compression import make_reduction
from largebatch.jobs.engine.ranks.gradient_norm import SquaredNorm
from largebatch.jobs.engine.ranks.local_sum import LocalSum
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.engine.ranks.reduced_sum import ReducedSum
from largebatch.jobs.plan.step_plan import StepPlan
from largebatch.jobs.spec.train_spec import ReductionSpec

GradientSum = LocalSum | ReducedSum


class AllReduce:
    """Makes the sum that a step needs: of this process alone, or over all ranks."""

    def __init__(self, model: nn.Module, ranks: Ranks, spec: ReductionSpec) -> None:
        params = [param for param in model.parameters() if param.requires_grad]
        squared_norm = SquaredNorm(params)
        self._local = LocalSum(params, squared_norm)
        self._reduced = ReducedSum(params, squared_norm, make_reduction(spec)) if ranks.world_size > 1 else None

    @contextmanager
    def step(self, step: StepPlan, total_weight: float, num_micro_batches: int) -> Iterator[GradientSum]:
        """Sum one step's gradient. Every rank enters and leaves, also one without samples or one whose pass failed: the others wait for it.

        Args:
            step: with the number of the one before, a repetition of it: what that left is forgotten.
            total_weight: of all micro-batches that the sum is over.
            num_micro_batches: of this rank.
        Raises: FaultError where memory for the reduction itself runs out.
        """
        if self._reduced is None or step.is_local:
            self._local.start(total_weight, num_micro_batches, measures=step.measures_noise and num_micro_batches > 1)
            yield self._local
            self._local.finish()
        else:
            self._reduced.start(step.number, total_weight, num_micro_batches)
            yield self._reduced
            self._reduced.finish()
