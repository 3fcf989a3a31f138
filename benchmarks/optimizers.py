"""One optimizer step on ResNet-50's parameters: LARS and LAMB beside torch's own SGD and fused AdamW."""

import time
from collections.abc import Callable
from statistics import median

import torch
from _report import in_turn, parser, publish, ratios, spread
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torchvision.models import resnet50

from largebatch.jobs.optim.configs import OPTIMIZERS
from largebatch.jobs.optim.parameter_groups import build_optimizer, set_learning_rate

LEARNING_RATE = 1e-4
WEIGHT_DECAY = 1e-4
STEPS = 5
"""Optimizer steps per measurement."""


def _model_with_gradients() -> nn.Module:
    """Each side gets its own, from one seed: all start from the same numbers."""
    torch.manual_seed(0)
    model = resnet50(weights=None)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    return model


def _sgd() -> Optimizer:
    return SGD(_model_with_gradients().parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=WEIGHT_DECAY, foreach=True)


def _adamw() -> Optimizer:
    return AdamW(_model_with_gradients().parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)


def _ours(name: str) -> Optimizer:
    optimizer = build_optimizer(_model_with_gradients(), OPTIMIZERS[name].model_validate({"name": name, "weight_decay": WEIGHT_DECAY}))
    set_learning_rate(optimizer, LEARNING_RATE)
    return optimizer


def _seconds_per_step(optimizer: Optimizer) -> Callable[[], float]:
    def measure() -> float:
        began = time.perf_counter()
        for _ in range(STEPS):
            optimizer.step()
        return (time.perf_counter() - began) / STEPS

    return measure


def main() -> None:
    given = parser(__doc__, repetitions=15).parse_args()
    sides = {
        "torch SGD, foreach": _seconds_per_step(_sgd()),
        "torch AdamW, fused": _seconds_per_step(_adamw()),
        "LARS": _seconds_per_step(_ours("lars")),
        "LAMB": _seconds_per_step(_ours("lamb")),
    }
    for measure in sides.values():
        measure()
    seen = in_turn(sides, given.repetitions)
    rows = [
        {
            "optimizer": name,
            "step, ms": f"{1000 * median(seconds):.1f}",
            "time / SGD's": spread(ratios(seconds, seen["torch SGD, foreach"]), ".2f"),
            "time / AdamW's": spread(ratios(seconds, seen["torch AdamW, fused"]), ".2f"),
        }
        for name, seconds in seen.items()
    ]
    notes = [
        f"ResNet-50: 161 tensors, 25.6 million parameters, float32, on the CPU; {STEPS} steps per measurement, the first not counted.",
        "Momentum 0.9 or betas 0.9 and 0.999, weight decay 1e-4 (LARS and LAMB: none on biases and norms, as in training). Below 1 is faster.",
    ]
    publish("Optimizer step on ResNet-50", rows, notes, given)


if __name__ == "__main__":
    main()
