"""The model. Put your own in the place of what `build` returns: any nn.Module from inputs (n, ...) to logits (n, num_classes)."""

from torch import nn


def build(num_classes: int, width: int = 64) -> nn.Module:
    """Two hidden layers; `num_classes` comes from the data, `width` from the recipe's `model.arguments`."""
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, num_classes))
