"""LARS: momentum SGD with a learning rate per layer (You et al., arXiv:1708.03888, Algorithm 1).

    ratio = eta * |w| / (|g| + beta * |w| + epsilon)
    v <- m * v + lr * ratio * (g + beta * w)
    w <- w - v

m momentum, beta weight decay, eta trust coefficient, |.| the L2 norm of one parameter tensor.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from largebatch.jobs.optim.groupwise import GroupwiseOptimizer
from largebatch.jobs.optim.tensors import at_least_float32, in_at_least_float32, norms, state_like


class LARS(GroupwiseOptimizer):
    """LARS, with the choices on which the literature differs as options; defaults are the paper's.

    Leaves `.grad` as it was found, clips nothing and warms nothing up. Norms, ratios and the momentum buffer
    are float32 (float64 for float64 parameters); nothing is copied to the host.

    Args:
        params: parameters or groups. A group may set any option; `adapts=False` gives it a ratio of 1, which
            is SGD with momentum (customary for biases and normalisation parameters).
        lr: learning rate.
        momentum: m, in [0, 1).
        weight_decay: beta >= 0, coupled: added to the gradient, and part of the ratio.
        trust_coefficient: eta > 0, about 1e-3.
        epsilon: >= 0, added to the ratio's denominator; 0 in the paper.
        nesterov: step along lr * ratio * (g + beta * w) + m * v instead of v.
        learning_rate_in_momentum: True, the paper: v holds lr, so a change of lr reaches the step over
            1 / (1 - m) steps. False, most public code: v <- m * v + ratio * (g + beta * w); w <- w - lr * v.
        max_trust_ratio: upper bound of the ratio; None: unbounded, as in the paper.
        zero_norms: the ratio where |w| or |g| is 0, of which the paper says nothing: "one", or what the "equation" gives, by
            which a weight of zeros never moves; 1 where it gives 0 / 0.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        epsilon: float = 0.0,
        nesterov: bool = False,
        learning_rate_in_momentum: bool = True,
        max_trust_ratio: float | None = None,
        zero_norms: Literal["one", "equation"] = "one",
    ) -> None:
        if lr < 0:
            raise ValueError(f"lr must be at least 0, not {lr}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), not {momentum}.")
        if weight_decay < 0 or epsilon < 0:
            raise ValueError(f"weight_decay and epsilon must be at least 0, not {weight_decay} and {epsilon}.")
        if trust_coefficient <= 0:
            raise ValueError(f"trust_coefficient must be above 0, not {trust_coefficient}.")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "epsilon": epsilon,
            "nesterov": nesterov,
            "learning_rate_in_momentum": learning_rate_in_momentum,
            "max_trust_ratio": max_trust_ratio,
            "zero_norms": zero_norms,
            "adapts": True,
        }
        super().__init__(params, defaults)

    def _update(self, param_group: dict[str, Any], params: list[Tensor]) -> None:
        learning_rate, momentum, weight_decay = param_group["lr"], param_group["momentum"], param_group["weight_decay"]
        weights = in_at_least_float32(params)
        gradients = in_at_least_float32([param.grad for param in params])
        updates = list(torch._foreach_add(gradients, weights, alpha=weight_decay)) if weight_decay else [g.clone() for g in gradients]
        if param_group["adapts"]:
            torch._foreach_mul_(updates, trust_ratios(norms(weights), norms(gradients), param_group))
        inside = param_group["learning_rate_in_momentum"]
        if inside:
            torch._foreach_mul_(updates, learning_rate)
        if momentum:
            velocities = [state_like(self.state[param], "velocity", param, at_least_float32(param.dtype)) for param in params]
            torch._foreach_mul_(velocities, momentum)
            torch._foreach_add_(velocities, updates)
            if param_group["nesterov"]:
                torch._foreach_add_(updates, velocities, alpha=momentum)
            else:
                updates = velocities
        torch._foreach_add_(params, updates, alpha=-1.0 if inside else -learning_rate)


def trust_ratios(weight_norms: list[Tensor], gradient_norms: list[Tensor], param_group: dict[str, Any]) -> list[Tensor]:
    """The layer-wise factors on the learning rate.

        ratio = eta * |w| / (|g| + beta * |w| + epsilon)

    Args:
        weight_norms, gradient_norms: 0-d, L2, one tensor's each.
        param_group: options `trust_coefficient` (eta), `weight_decay` (beta), `epsilon`, `max_trust_ratio`, `zero_norms`.

    Returns:
        0-d tensors >= 0, on the norms' device.
    """
    weight, gradient = torch.stack(weight_norms), torch.stack(gradient_norms)
    denominator = gradient + param_group["weight_decay"] * weight + param_group["epsilon"]
    ratio = param_group["trust_coefficient"] * weight / denominator
    if param_group["max_trust_ratio"] is not None:
        ratio = ratio.clamp(max=param_group["max_trust_ratio"])
    follows = (weight > 0) & (gradient > 0) if param_group.get("zero_norms", "one") == "one" else denominator > 0
    return list(torch.where(follows, ratio, 1.0).unbind())
