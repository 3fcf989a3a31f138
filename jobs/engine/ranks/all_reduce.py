"""The gradient of one step's batch, summed over micro-batches and ranks.

    with all_reduce.step(step, total_weight, num_micro_batches) as gradient_sum:
        for micro_batch in micro_batches:
            with gradient_sum.micro_batch(weight):
                ...  # backward pass of the micro-batch's summed loss over `total_weight`

and `.grad` holds the sum: the mean gradient of the batch. One process, several ranks, compression and local SGD
look alike here. Weights are what the mean divides by, of a micro-batch and in all: samples, or what a task weighs, such as tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from largebatch.jobs.engine.ranks.compression import make_reduction
from largebatch.jobs.engine.ranks.gradient_norm import SquaredNorm
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.engine.ranks.sum_over_ranks import SumOverRanks
from largebatch.jobs.optim.tensors import at_least_float32
from largebatch.jobs.plan.step_plan import StepPlan
from largebatch.jobs.spec.train_spec import ReductionSpec


class SumInProcess:
    """Sums over this process's micro-batches.

    Each micro-batch's gradient arrives in a fresh `.grad` and is added up beside it: no more arithmetic than
    autograd's own adding, and its norm can be taken on the way. That of a single micro-batch stays where it arrives.
    A parameter that was not reached has no gradient. The sum is float32 at the least: bfloat16 loses what is 2^-9 of it.
    """

    def __init__(self, params: list[nn.Parameter], squared_norm: SquaredNorm) -> None:
        self._params = params
        self.squared_norm = squared_norm
        """Of what is in `.grad`."""
        self._zero = torch.zeros((), dtype=torch.float64, device=params[0].device)
        self.mean_squared_norm = self._zero
        """This rank's part of A = sum_i (w_i / W) |g_i|^2, the squared norms of the pieces' mean gradients; whole when the step's context ends."""
        self.reached = torch.empty(0, dtype=torch.float64, device=params[0].device)
        """For each parameter, 1 if a pass of this rank's has reached it and 0 if not; nothing where `.grad` tells."""
        self._total: list[Tensor | None] | None = None

    def start(self, total_weight: float, num_micro_batches: int, measures: bool) -> None:
        """Begin a step: nothing is summed yet. Args: measures: whether the micro-batches' norms are wanted."""
        self._total_weight, self._num_left, self._measures = total_weight, num_micro_batches, measures
        self._total, self.mean_squared_norm = None, self._zero
        self._clear()

    def _clear(self) -> None:
        for param in self._params:
            param.grad = None

    @contextmanager
    def micro_batch(self, weight: float) -> Iterator[None]:
        """A context for one micro-batch's forward and backward pass."""
        if self._total is not None:
            self._clear()
        yield
        self._num_left -= 1
        if self._measures and weight:  # |g_i|^2 w_i / W, where .grad holds g_i w_i / W
            self.mean_squared_norm = self.mean_squared_norm + self.squared_norm() * (self._total_weight / weight)
        if self._total is not None or self._num_left:
            gradients = [param.grad for param in self._params]
            self._total = _sum([None] * len(gradients) if self._total is None else self._total, gradients)

    def finish(self) -> None:
        """Leave the sum in `.grad`."""
        if self._total is not None:
            for param, gradient in zip(self._params, self._total, strict=True):
                param.grad = gradient if gradient is None else gradient.to(param.dtype)

    def leave_out(self, reached: list[float]) -> None:
        """Take the gradient from parameters that no rank has reached: an optimizer must not decay them either. Here they have none."""


def _sum(totals: list[Tensor | None], gradients: list[Tensor | None]) -> list[Tensor | None]:
    """A parameter that some micro-batch did not reach counts as zero there."""
    for total, gradient in zip(totals, gradients, strict=True):
        if total is not None and gradient is not None:
            total.add_(gradient)
    return [
        total if total is not None or gradient is None else gradient.to(at_least_float32(gradient.dtype))
        for total, gradient in zip(totals, gradients, strict=True)
    ]


GradientSum = SumInProcess | SumOverRanks


class AllReduce:
    """Makes the sum that a step needs: of this process alone, or over all ranks."""

    def __init__(self, model: nn.Module, ranks: Ranks, spec: ReductionSpec) -> None:
        params = [param for param in model.parameters() if param.requires_grad]
        squared_norm = SquaredNorm(params)
        self._in_process = SumInProcess(params, squared_norm)
        self._over_ranks = SumOverRanks(params, squared_norm, make_reduction(spec)) if ranks.world_size > 1 else None

    @contextmanager
    def step(self, step: StepPlan, total_weight: float, num_micro_batches: int) -> Iterator[GradientSum]:
        """Sum one step's gradient. Every rank enters and leaves, also one without samples or one whose pass failed: the others wait for it.

        Args:
            step: with the number of the one before, a repetition of it: what that left is forgotten.
            total_weight: of all micro-batches that the sum is over.
            num_micro_batches: of this rank.
        Raises: FaultError where memory for the reduction itself runs out.
        """
        if self._over_ranks is None or step.is_local:
            self._in_process.start(total_weight, num_micro_batches, measures=step.measures_noise and num_micro_batches > 1)
            yield self._in_process
            self._in_process.finish()
        else:
            self._over_ranks.start(step.number, total_weight, num_micro_batches)
            yield self._over_ranks
            self._over_ranks.finish()
