"""Lion: the sign of a mean of gradients (Chen et al., arXiv:2302.06675, Algorithm 2).

    w <- w - lr * (sign(beta1 * m + (1 - beta1) * g) + lambda * w)
    m <- beta2 * m + (1 - beta2) * g

m mean of the gradient g, lambda weight decay.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from largebatch.jobs.optim.groupwise import GroupwiseOptimizer, learning_rate_of
from largebatch.jobs.optim.tensors import add_scaled, at_least_float32, in_at_least_float32, state_like


class Lion(GroupwiseOptimizer):
    """Lion; the mean is float32 at the least.

    Args:
        params: parameters or groups.
        lr: learning rate, 3 to 10 times smaller than AdamW's (section 5 of the paper).
        betas: (beta1, beta2), each in [0, 1).
        weight_decay: lambda >= 0, decoupled; with the smaller rate 3 to 10 times larger than AdamW's.
        maximize: climb: g is minus the gradient.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Tensor,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize})

    def _update(self, param_group: dict[str, Any], params: list[Tensor]) -> None:
        learning_rate, (beta1, beta2) = learning_rate_of(param_group, params), param_group["betas"]
        gradients = in_at_least_float32([param.grad for param in params])
        if param_group["maximize"]:
            gradients = list(torch._foreach_neg(gradients))
        means = [state_like(self.state[param], "mean", param, at_least_float32(param.dtype)) for param in params]
        updates = list(torch._foreach_lerp(gradients, means, beta1))
        torch._foreach_sign_(updates)
        if param_group["weight_decay"]:
            torch._foreach_add_(updates, in_at_least_float32(params), alpha=param_group["weight_decay"])
        add_scaled(params, updates, [-learning_rate] * len(params))
        torch._foreach_lerp_(means, gradients, 1 - beta2)
