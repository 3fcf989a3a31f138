"""LAMB: Adam with a learning rate per layer (You et al., arXiv:1904.00962, Algorithm 2).

    m <- beta1 * m + (1 - beta1) * g;        m_hat = m / (1 - beta1^t)
    v <- beta2 * v + (1 - beta2) * g^2;      v_hat = v / (1 - beta2^t)
    u = m_hat / (sqrt(v_hat) + epsilon) + lambda * w
    w <- w - lr * phi(|w|) / |u| * u

lambda weight decay, |.| the L2 norm of one parameter tensor, phi(z) = min(max(z, phi_min), phi_max).
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.adam import adam

from largebatch.jobs.optim.by_samples.bias_correction import Correction, corrections, long_ago
from largebatch.jobs.optim.by_samples.options import BETAS_CHANGE
from largebatch.jobs.optim.groupwise import GroupwiseOptimizer
from largebatch.jobs.optim.tensors import adam_state, at_least_float32, in_at_least_float32, laid_like, norms


class LAMB(GroupwiseOptimizer):
    """LAMB, with the choices on which the literature differs as options; defaults are the paper's.

    Leaves `.grad` as it was found, clips nothing and warms nothing up. Norms, ratios and both moments are
    float32 (float64 for float64 parameters); nothing is copied to the host.

    Args:
        params: parameters or groups. A group may set any option; `adapts=False` gives it a ratio of 1, which
            is AdamW's step (customary for biases and normalisation parameters). `betas_change=True` in a group corrects the bias
            by the product of all its betas so far in place of beta^t: for betas that are set anew before each step.
        lr: learning rate.
        betas: beta1 and beta2, each in [0, 1).
        epsilon: added outside the root, > 0.
        weight_decay: lambda >= 0; inside u, so it is scaled by the ratio.
        bias_correction: True, the paper's Algorithm 2; False, later versions: m_hat = m, v_hat = v.
        phi_min, phi_max: bounds of phi; the paper names them gamma_l and gamma_u and its experiments use the identity.
        max_trust_ratio: upper bound of phi(|w|) / |u|; None: unbounded, as in the paper.
        zero_norms: the ratio where |w| or |u| is 0, of which the paper says nothing: "one", or what the "equation" gives, by
            which a weight of zeros moves by phi_min; 1 where |u| is 0, and nothing moves.

    State of each parameter: `step` (0-d float32), `first_moment` (minus m: the fused pass maximises) and `second_moment` (v),
    both of the parameter's shape and at least float32.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-6,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
        phi_min: float = 0.0,
        phi_max: float | None = None,
        max_trust_ratio: float | None = None,
        zero_norms: Literal["one", "equation"] = "one",
    ) -> None:
        if lr < 0:
            raise ValueError(f"lr must be at least 0, not {lr}.")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be in [0, 1), not {betas}.")
        if epsilon <= 0 or weight_decay < 0:
            raise ValueError(f"epsilon must be above 0 and weight_decay at least 0, not {epsilon} and {weight_decay}.")
        defaults = {
            "lr": lr,
            "betas": betas,
            "epsilon": epsilon,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "phi_min": phi_min,
            "phi_max": phi_max,
            "max_trust_ratio": max_trust_ratio,
            "zero_norms": zero_norms,
            "adapts": True,
        }
        super().__init__(params, defaults)

    def _update(self, param_group: dict[str, Any], params: list[Tensor]) -> None:
        if not (param_group.get(BETAS_CHANGE) and param_group["bias_correction"]):
            self._move(param_group, params)
            return
        for members, correction in corrections(self.state, params, param_group["betas"]):
            self._move(param_group, members, correction)

    def _move(self, param_group: dict[str, Any], params: list[Tensor], correction: Correction | None = None) -> None:
        weights = in_at_least_float32(params)
        updates = self._adam_directions(param_group, params, weights, correction)
        if param_group["weight_decay"]:
            torch._foreach_add_(updates, weights, alpha=param_group["weight_decay"])
        if param_group["adapts"]:
            torch._foreach_mul_(updates, trust_ratios(norms(weights), norms(updates), param_group))
        torch._foreach_add_(params, updates, alpha=-param_group["lr"])

    def _adam_directions(
        self, param_group: dict[str, Any], params: list[Tensor], weights: list[Tensor], correction: Correction | None
    ) -> list[Tensor]:
        """m_hat / (sqrt(v_hat) + epsilon) of each parameter.

        torch's fused Adam does the two moments and the quotient in one pass over memory, several times faster
        than a pass for each operation; maximising from zero at rate 1, it leaves the quotient itself.
        """
        steps, first_moments, second_moments = adam_state(self.state, params, ("first_moment", "second_moment"), at_least_float32(params[0].dtype))
        is_counted = param_group["bias_correction"] and correction is None
        rate, epsilon = correction or (1.0, 1.0)
        directions = [torch.zeros_like(weight) for weight in weights]
        gradients = in_at_least_float32([param.grad for param in params])
        gradients = [laid_like(gradient, direction) for gradient, direction in zip(gradients, directions, strict=True)]
        beta1, beta2 = param_group["betas"]
        adam(
            directions,
            gradients,
            first_moments,
            second_moments,
            [],
            steps if is_counted else long_ago(steps),
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=rate,
            weight_decay=0.0,
            eps=param_group["epsilon"] * epsilon,
            maximize=True,
        )
        if not is_counted:
            torch._foreach_add_(steps, 1.0)
        return directions


def trust_ratios(weight_norms: list[Tensor], update_norms: list[Tensor], param_group: dict[str, Any]) -> list[Tensor]:
    """The layer-wise factors phi(|w|) / |u| on the learning rate.

    Args:
        weight_norms, update_norms: 0-d, L2, one tensor's each.
        param_group: options `phi_min`, `phi_max`, `max_trust_ratio`, `zero_norms`.

    Returns:
        0-d tensors >= 0, on the norms' device.
    """
    weight, update = torch.stack(weight_norms), torch.stack(update_norms)
    ratio = weight.clamp(min=param_group["phi_min"], max=param_group["phi_max"]) / update
    if param_group["max_trust_ratio"] is not None:
        ratio = ratio.clamp(max=param_group["max_trust_ratio"])
    follows = (weight > 0) & (update > 0) if param_group.get("zero_norms", "one") == "one" else update > 0
    return list(torch.where(follows, ratio, 1.0).unbind())
