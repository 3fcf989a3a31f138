"""RMSprop and momentum SGD in one step, by weights (Akiba et al., arXiv:1711.04325, section 3).

    m <- beta2 * m + (1 - beta2) * g^2
    v <- momentum * v + (sgd_weight + rmsprop_weight / (sqrt(m) + epsilon)) * g
    w <- w - lr * v

g the gradient, to which weight_decay * w is added before; in the paper's letters mu2 is beta2, mu1 momentum, alpha_SGD sgd_weight,
alpha_RMSprop rmsprop_weight, eta lr and Delta -v. Weights 1 and 0 are torch's SGD, weights 0 and 1 its RMSprop, each with momentum.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from largebatch.jobs.optim.groupwise import GroupwiseOptimizer, learning_rate_of
from largebatch.jobs.optim.tensors import add_scaled, at_least_float32, in_at_least_float32, state_like


class RMSpropSGD(GroupwiseOptimizer):
    """RMSprop and momentum SGD in one step; who calls sets the two weights as training goes on. Moments are float32 at the least.

    Args:
        params: parameters or groups.
        lr: learning rate.
        momentum: of both, in [0, 1).
        beta2: decay of the second moment, in [0, 1).
        epsilon: above 0, added to its root.
        weight_decay: >= 0, coupled: added to the gradient, and so part of the second moment.
        sgd_weight, rmsprop_weight: >= 0. While rmsprop_weight is 0 the second moment is not read, and rests.
        maximize: climb: g is minus the gradient.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Tensor,
        *,
        momentum: float = 0.9,
        beta2: float = 0.99,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        sgd_weight: float = 1.0,
        rmsprop_weight: float = 0.0,
        maximize: bool = False,
    ) -> None:
        rates = {"lr": lr, "momentum": momentum, "beta2": beta2, "epsilon": epsilon, "weight_decay": weight_decay}
        super().__init__(params, {**rates, "sgd_weight": sgd_weight, "rmsprop_weight": rmsprop_weight, "maximize": maximize})

    def _refuse_options(self, options: Mapping[str, Any]) -> None:
        super()._refuse_options(options)
        if not options["epsilon"] > 0:
            raise ValueError(f"epsilon must be above 0, not {options['epsilon']}: a weight that never had a gradient would be divided by 0.")

    def _update(self, param_group: dict[str, Any], params: list[Tensor]) -> None:
        momentum, beta2, weight_decay = param_group["momentum"], param_group["beta2"], param_group["weight_decay"]
        gradients = in_at_least_float32([param.grad for param in params])
        if param_group["maximize"]:
            gradients = list(torch._foreach_neg(gradients))
        if weight_decay:
            gradients = list(torch._foreach_add(gradients, in_at_least_float32(params), alpha=weight_decay))
        if param_group["rmsprop_weight"]:
            seconds = [state_like(self.state[param], "second_moment", param, at_least_float32(param.dtype)) for param in params]
            torch._foreach_mul_(seconds, beta2)
            torch._foreach_addcmul_(seconds, gradients, gradients, 1.0 - beta2)
            factors = torch._foreach_sqrt(seconds)
            torch._foreach_add_(factors, param_group["epsilon"])
            torch._foreach_reciprocal_(factors)
            torch._foreach_mul_(factors, param_group["rmsprop_weight"])
            torch._foreach_add_(factors, param_group["sgd_weight"])
            updates = torch._foreach_mul(gradients, factors)
        else:
            updates = torch._foreach_mul(gradients, param_group["sgd_weight"])
        if momentum:
            velocities = [state_like(self.state[param], "velocity", param, at_least_float32(param.dtype)) for param in params]
            torch._foreach_mul_(velocities, momentum)
            torch._foreach_add_(velocities, updates)
            updates = tuple(velocities)
        add_scaled(params, list(updates), [-learning_rate_of(param_group, params)] * len(params))
