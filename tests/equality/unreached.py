"""A model with a layer that no sample reaches and one that only some do, and one with dropout; entry points of the tests of ranks."""

import torch
from torch import Tensor, nn


class Branching(nn.Module):
    """The second layer is for batches that hold a sample of class-like brightness; the third is never used."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.always, self.sometimes, self.never = nn.Linear(64, num_classes), nn.Linear(64, num_classes), nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        logits: Tensor = self.always(flat)
        bright = flat.mean(1) > 0.25
        return logits + torch.where(bright[:, None], self.sometimes(flat), 0.0) if bool(bright.any()) else logits


def branching(num_classes: int) -> nn.Module:
    return Branching(num_classes)


class OutOfMemoryOnce(nn.Module):
    """The last rank's passes of more than `fits` samples in training, or `evaluates` in evaluation, fail as an allocator does."""

    def __init__(self, num_classes: int, fits: int, evaluates: int) -> None:
        super().__init__()
        self.layer, self.fits, self.evaluates = nn.Linear(64, num_classes), fits, evaluates

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > (self.fits if self.training else self.evaluates) and torch.distributed.get_rank() == torch.distributed.get_world_size() - 1:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate a lot")
        logits: Tensor = self.layer(images.flatten(1))
        return logits


def out_of_memory(num_classes: int, fits: int = 1000, evaluates: int = 1000) -> nn.Module:
    torch.manual_seed(0)
    return OutOfMemoryOnce(num_classes, fits, evaluates)


def dropping(num_classes: int) -> nn.Module:
    """Smooth, with dropout of elements and of channels."""
    convolution = [nn.Conv2d(1, 6, 3, stride=2), nn.GELU(), nn.Dropout2d(0.2)]
    return nn.Sequential(*convolution, nn.Flatten(), nn.Linear(54, 24), nn.GELU(), nn.Dropout(0.5), nn.Linear(24, num_classes))
