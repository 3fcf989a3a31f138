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

from largebatch.jobs.optim.groupwise import GroupwiseOptimizer, learning_rate_of
from largebatch.jobs.optim.tensors import add_scaled, at_least_float32, dense_like, in_at_least_float32, laid_like, norms, numbers_for, state_like


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
        max_trust_ratio: upper bound of the ratio, also where a norm is 0; None: unbounded, as in the paper.
        zero_norms: the ratio where |w| or |g| is 0, of which the paper says nothing: "one", or what the "equation" gives, by
            which a weight of zeros never moves; 1 where it gives 0 / 0.
        maximize: climb: g is minus the gradient.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Tensor,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        epsilon: float = 0.0,
        nesterov: bool = False,
        learning_rate_in_momentum: bool = True,
        max_trust_ratio: float | None = None,
        zero_norms: Literal["one", "equation"] = "one",
        maximize: bool = False,
    ) -> None:
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
            "maximize": maximize,
            "adapts": True,
        }
        super().__init__(params, defaults)

    def _update(self, param_group: dict[str, Any], params: list[Tensor]) -> None:
        dtype, momentum = at_least_float32(params[0].dtype), param_group["momentum"]
        velocities = [state_like(self.state[param], "velocity", param, dtype) for param in params] if momentum else []
        examples = velocities or [dense_like(param) for param in params]
        weights, gradients = (
            [laid_like(tensor, example) for tensor, example in zip(in_at_least_float32(tensors), examples, strict=True)]
            for tensors in (params, [param.grad for param in params])
        )
        rate, ratios = learning_rate_of(param_group, params), [1.0] * len(params)
        if param_group["adapts"]:
            ratios = numbers_for(trust_ratios(norms(weights), norms(gradients), param_group), dtype)
        pushes, move = ([rate * ratio for ratio in ratios], 1.0) if param_group["learning_rate_in_momentum"] else (ratios, rate)
        if _takes_one_pass(weights, pushes, param_group):
            _move_in_one_pass(weights, gradients, velocities, pushes, move, param_group)
        else:
            self._move_pass_by_pass(weights, gradients, velocities, pushes, move, param_group)
        for param, weight in zip(params, weights, strict=True):
            if weight.data_ptr() != param.data_ptr():
                param.copy_(weight)

    def _move_pass_by_pass(
        self, weights: list[Tensor], gradients: list[Tensor], velocities: list[Tensor], pushes: list[Any], move: Any, param_group: dict[str, Any]
    ) -> None:
        """On any device, in any precision: v <- m * v + push * (g + beta * w); w <- w - move * v."""
        updates = self._scratch(weights)
        torch._foreach_copy_(updates, gradients)
        if param_group["maximize"]:
            torch._foreach_neg_(updates)
        if param_group["weight_decay"]:
            torch._foreach_add_(updates, weights, alpha=param_group["weight_decay"])
        torch._foreach_mul_(updates, pushes)
        if velocities:
            torch._foreach_mul_(velocities, param_group["momentum"])
            torch._foreach_add_(velocities, updates)
            if param_group["nesterov"]:
                torch._foreach_add_(updates, velocities, alpha=param_group["momentum"])
            else:
                updates = velocities
        add_scaled(weights, updates, [-move] * len(weights))


def _takes_one_pass(weights: list[Tensor], pushes: list[Any], param_group: dict[str, Any]) -> bool:
    """Whether `_move_in_one_pass` gives the numbers, and fast."""
    if param_group["nesterov"] or not weights[0].is_cpu or weights[0].dtype != torch.float32:
        return False
    return all(abs(1.0 - (1.0 - push) - push) <= 2**-24 * push for push in pushes)  # gradients 10^6 times the weights are beyond it


def _move_in_one_pass(
    weights: list[Tensor], gradients: list[Tensor], velocities: list[Tensor], pushes: list[float], move: float, param_group: dict[str, Any]
) -> None:
    """The same by torch's SGD, of which 1 - dampening multiplies the gradient with its decay on the way into the momentum."""
    at_once = len(pushes) if pushes.count(pushes[0]) == len(pushes) else 1
    for first in range(0, len(pushes), at_once):
        some, push = slice(first, first + at_once), pushes[first]
        torch._fused_sgd_(
            weights[some],
            gradients[some],
            velocities[some],
            weight_decay=param_group["weight_decay"],
            momentum=param_group["momentum"],
            lr=move if velocities else push * move,
            dampening=1.0 - push,
            nesterov=False,
            maximize=param_group["maximize"],
            is_first_step=False,
        )
    torch.autograd.graph.increment_version(weights)  # which the operation does not: a graph that still needs the old ones must not go backward


def trust_ratios(weight_norms: Tensor, gradient_norms: Tensor, param_group: dict[str, Any]) -> Tensor:
    """The layer-wise factors on the learning rate.

        ratio = eta * |w| / (|g| + beta * |w| + epsilon)

    Args:
        weight_norms, gradient_norms: 1-D, L2, a number for each tensor.
        param_group: options `trust_coefficient` (eta), `weight_decay` (beta), `epsilon`, `max_trust_ratio`, `zero_norms`.

    Returns:
        1-D, >= 0, on the norms' device.
    """
    denominator = gradient_norms + param_group["weight_decay"] * weight_norms + param_group["epsilon"]
    ratios = param_group["trust_coefficient"] * weight_norms / denominator
    follows = (weight_norms > 0) & (gradient_norms > 0) if param_group["zero_norms"] == "one" else denominator > 0
    return torch.where(follows, ratios, 1.0).clamp(0.0, param_group["max_trust_ratio"])
