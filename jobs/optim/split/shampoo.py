"""Shampoo (Gupta et al., arXiv:1802.09568, Algorithm 2), as the library pytorch_optimizer has it.

    L <- L + G G^T,   R <- R + G^T G                         L, R: epsilon * I at first
    w <- w - lr * beta * w - lr * L^(-1/4) G R^(-1/4)

G gradient, beta weight decay. A tensor of k dimensions has k factors, of the power -1 / 2k.
"""

from typing import Any

from torch.optim import Optimizer

from largebatch.jobs.optim.config_base import ParamGroups
from largebatch.jobs.optim.split.library import pytorch_optimizer_for, refuse_narrow


def shampoo(groups: ParamGroups, *, epsilon: float, every: int) -> Optimizer:
    """The library's Shampoo, which takes roots at the first step and at multiples of `every`.

    Its momentum is left out: it mixes the last preconditioned gradient into the next raw one, in place.

    Raises: SpecError where the library is not installed, PlanError for weights that it cannot factor.
    """
    refuse_narrow("shampoo", groups)
    optimizer: Optimizer = pytorch_optimizer_for("shampoo").Shampoo(groups, lr=0.0, matrix_eps=epsilon, weight_decouple=True)

    def choose_roots(own: Any, args: Any, kwargs: Any) -> None:
        """Left alone, the library moves nothing before step `every`: its roots are 0 until then."""
        own.preconditioning_compute_steps = every if any(group.get("step") for group in own.param_groups) else 1

    def forget(own: Optimizer, args: Any, kwargs: Any) -> None:
        """Drop what its momentum alone would read."""
        for param in (param for group in own.param_groups for param in group["params"]):
            own.state[param].pop("momentum_buffer", None)

    optimizer.register_step_pre_hook(choose_roots)
    optimizer.register_step_post_hook(forget)
    return optimizer
