"""The data. Put your own in the place of what `load` returns: any map-style data sets of (input tensor, number of the class)."""

import torch
from torch.utils.data import TensorDataset


def points(num_samples: int, seed: int) -> TensorDataset:
    """Points in eight dimensions, in three classes by how far they lie from the origin."""
    inputs = torch.randn(num_samples, 8, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, torch.bucketize(inputs.norm(dim=1), torch.tensor([2.4, 3.1])))


def load(num_train: int = 4000) -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """(Training, validation, test set); every process calls it, and it must give the same each time: seed what it draws."""
    return points(num_train, seed=1), points(1000, seed=2), points(1000, seed=3)
