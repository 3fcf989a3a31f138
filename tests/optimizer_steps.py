"""Steps of an optimizer on one tensor whose gradients are given."""

import math
from typing import Any

import torch
from torch import Tensor, nn

STEPS = 10
RATES = [0.5, 0.5, 0.4, 0.1, 0.0, 2.0, 1.0, 0.3, 0.3, 0.05]
Vector = list[float]


def length(vector: Vector) -> float:
    return math.sqrt(math.fsum(x * x for x in vector))


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def drawn(seed: int, size: int = 7) -> tuple[Tensor, list[Tensor]]:
    """Weights, and a gradient for each step."""
    generator = torch.Generator().manual_seed(seed)
    weights, *gradients = (torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(STEPS + 1))
    return weights, gradients


def run(optimizer: type, weights: Tensor, gradients: list[Tensor], rates: list[float], **options: Any) -> Tensor:
    """The weights after a step for each gradient."""
    param = nn.Parameter(weights.clone())
    adapts = {"adapts": options.pop("adapts")} if "adapts" in options else {}
    stepper = optimizer([{"params": [param], **adapts}], lr=1.0, **options)
    for gradient, rate in zip(gradients, rates, strict=True):
        param.grad = gradient.clone()
        stepper.param_groups[0]["lr"] = rate
        stepper.step()
    return param.detach()
