"""A fifth of CIFAR-10's training images and of its test images, for a machine without a GPU."""

from pathlib import Path

import torch
from torch.utils.data import TensorDataset
from torchvision.datasets import CIFAR10

DATA = Path("data").resolve()


def load(num_train: int = 10_000, num_test: int = 2_000) -> tuple[TensorDataset, TensorDataset]:
    """(training set, test set): the first images of each, which are in no order. Looked for in ./data, or where it was first run."""
    return _part(is_train=True, count=num_train), _part(is_train=False, count=num_test)


def _part(*, is_train: bool, count: int) -> TensorDataset:
    whole = CIFAR10(str(DATA), train=is_train)
    return TensorDataset(torch.as_tensor(whole.data[:count]).permute(0, 3, 1, 2).contiguous(), torch.as_tensor(whole.targets[:count]))
