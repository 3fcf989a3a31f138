"""Models that fail on one rank in the middle of training, or are refused, and data that are gone; entry points of the tests of workers.

Each leaves a file for each process in the folder `workers`. Ray's workers find this file in their folder, and nothing else of the tests.
"""

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from largebatch.jobs.errors import SpecError

REFUSAL = SpecError("model.arguments.depth", "7 is deeper than this model can be.", "Use at most 6.")
"""Bad input, as a person's own model tells it."""


def here(workers: str) -> None:
    Path(workers, str(os.getpid())).touch()


class Failing(nn.Module):
    """Rank 1 fails after some training passes."""

    def __init__(self, num_classes: int, workers: str, error: Exception) -> None:
        super().__init__()
        self.layer, self.passes, self.error = nn.Linear(64, num_classes), 0, error
        here(workers)

    def forward(self, images: Tensor) -> Tensor:
        self.passes += self.training
        if self.passes > 20 and torch.distributed.get_rank() == 1:
            raise self.error
        return self.layer(images.flatten(1))


def build(num_classes: int, workers: str) -> nn.Module:
    return Failing(num_classes, workers, ZeroDivisionError("rank 1 cannot go on"))


def breaks(num_classes: int, workers: str) -> nn.Module:
    """A machine that fails, as torch tells it."""
    return Failing(num_classes, workers, torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"))


def refuses(num_classes: int, workers: str) -> nn.Module:
    here(workers)
    raise REFUSAL


def refuses_in_training(num_classes: int, workers: str) -> nn.Module:
    """Found out by one rank alone, in the middle of training."""
    return Failing(num_classes, workers, REFUSAL)


def vanished(workers: str) -> tuple[TensorDataset, TensorDataset]:
    """Data that are on no machine any more."""
    here(workers)
    raise FileNotFoundError("no digits anywhere")
