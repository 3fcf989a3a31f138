"""The model. Put your own in the place of what `build` returns: any nn.Module from inputs (n, ...) to numbers of the targets' shape."""

from torch import nn


def build(num_outputs: int, width: int = 64) -> nn.Module:
    """Two hidden layers; `num_outputs` comes from the data, `width` from the recipe's `model.arguments`."""
    return nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, num_outputs))
