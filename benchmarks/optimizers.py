"""One optimizer step on the CPU: LARS and LAMB beside torch's SGD and AdamW, timm's and pytorch_optimizer's LARS and LAMB.

On ResNet-50's and BERT-base's parameters; each optimizer alone, some steps in a row, and interleaved, a step of each in turn.
"""

import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from statistics import median
from typing import Any

import torch
from _report import in_turn, parser, publish, ratios, spread
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torchvision.models import resnet50

from largebatch.jobs.optim.lamb import LAMB
from largebatch.jobs.optim.lars import LARS

LEARNING_RATE, WEIGHT_DECAY, MOMENTUM = 1e-4, 1e-4, 0.9
STEPS_ALONE = 5
"""Optimizer steps per measurement of one alone."""
SGD_OF_TORCH, ADAMW_OF_TORCH = "torch SGD, fused", "torch AdamW, fused"

Shapes = list[tuple[int, ...]]
Sides = dict[str, Callable[..., Optimizer]]


def resnet50_shapes() -> Shapes:
    with torch.device("meta"):
        return [tuple(parameter.shape) for parameter in resnet50(weights=None).parameters()]


def bert_base_shapes() -> Shapes:
    """Of arXiv:1810.04805 with a vocabulary of 30,522: embeddings, 12 layers, pooler."""
    width, inner = 768, 3072
    linear, norm = [(width, width), (width,)], [(width,), (width,)]
    layer: Shapes = [*linear * 4, *norm, (inner, width), (inner,), (width, inner), (width,), *norm]
    return [(30522, width), (512, width), (2, width), *norm, *layer * 12, *linear]


MODELS: dict[str, Callable[[], Shapes]] = {"ResNet-50": resnet50_shapes, "BERT-base": bert_base_shapes}


def sides_there_are() -> tuple[Sides, list[str]]:
    """How each optimizer is made of parameter groups, and the libraries that are not installed."""
    common: dict[str, Any] = {"lr": LEARNING_RATE}
    sides: Sides = {
        "torch SGD, foreach": partial(SGD, momentum=MOMENTUM, foreach=True, **common),
        SGD_OF_TORCH: partial(SGD, momentum=MOMENTUM, fused=True, **common),
        ADAMW_OF_TORCH: partial(AdamW, fused=True, **common),
        "LARS": partial(LARS, momentum=MOMENTUM, **common),
        "LAMB": partial(LAMB, **common),
    }
    missing = []
    for library, module, lars, lamb, options in (
        ("timm", "timm.optim", "Lars", "Lamb", {"max_grad_norm": None}),
        ("pytorch_optimizer", "pytorch_optimizer", "LARS", "Lamb", {}),
    ):
        try:
            theirs = import_module(module)
        except ImportError:
            missing.append(library)
            continue
        sides[f"{library}'s LARS"] = partial(getattr(theirs, lars), momentum=MOMENTUM, **common)
        sides[f"{library}'s LAMB"] = partial(getattr(theirs, lamb), **options, **common)
    return sides, missing


def groups_of(shapes: Shapes, name: str) -> list[dict[str, Any]]:
    """Fresh parameters with gradients, from one seed: matrices with weight decay, vectors without and, in ours, with a ratio of 1."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(0.05 * torch.randn(shape, generator=generator)) for shape in shapes]
    for param in params:
        param.grad = 1e-3 * torch.randn(param.shape, generator=generator)
    matrices, vectors = ([param for param in params if (param.ndim > 1) == is_matrix] for is_matrix in (True, False))
    adapts = {"adapts": False} if name in ("LARS", "LAMB") else {}
    return [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0, **adapts}]


def seconds_per_step(optimizer: Optimizer, steps: int) -> Callable[[], float]:
    def measure() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            optimizer.step()
        return (time.perf_counter() - began) / steps

    return measure


def rows_of(model: str, sides: Sides, repetitions: int) -> list[dict[str, str]]:
    shapes = MODELS[model]()
    optimizers = {name: make(groups_of(shapes, name)) for name, make in sides.items()}
    for optimizer in optimizers.values():
        optimizer.step()
    rows = []
    for way, steps in (("alone", STEPS_ALONE), ("interleaved", 1)):
        seen = in_turn({name: seconds_per_step(optimizer, steps) for name, optimizer in optimizers.items()}, repetitions * (STEPS_ALONE // steps))
        rows += [
            {
                "model": model,
                "steps": way,
                "optimizer": name,
                "step, ms": f"{1000 * median(seconds):.1f}",
                "time / fused SGD's": spread(ratios(seconds, seen[SGD_OF_TORCH]), ".2f"),
                "time / fused AdamW's": spread(ratios(seconds, seen[ADAMW_OF_TORCH]), ".2f"),
            }
            for name, seconds in seen.items()
        ]
    return rows


def main() -> None:
    options = parser(__doc__, repetitions=15)
    options.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    given = options.parse_args()
    sides, missing = sides_there_are()
    rows = [row for model in given.models for row in rows_of(model, sides, given.repetitions)]
    versions = [f"{name} {version(name)}" for name in ("timm", "pytorch_optimizer") if name not in missing]
    notes = [
        "ResNet-50: 161 tensors, 25.6 million numbers; BERT-base: 199 tensors, 109 million; float32, on the CPU, the first step not counted.",
        f"Alone: {STEPS_ALONE} steps of one optimizer in a row; interleaved: one step of each, in turn, so that none finds its numbers in a cache.",
        f"Momentum {MOMENTUM} or betas 0.9 and 0.999; weight decay {WEIGHT_DECAY:g} of matrices and none of vectors, which have a ratio of 1.",
        f"Libraries: {', '.join(versions) or 'none'}." + (f" Not installed, and left out: {', '.join(missing)} (pip install)." if missing else ""),
    ]
    publish("Optimizer steps", rows, notes, given)


if __name__ == "__main__":
    main()
