"""Optimizers that do not import torch's compiler.

torch marks some methods of its optimizers as never to be compiled, and making the mark imports the compiler: 900 modules
and a second of every start. A model here may be compiled, an optimizer never is, so the same methods are called without
the mark.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

_ADD_PARAM_GROUP = inspect.unwrap(Optimizer.add_param_group)
_STATE_DICT = inspect.unwrap(Optimizer.state_dict)
_LOAD_STATE_DICT = inspect.unwrap(Optimizer.load_state_dict)
_ZERO_GRAD = inspect.unwrap(Optimizer.zero_grad)
_SGD_STEP = inspect.unwrap(SGD.step)
_ADAMW_STEP = inspect.unwrap(AdamW.step)


class EagerOptimizer(Optimizer):
    """torch's Optimizer, its methods unmarked; runs no step hooks and gives a profiler no label for its step.

    Those two, which nothing here uses, would cost 0.03 ms a step where the caches are cold.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.step.hooked = True  # type: ignore[attr-defined]  # what torch marks a step with that it has wrapped

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
    """torch's AdamW, `fused` and without `amsgrad`: the same bits, with less said between two passes.

    torch gathers its lists anew in every step, and counts the steps of every parameter by an operation of its own: 0.2 ms
    for 22 parameters, 4 % of a small step on a CPU. Here the lists stay, and the counts lie side by side.
    """

    _lists: "list[_Lists] | None" = None
    """One for each group; None until every parameter has its state."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer`."""
        super().add_param_group(param_group)
        self._lists = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer`."""
        super().load_state_dict(state_dict)
        self._lists = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """See `torch.optim.AdamW`."""
        self._lists = self._lists or self._gathered()
        gradients = [[param.grad for param in group["params"]] for group in self.param_groups]
        missing = [1 for listed in gradients for gradient in listed if gradient is None]
        if closure is not None or self._lists is None or missing:
            return _ADAMW_STEP(self, closure)
        for group, lists, listed in zip(self.param_groups, self._lists, gradients, strict=True):
            lists.counts.add_(1)
            beta1, beta2 = group["betas"]
            torch._fused_adamw_(
                lists.params,
                listed,
                lists.first_moments,
                lists.second_moments,
                [],
                lists.steps,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=group["maximize"],
            )
        return None

    def _gathered(self) -> "list[_Lists] | None":
        params = [param for group in self.param_groups for param in group["params"]]
        if len({(param.device, param.dtype) for param in params}) > 1 or not all(self.state.get(param) for param in params):
            return None
        return [_Lists(group["params"], [self.state[param] for param in group["params"]]) for group in self.param_groups]


class _Lists:
    """What the fused pass over one group is called with; every parameter's count becomes a part of one tensor."""

    def __init__(self, params: list[Tensor], states: list[dict[str, Tensor]]) -> None:
        self.params = params
        self.first_moments = [state["exp_avg"] for state in states]
        self.second_moments = [state["exp_avg_sq"] for state in states]
        self.counts = torch.stack([state["step"] for state in states])
        self.steps = list(self.counts.unbind())
        for state, step in zip(states, self.steps, strict=True):
            state["step"] = step
