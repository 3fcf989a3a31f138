"""LAMB: Adam with a learning rate per layer (You et al., arXiv:1904.00962, Algorithm 2).

    m <- beta1 * m + (1 - beta1) * g;        m_hat = m / (1 - beta1^t)
    v <- beta2 * v + (1 - beta2) * g^2;      v_hat = v / (1 - beta2^t)
    u = m_hat / (sqrt(v_hat) + epsilon) + lambda * w
    w <- w - lr * phi(|w|) / |u| * u

lambda weight decay, |.| the L2 norm of one parameter tensor, phi(z) = min(max(z, phi_min), phi_max).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from largebatch.jobs.optim.by_samples.bias_correction import Correction, corrections, long_ago
from largebatch.jobs.optim.groupwise import GroupwiseOptimizer, learning_rate_of
from largebatch.jobs.optim.tensors import adam_state, add_scaled, count_one, in_at_least_float32, laid_like, norms, numbers_for


class LAMB(GroupwiseOptimizer):
    """LAMB, with the choices on which the literature differs as options; defaults are the paper's.

    Leaves `.grad` as it was found, clips nothing and warms nothing up. Norms, ratios and both moments are
    float32 (float64 for float64 parameters); nothing is copied to the host.

    As under torch's AdamW, a gradient whose square float32 does not hold, above some 1.8e19, may leave an infinite second moment, after which
    no gradient moves the weight: clip such gradients, or hold the weight in float64.

    Args:
        params: parameters or groups. A group may set any option; `adapts=False` gives it a ratio of 1, which
            is AdamW's step (customary for biases and normalisation parameters).
        lr: learning rate.
        betas: beta1 and beta2, each in [0, 1).
        epsilon: added outside the root, > 0.
        weight_decay: lambda >= 0; inside u, so it is scaled by the ratio.
        bias_correction: True, the paper's Algorithm 2; False, later versions: m_hat = m, v_hat = v.
        phi_min, phi_max: bounds of phi; the paper names them gamma_l and gamma_u and its experiments use the identity.
        max_trust_ratio: upper bound of phi(|w|) / |u|, also where a norm is 0; None: unbounded, as in the paper.
        zero_norms: the ratio where |w| or |u| is 0, of which the paper says nothing: "one", or what the "equation" gives, by
            which a weight of zeros moves by phi_min; 1 where |u| is 0, and nothing moves.
        maximize: climb: g is minus the gradient.

    State of each parameter: `step` (0-d float32), `first_moment` (minus m: the fused pass adds what it divides) and `second_moment` (v),
    both of the parameter's shape and at least float32.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Tensor,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-6,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
        phi_min: float = 0.0,
        phi_max: float | None = None,
        max_trust_ratio: float | None = None,
        zero_norms: Literal["one", "equation"] = "one",
        maximize: bool = False,
    ) -> None:
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
            "maximize": maximize,
            "adapts": True,
        }
        super().__init__(params, defaults)

    def _refuse_options(self, options: Mapping[str, Any]) -> None:
        super()._refuse_options(options)
        if not options["epsilon"] > 0:
            raise ValueError(f"epsilon must be above 0, not {options['epsilon']}.")

    def _update(self, param_group: dict[str, Any], params: list[Tensor]) -> None:
        for members, correction in corrections(self.state, params, param_group):
            self._move(param_group, members, correction)

    def _move(self, param_group: dict[str, Any], params: list[Tensor], correction: Correction | None) -> None:
        weights = in_at_least_float32(params)
        updates = self._updates(param_group, params, weights, correction)
        rate, ratios = learning_rate_of(param_group, params), [1.0] * len(params)
        if param_group["adapts"]:
            ratios = numbers_for(trust_ratios(norms(weights), norms(updates), param_group), weights[0].dtype)
        add_scaled(params, updates, [-rate * ratio for ratio in ratios])

    def _updates(self, param_group: dict[str, Any], params: list[Tensor], weights: list[Tensor], correction: Correction | None) -> list[Tensor]:
        """The update u of each parameter.

        torch's fused Adam does the two moments and the quotient in one pass over memory, several times faster than a pass for
        each operation. Maximising at a rate of 1 it adds the quotient to what stands there: the weight decay.
        """
        steps, first_moments, second_moments = adam_state(self.state, params, ("first_moment", "second_moment"), weights[0].dtype)
        count_one(steps)
        updates = self._scratch(first_moments)
        if not param_group["weight_decay"]:
            torch._foreach_zero_(updates)
        else:
            for update, weight in zip(updates, weights, strict=True):
                torch.mul(weight, param_group["weight_decay"], out=update)
        gradients = in_at_least_float32([param.grad for param in params])
        is_counted = param_group["bias_correction"] and correction is None
        rate, epsilon = correction or (1.0, 1.0)
        beta1, beta2 = param_group["betas"]
        torch._fused_adam_(
            updates,
            [laid_like(gradient, update) for gradient, update in zip(gradients, updates, strict=True)],
            first_moments,
            second_moments,
            [],
            steps if is_counted else long_ago(steps),
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=rate,
            weight_decay=0.0,
            eps=param_group["epsilon"] * epsilon,
            maximize=not param_group["maximize"],
        )
        return updates


def trust_ratios(weight_norms: Tensor, update_norms: Tensor, param_group: dict[str, Any]) -> Tensor:
    """The layer-wise factors phi(|w|) / |u| on the learning rate.

    Args:
        weight_norms, update_norms: 1-D, L2, a number for each tensor.
        param_group: options `phi_min`, `phi_max`, `max_trust_ratio`, `zero_norms`.

    Returns:
        1-D, >= 0, on the norms' device.
    """
    ratios = weight_norms.clamp(min=param_group["phi_min"], max=param_group["phi_max"]) / update_norms
    follows = (weight_norms > 0) & (update_norms > 0) if param_group["zero_norms"] == "one" else update_norms > 0
    return torch.where(follows, ratios, 1.0).clamp(0.0, param_group["max_trust_ratio"])
