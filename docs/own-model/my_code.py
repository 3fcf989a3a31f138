"""Your own model and data for largebatch: two functions, named in recipe.yaml by "my_code:build" and "my_code:load"."""

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset


def build(num_classes: int, width: int = 32) -> nn.Module:
    """The model: any nn.Module from inputs (n, ...) to logits (n, num_classes). Batch-norm is welcome."""
    return nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, num_classes))


class Rings(Dataset[tuple[Tensor, int]]):
    """Points in eight dimensions, labelled by how far they are from the origin."""

    num_classes = 3  # needed for a data set that is read sample by sample

    def __init__(self, num_samples: int, seed: int) -> None:
        points = torch.randn(num_samples, 8, generator=torch.Generator().manual_seed(seed))
        self.points, self.labels = points, torch.bucketize(points.norm(dim=1), torch.tensor([2.4, 3.1]))

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.points[index], int(self.labels[index])


def load(num_train: int = 2000) -> tuple[Rings, Rings]:
    """The data: (training set, test set), both map-style."""
    return Rings(num_train, seed=1), Rings(500, seed=2)
