"""Data sets that are not the same on every rank; entry points of the tests of ranks."""

import os
import random
import signal

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

GOES_AT = 17
"""The sample that a reading process of rank 1 dies of."""


def samples(num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_samples, 8, generator=generator), torch.randint(0, 3, (num_samples,), generator=generator)


def held(kind: str) -> tuple[TensorDataset, TensorDataset]:
    """Another order, another length or other numbers of the classes on rank 1."""
    (inputs, labels), test, differs = samples(300, 1), samples(90, 2), torch.distributed.get_rank() == 1
    if differs and kind == "order":
        order = torch.randperm(300)
        inputs, labels = inputs[order], labels[order]
    if differs and kind == "length":
        inputs, labels = inputs[:299], labels[:299]
    if differs and kind == "classes":
        test = test[0], 2 - test[1]
    return TensorDataset(inputs, labels), TensorDataset(*test)


class Read(Dataset[tuple[Tensor, int]]):
    """Read sample by sample; `augments` beyond any seed's reach, `dies` in a process of rank 1 that reads."""

    num_classes = 3

    def __init__(self, num_samples: int, seed: int, kind: str) -> None:
        self.inputs, self.labels = samples(num_samples, seed)
        self.augments, self.dies = kind == "augments", kind == "dies" and torch.distributed.get_rank() == 1

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.dies and index == GOES_AT and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        scale = random.SystemRandom().random() if self.augments else 1.0
        return self.inputs[index] * scale, int(self.labels[index])


def read(kind: str) -> tuple[Read, Read]:
    return Read(300, 1, kind), Read(90, 2, kind)
