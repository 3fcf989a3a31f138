"""The model. Put your own in the place of what `build` returns: any nn.Module from two inputs to two embeddings (n, d)."""

import torch
from torch import Tensor, nn


class Towers(nn.Module):
    """One network for each side of a pair, and the logarithm of the scale that similarities are multiplied by."""

    def __init__(self, width: int, embedding_size: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Sequential(nn.Linear(size, width), nn.GELU(), nn.Linear(width, embedding_size)) for size in (8, 12))
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Two embeddings of any length, and the scale's logarithm."""
        return self.first(first), self.second(second), self.log_scale


def build(width: int = 64, embedding_size: int = 16) -> nn.Module:
    """Two towers; the arguments come from the recipe's `model.arguments`."""
    return Towers(width, embedding_size)
