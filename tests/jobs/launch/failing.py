"""Models that fail on one rank in the middle of training, or are refused, and data that are gone; entry points of the tests of workers.

Each leaves a file for each process in the folder `workers`.
"""

import os
from pathlib import Path
from typing import Any

import torch
from small_runs import Net
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from largebatch.jobs.errors import SpecError

REFUSAL = SpecError("model.arguments.depth", "7 is deeper than this model can be.", "Use at most 6.")
"""Bad input, as a person's own model tells it."""


def here(workers: str) -> None:
    Path(workers, str(os.getpid())).touch()


def failing(num_classes: int, workers: str, error: Exception) -> nn.Module:
    """Rank 1 fails after some training passes."""

    def forward(model: Any, images: Tensor) -> Tensor:
        model.passes += model.training
        if model.passes > 20 and torch.distributed.get_rank() == 1:
            raise error
        return model.layer(images.flatten(1))

    here(workers)
    return Net(forward, layer=nn.Linear(64, num_classes), passes=0)


def build(num_classes: int, workers: str) -> nn.Module:
    return failing(num_classes, workers, ZeroDivisionError("rank 1 cannot go on"))


def breaks(num_classes: int, workers: str) -> nn.Module:
    """A machine that fails, as torch tells it."""
    return failing(num_classes, workers, torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"))


def refuses(num_classes: int, workers: str) -> nn.Module:
    here(workers)
    raise REFUSAL


def refuses_in_training(num_classes: int, workers: str) -> nn.Module:
    """Found out by one rank alone, in the middle of training."""
    return failing(num_classes, workers, REFUSAL)


def vanished(workers: str) -> tuple[TensorDataset, TensorDataset]:
    """Data that are on no machine any more."""
    here(workers)
    raise FileNotFoundError("no digits anywhere")
