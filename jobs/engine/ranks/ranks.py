"""The ranks of one run, and what they agree on before any of them acts.

One process alone is the only rank: the same calls, no communication.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.optim.tensors import at_least_float32

T = TypeVar("T")


class Ranks:
    """All ranks of torch's default process group, or this process alone.

    Args: device: where this rank's tensors lie; NCCL reduces nothing else.
    """

    def __init__(self, device: torch.device) -> None:
        joined = dist.is_available() and dist.is_initialized()
        self.device = device
        self.rank = dist.get_rank() if joined else 0
        self.world_size = dist.get_world_size() if joined else 1

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the journal and the checkpoints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """`values` summed over ranks, bit for bit the same on all; the argument itself is overwritten."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def sum_numbers(self, *numbers: float) -> list[float]:
        """A few host numbers summed over ranks in float64."""
        if self.world_size == 1:
            return list(numbers)
        return self.sum(torch.tensor(numbers, dtype=torch.float64, device=self.device)).tolist()

    def largest(self, values: Tensor) -> Tensor:
        """Element by element the largest of the ranks' values; the argument itself is overwritten."""
        if self.world_size > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def gathered(self, value: T) -> list[T]:
        """Every rank's value, in the ranks' order."""
        values: list[T | None] = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value)
        return cast(list[T], values)

    def take_from_first(self, tensors: list[Tensor]) -> None:
        """Overwrite `tensors` with those of rank 0."""
        if self.world_size > 1:
            for tensor in tensors:
                # What travels is memory from the first number on, whatever the strides: a slice's gaps would go in the place of its numbers.
                sent = tensor.contiguous()
                dist.broadcast(sent, 0)
                if sent is not tensor:
                    tensor.copy_(sent)

    def from_first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every rank. Raises: LargebatchError, on every rank, if it cannot."""
        values = [self.agreed(lambda: make() if self.is_first else None)]
        if self.world_size > 1:
            dist.broadcast_object_list(values, 0)
        return cast(T, values[0])

    def wait(self) -> None:
        """Go on when every rank is here."""
        if self.world_size > 1:
            dist.barrier()

    def raise_first(self, error: LargebatchError | None) -> None:
        """Raise on every rank what went wrong on any: the lowest rank's error. Every rank must call this."""
        if self.sum_numbers(float(error is not None))[0]:
            error = next(error for error in self.gathered(error) if error is not None)
            error.is_agreed = True
            raise error

    def agreed(self, make: Callable[[], T]) -> T:
        """What each rank makes for itself. Raises: LargebatchError, the same on every rank, if any cannot."""
        value: T | None = None
        own_error: LargebatchError | None = None
        try:
            value = make()
        except LargebatchError as error:
            own_error = error
        self.raise_first(own_error)
        return cast(T, value)


def sum_together(tensors: list[Tensor], divisor: int = 1) -> None:
    """Replace many floating-point tensors by their sums over ranks, over `divisor`; added up in float32 at the least, in one go for each type."""
    for dtype in dict.fromkeys(at_least_float32(tensor.dtype) for tensor in tensors):
        same = [tensor for tensor in tensors if at_least_float32(tensor.dtype) == dtype]
        flat = torch.cat([tensor.reshape(-1).to(dtype) for tensor in same])
        dist.all_reduce(flat)
        flat.div_(divisor)  # before any is overwritten: one tensor may be a view of another
        for tensor, piece in zip(same, torch.split(flat, [tensor.numel() for tensor in same]), strict=True):
            tensor.copy_(piece.view(tensor.shape))
