"""What each micro-batch's backward pass begins from, such that gradients add up to the one of the whole batch's mean loss."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import Tree
from largebatch.jobs.tasks.base import Task


class Objective(Protocol):
    """A step's objective on one rank."""

    loss_sum: Tensor
    """Of this rank's samples, as far as they are known; 0-d, float64, on the device."""

    def of(self, batch: Tree, micro_batch: Slice) -> Tensor:
        """Pass a micro-batch forward; returns what its backward pass begins from, 0-d."""

    def of_passed(self, micro_batch: Slice) -> Tensor | None:
        """The same of a micro-batch that was passed forward before, the last that was; asked of each in order; None where it was not."""


class SummedLoss:
    """The objective of a loss that is a sum over samples: each micro-batch's part of it, over the weight of the whole step."""

    def __init__(self, task: Task, forward: Callable[..., Any], total_weight: float, device: torch.device) -> None:
        self._task, self._forward, self._total_weight = task, forward, total_weight
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)

    def of(self, batch: Tree, micro_batch: Slice) -> Tensor:
        """See `Objective`."""
        loss = self._task.loss_sum(self._forward, batch)
        self.loss_sum = self.loss_sum + loss.detach().double()
        return loss / self._total_weight

    def of_passed(self, micro_batch: Slice) -> None:
        """See `Objective`: none is."""
