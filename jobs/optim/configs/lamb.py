"""LAMB: see `largebatch.jobs.optim.lamb`."""

from typing import TYPE_CHECKING, Literal, Self

from pydantic import NonNegativeFloat, PositiveFloat, model_validator

from largebatch.jobs.optim.configs.base import ParamGroups
from largebatch.jobs.optim.configs.shared_options import AdamConfig, LayerwiseConfig

if TYPE_CHECKING:
    from torch.optim import Optimizer


class LambConfig(LayerwiseConfig, AdamConfig):
    """Adam with a learning rate per layer (arXiv:1904.00962); weight decay is inside the trust ratio."""

    name: Literal["lamb"]
    """lamb is ours."""
    bias_correction: bool = True
    """Divide the moments by 1 - beta^t (the paper's Algorithm 2)."""
    phi_min: NonNegativeFloat = 0.0
    """Lower bound of phi(|w|)."""
    phi_max: PositiveFloat | None = None
    """Upper bound of phi(|w|); none: phi is the identity above phi_min."""

    @model_validator(mode="after")
    def _can_divide_and_has_a_range(self) -> Self:
        if self.epsilon == 0:
            raise ValueError("lamb needs an epsilon above 0: a weight that never had a gradient would be divided by 0")
        if self.phi_max is not None and self.phi_min > self.phi_max:
            raise ValueError(f"phi_min {self.phi_min} is above phi_max {self.phi_max}")
        return self

    def build(self, groups: ParamGroups) -> "Optimizer":
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.eager import eager  # with torch: see base.py
        from largebatch.jobs.optim.lamb import LAMB

        return eager(LAMB)(
            groups,
            lr=0.0,
            betas=(self.beta1, self.beta2),
            epsilon=1e-6 if self.epsilon is None else self.epsilon,
            bias_correction=self.bias_correction,
            phi_min=self.phi_min,
            phi_max=self.phi_max,
            max_trust_ratio=self.max_trust_ratio,
            zero_norms=self.zero_norms,
        )
