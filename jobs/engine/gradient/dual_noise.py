"""The noise of one step's gradient in the optimizer's own norm, from the difference of the two halves of its samples.

The halves, first and second in the order of the samples, weigh W_1 and W_2, W together, and have the mean gradients h_1 and h_2:

    D = sqrt(W_1 W_2) / W (h_1 - h_2) = sqrt(W_2 / W_1) sum_{j in 1} F_j - sqrt(W_1 / W_2) sum_{j in 2} F_j

F_j being what a backward pass adds to the sum, w_j g_j / W. Which half a sample is in follows from its place in the batch, so no split over
micro-batches and ranks changes D; it is summed over ranks as it is, whatever compresses the gradient itself.
What |D|_* says: `engine/noise_scale.py`.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor

from largebatch.jobs.engine.gradient.share import Share
from largebatch.jobs.engine.out_of_memory import ran_out_of_memory
from largebatch.jobs.errors import FaultError
from largebatch.jobs.optim.dual_norm import DualNorm
from largebatch.jobs.optim.tensors import at_least_float32
from largebatch.jobs.samples.slice import Slice


class DualNoise:
    """Takes the gradients of a step's passes as they arrive. Every rank makes one, at the same time; it keeps as much as a gradient.

    Args: share: with its weights.
    """

    def __init__(self, norm: DualNorm, share: Share) -> None:
        self._norm, self._ranks, self._middle = norm, share.state.ranks, share.step.middle
        weighed = list(zip(share.micro_batches, share.weights, strict=True))
        first, second = self._ranks.sum_numbers(
            *(sum(weight for micro_batch, weight in weighed if self._is_first(micro_batch) is first) for first in (True, False))
        )
        self._factors = {True: math.sqrt(second / first), False: -math.sqrt(first / second)} if first > 0 and second > 0 else None
        self._difference: dict[Tensor, Tensor] = {}

    def _is_first(self, micro_batch: Slice) -> bool:
        return micro_batch.stop <= self._middle

    @contextmanager
    def micro_batch(self, micro_batch: Slice) -> Iterator[None]:
        """A context for one micro-batch's forward and backward pass."""
        with ExitStack() as hooks:
            if self._factors is not None:
                factor = self._factors[self._is_first(micro_batch)]
                for param in self._norm.params:
                    hooks.enter_context(param.register_hook(partial(self._arrived, param, factor)))  # type: ignore[no-untyped-call]
            yield

    def _arrived(self, param: Tensor, factor: float, gradient: Tensor) -> None:
        """What a pass adds to a parameter's gradient, before it is added."""
        gradient = gradient.detach().to(at_least_float32(gradient.dtype))
        if param in self._difference:
            self._difference[param].add_(gradient, alpha=factor)
        else:
            self._difference[param] = (gradient * factor).contiguous()  # as ranks sum it

    @torch.no_grad()
    def norms(self) -> tuple[float, float] | None:
        """(|G_B|_*, |D|_*), the same on every rank, now that a finite G_B is in `.grad`; None where a half weighs nothing.

        Each rank takes the norms of some parameters. Raises: FaultError where memory runs out, for the other ranks wait.
        """
        if self._factors is None:
            return None
        try:
            for param in self._norm.params if self._ranks.world_size > 1 else ():
                if param not in self._difference:
                    self._difference[param] = torch.zeros(param.shape, dtype=at_least_float32(param.dtype), device=param.device)
                self._ranks.sum(self._difference[param])
            own = self._norm.params[self._ranks.rank :: self._ranks.world_size]
            gradients = [{param: param.grad for param in own}, {param: self._difference.get(param) for param in own}]
            of_batch, of_difference = self._ranks.sum(torch.stack([self._norm.of(each) for each in gradients])).tolist()
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            problem = "memory ran out while noise was measured in the optimizer's norm, which keeps as much as a gradient."
            raise FaultError("gradient.noise_norm", problem, "Set gradient.noise_norm=euclidean, or a smaller batch.micro_batch_size.") from error
        return of_batch, of_difference
