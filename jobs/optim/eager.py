"""Optimizers that do not import torch's compiler.

torch marks methods of its optimizers as never to be compiled, and making the mark imports the compiler: 900 modules, 1.5 s of every start whose
model and data do not bring it along anyhow, as torchvision does (docs/results/speedups.md). No optimizer is compiled here.
"""

import inspect
from typing import TypeVar

import torch
from torch.optim import Optimizer

Kind = TypeVar("Kind", bound=Optimizer)


def eager(kind: type[Kind]) -> type[Kind]:
    """A class of optimizers with its methods as they are below torch's mark."""
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad")}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(inspect.unwrap(kind.step))})
