"""A model that fails on one rank in the middle of training; an entry point of the tests of workers."""

import os
from pathlib import Path

import torch
from torch import Tensor, nn


class Failing(nn.Module):
    """Rank 1's third training pass divides by zero."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer, self.passes = nn.Linear(64, num_classes), 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += self.training
        if self.passes > 20 and torch.distributed.get_rank() == 1:
            raise ZeroDivisionError("rank 1 cannot go on")
        logits: Tensor = self.layer(images.flatten(1))
        return logits


def build(num_classes: int, workers: str) -> nn.Module:
    """Leaves a file for each process in the folder `workers`."""
    Path(workers, str(os.getpid())).touch()
    return Failing(num_classes)
