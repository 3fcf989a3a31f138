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

from largebatch.jobs.optim.tensors import dense_like, laid_like

_ADD_PARAM_GROUP = inspect.unwrap(Optimizer.add_param_group)
_STATE_DICT = inspect.unwrap(Optimizer.state_dict)
_LOAD_STATE_DICT = inspect.unwrap(Optimizer.load_state_dict)
_ZERO_GRAD = inspect.unwrap(Optimizer.zero_grad)
_SGD_STEP = inspect.unwrap(SGD.step)


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
    """torch's AdamW, `fused` and without `amsgrad`: the same bits, with less said between two passes, for tensors laid out in any way.

    torch gathers its lists anew in every step, and counts the steps of every parameter by an operation of its own: 0.2 ms
    for 22 parameters, 4 % of a small step on a CPU. Here the lists stay, and the counts lie side by side. And torch's pass
    on a CPU takes it that all tensors lie alike in memory; see `laid_like`.
    """

    _passes: "list[_FusedPass] | None" = None
    """All that have a gradient; None until a step needs them."""
    _unreached: list[Tensor]
    """The parameters that had no gradient when the passes were made."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer`."""
        super().add_param_group(param_group)
        self._passes = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer`."""
        super().load_state_dict(state_dict)
        self._passes = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """See `torch.optim.AdamW`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = self._gradients()
        if gradients is None:
            self._gather()
            gradients = self._gradients()
        assert self._passes is not None
        assert gradients is not None
        for fused_pass, listed in zip(self._passes, gradients, strict=True):
            fused_pass.step(listed)
        return loss

    def _gradients(self) -> list[list[Tensor]] | None:
        """Those of every pass; None where other parameters have one than when the passes were made."""
        if self._passes is None or any([param.grad is not None for param in self._unreached]):
            return None
        gradients = [[param.grad for param in fused_pass.params] for fused_pass in self._passes]
        return None if any([gradient is None for listed in gradients for gradient in listed]) else gradients  # type: ignore[return-value]

    def _gather(self) -> None:
        self._unreached = [param for group in self.param_groups for param in group["params"] if param.grad is None]
        self._passes = []
        for group in self.param_groups:
            alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
            for param in group["params"]:
                if param.grad is not None:
                    alike.setdefault((param.device, param.dtype), []).append(param)
            self._passes += [_FusedPass(group, params, [self.state[param] for param in params]) for params in alike.values()]


class _FusedPass:
    """One call for some parameters of one group, device and dtype; their counts become parts of one tensor."""

    def __init__(self, group: dict[str, Any], params: list[Tensor], states: list[dict[str, Tensor]]) -> None:
        self.params = params
        self._group = group
        for param, state in zip(params, states, strict=True):
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = laid_like(state[key], dense_like(param)) if key in state else torch.zeros_like(param)
        self._first_moments = [state["exp_avg"] for state in states]
        self._second_moments = [state["exp_avg_sq"] for state in states]
        self._strides = [moment.stride() for moment in self._first_moments]
        self._counts = torch.stack([state["step"] for state in states])
        self._steps = list(self._counts.unbind())
        for state, step in zip(states, self._steps, strict=True):
            state["step"] = step

    def step(self, gradients: list[Tensor]) -> None:
        """Update the parameters."""
        weights = self._laid_like_moments(self.params)
        self._counts.add_(1)
        beta1, beta2 = self._group["betas"]
        torch._fused_adamw_(
            weights,
            self._laid_like_moments(gradients),
            self._first_moments,
            self._second_moments,
            [],
            self._steps,
            lr=self._group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=self._group["weight_decay"],
            eps=self._group["eps"],
            amsgrad=False,
            maximize=self._group["maximize"],
        )
        if weights is not self.params:
            for param, weight in zip(self.params, weights, strict=True):
                if weight is not param:
                    param.copy_(weight)

    def _laid_like_moments(self, tensors: list[Tensor]) -> list[Tensor]:
        """The list itself where all lie so, which costs 2 microseconds for 22 to find out."""
        if [tensor.stride() for tensor in tensors] == self._strides:
            return tensors
        return [laid_like(tensor, moment) for tensor, moment in zip(tensors, self._first_moments, strict=True)]
