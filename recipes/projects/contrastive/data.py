"""The data. Put your own in the place of what `load` returns: any map-style data sets of pairs (first, second)."""

import torch
from torch.utils.data import TensorDataset

CENTRES = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
MIXING = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))


def pairs(num_samples: int, seed: int) -> TensorDataset:
    """Eight numbers, and twelve that another instrument would measure of the same."""
    draws = torch.Generator().manual_seed(seed)
    first = CENTRES[torch.randint(40, (num_samples,), generator=draws)] + torch.randn(num_samples, 8, generator=draws)
    return TensorDataset(first, (first @ MIXING).tanh() + 0.2 * torch.randn(num_samples, 12, generator=draws))


def load(num_train: int = 4000) -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """(Training, validation, test set); every process calls it, and it must give the same each time: seed what it draws."""
    return pairs(num_train, seed=2), pairs(500, seed=3), pairs(500, seed=4)
