"""AdamW in one pass over memory, for tensors that lie in it in any way."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from largebatch.jobs.optim.by_samples.bias_correction import Correction, corrections, long_ago
from largebatch.jobs.optim.groupwise import GroupwiseOptimizer, learning_rate_of
from largebatch.jobs.optim.tensors import adam_state, count_one, laid_like


class AdamW(GroupwiseOptimizer, torch.optim.AdamW):
    """torch's AdamW, with its fused pass, which on a CPU takes it that parameter, gradient and moments lie alike: see `laid_like`."""

    in_parts: ClassVar[bool] = False

    def _update(self, param_group: dict[str, Any], params: list[Tensor]) -> None:
        for members, correction in corrections(self.state, params, param_group):
            self._pass_over(param_group, members, correction)

    def _pass_over(self, param_group: dict[str, Any], params: list[Tensor], correction: Correction | None) -> None:
        steps, first_moments, second_moments = adam_state(self.state, params, ("exp_avg", "exp_avg_sq"), params[0].dtype)
        rate, epsilon = correction or (1.0, 1.0)
        weights = [laid_like(param, moment) for param, moment in zip(params, first_moments, strict=True)]
        gradients: list[Any] = [param.grad for param in params]
        beta1, beta2 = param_group["betas"]
        adamw(
            weights,
            [laid_like(gradient, moment) for gradient, moment in zip(gradients, first_moments, strict=True)],
            first_moments,
            second_moments,
            [],
            long_ago(steps) if correction else steps,
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=learning_rate_of(param_group, params) * rate,
            weight_decay=param_group["weight_decay"] / rate,
            eps=param_group["eps"] * epsilon,
            maximize=param_group["maximize"],
            grad_scale=getattr(self, "grad_scale", None),  # a GradScaler's: torch's __init__ has told it that this is looked at
            found_inf=getattr(self, "found_inf", None),
        )
        if correction:
            count_one(steps)
        for param, weight in zip(params, weights, strict=True):
            if weight is not param:
                param.copy_(weight)
