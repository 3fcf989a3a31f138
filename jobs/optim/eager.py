"""Optimizers that do not import torch's compiler.

torch marks some methods of its optimizers as never to be compiled, and making the mark imports the compiler: 900 modules
and a second of every start. A model here may be compiled, an optimizer never is, so the same methods are called without
the mark.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import SGD, AdamW, Optimizer

_ADD_PARAM_GROUP = inspect.unwrap(Optimizer.add_param_group)
_STATE_DICT = inspect.unwrap(Optimizer.state_dict)
_LOAD_STATE_DICT = inspect.unwrap(Optimizer.load_state_dict)
_ZERO_GRAD = inspect.unwrap(Optimizer.zero_grad)
_SGD_STEP = inspect.unwrap(SGD.step)
_ADAMW_STEP = inspect.unwrap(AdamW.step)


class EagerOptimizer(Optimizer):
    """torch's Optimizer, its methods unmarked."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer`."""
        _ADD_PARAM_GROUP(self, param_group)

    def state_dict(self) -> dict[str, Any]:
        """See `torch.optim.Optimizer`."""
        state: dict[str, Any] = _STATE_DICT(self)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer`."""
        _LOAD_STATE_DICT(self, state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """See `torch.optim.Optimizer`."""
        _ZERO_GRAD(self, set_to_none)


class EagerSGD(EagerOptimizer, SGD):
    """torch's SGD."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """See `torch.optim.SGD`."""
        return _SGD_STEP(self, closure)


class EagerAdamW(EagerOptimizer, AdamW):
    """torch's AdamW."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """See `torch.optim.AdamW`."""
        return _ADAMW_STEP(self, closure)
