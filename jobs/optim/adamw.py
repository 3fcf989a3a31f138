"""AdamW in one pass over memory, for tensors that lie in it in any way."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from largebatch.jobs.optim.tensors import laid_like, state_like


class AdamW(torch.optim.AdamW):
    """torch's AdamW, with its fused pass, which on a CPU takes it that parameter, gradient and moments lie alike: see `laid_like`."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for param_group in self.param_groups:
            self._update(param_group, [param for param in param_group["params"] if param.grad is not None])
        return loss

    def _update(self, param_group: dict[str, Any], params: list[Tensor]) -> None:
        states = [self.state[param] for param in params]
        for state, param in zip(states, params, strict=True):
            if "step" not in state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
        first_moments, second_moments = (
            [state_like(state, key, param, param.dtype) for state, param in zip(states, params, strict=True)] for key in ("exp_avg", "exp_avg_sq")
        )
        weights = [laid_like(param, moment) for param, moment in zip(params, first_moments, strict=True)]
        gradients: list[Any] = [param.grad for param in params]
        beta1, beta2 = param_group["betas"]
        adamw(
            weights,
            [laid_like(gradient, moment) for gradient, moment in zip(gradients, first_moments, strict=True)],
            first_moments,
            second_moments,
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=param_group["lr"],
            weight_decay=param_group["weight_decay"],
            eps=param_group["eps"],
            maximize=param_group["maximize"],
        )
        for param, weight in zip(params, weights, strict=True):
            if weight is not param:
                param.copy_(weight)
