"""Models that fail on one rank in the middle of training, or are refused, and data that are gone; entry points of the tests of workers."""

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from largebatch.jobs.errors import SpecError


class Failing(nn.Module):
    """Rank 1 fails after some training passes; by a division by zero, unless told otherwise."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer, self.passes = nn.Linear(64, num_classes), 0
        self.error: Exception = ZeroDivisionError("rank 1 cannot go on")

    def forward(self, images: Tensor) -> Tensor:
        self.passes += self.training
        if self.passes > 20 and torch.distributed.get_rank() == 1:
            raise self.error
        return self.layer(images.flatten(1))


def build(num_classes: int, workers: str) -> nn.Module:
    """Leaves a file for each process in the folder `workers`."""
    Path(workers, str(os.getpid())).touch()
    return Failing(num_classes)


def breaks(num_classes: int, workers: str) -> nn.Module:
    """A machine that fails, as torch tells it. Leaves a file for each process in the folder `workers`."""
    Path(workers, str(os.getpid())).touch()
    model = Failing(num_classes)
    model.error = torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")
    return model


def refuses(num_classes: int, workers: str) -> nn.Module:
    """Bad input, as a person's own model tells it. Leaves a file for each process in the folder `workers`."""
    Path(workers, str(os.getpid())).touch()
    raise SpecError("model.arguments.depth", "7 is deeper than this model can be.", "Use at most 6.")


def refuses_in_training(num_classes: int, workers: str) -> nn.Module:
    """The same, found out by one rank alone, in the middle of training."""
    Path(workers, str(os.getpid())).touch()

    class Refusing(Failing):
        def forward(self, images: Tensor) -> Tensor:
            try:
                return super().forward(images)
            except ZeroDivisionError as error:
                raise SpecError("model.arguments.depth", "7 is deeper than this model can be.", "Use at most 6.") from error

    return Refusing(num_classes)


def vanished(workers: str) -> tuple[TensorDataset, TensorDataset]:
    """Data that are on no machine any more."""
    Path(workers, str(os.getpid())).touch()
    raise FileNotFoundError("no digits anywhere")
