"""The optimizers by name: each one's options, what they mean, and how it is built.

To add an optimizer: its config here, and its line in `AnyOptimizer`.
"""

from typing import TYPE_CHECKING, Annotated, Literal, Self, get_args

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from largebatch.jobs.optim.config_base import AdamConfig, LayerwiseConfig, MomentumConfig, OptimizerConfig, ParamGroups

if TYPE_CHECKING:
    from torch.optim import Optimizer


class SgdConfig(MomentumConfig):
    """Momentum SGD; weight decay is coupled."""

    name: Literal["sgd"]
    """sgd is torch's."""

    def build(self, groups: ParamGroups) -> "Optimizer":
        """See `OptimizerConfig`."""
        from torch.optim import SGD

        from largebatch.jobs.optim.groupwise import eager

        return eager(SGD)(groups, lr=0.0, momentum=self.momentum, nesterov=self.nesterov)


class AdamWConfig(AdamConfig):
    """AdamW (arXiv:1711.05101); weight decay is decoupled."""

    name: Literal["adamw"]
    """adamw is torch's."""

    def build(self, groups: ParamGroups) -> "Optimizer":
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.adamw import AdamW
        from largebatch.jobs.optim.groupwise import eager

        epsilon = 1e-8 if self.epsilon is None else self.epsilon
        return eager(AdamW)(groups, lr=0.0, betas=(self.beta1, self.beta2), eps=epsilon, fused=True)


class LarsConfig(LayerwiseConfig, MomentumConfig):
    """Momentum SGD with a learning rate per layer (arXiv:1708.03888); weight decay is coupled."""

    name: Literal["lars"]
    """lars is ours."""
    epsilon: NonNegativeFloat | None = None
    """Added to the ratio's denominator; default 0."""
    trust_coefficient: PositiveFloat = 0.001
    """The paper's eta."""
    learning_rate_in_momentum: bool = True
    """Learning rate inside the momentum buffer (the paper), or outside (most public code)."""

    def build(self, groups: ParamGroups) -> "Optimizer":
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.groupwise import eager
        from largebatch.jobs.optim.lars import LARS

        return eager(LARS)(
            groups,
            lr=0.0,
            momentum=self.momentum,
            nesterov=self.nesterov,
            trust_coefficient=self.trust_coefficient,
            epsilon=self.epsilon or 0.0,
            learning_rate_in_momentum=self.learning_rate_in_momentum,
            max_trust_ratio=self.max_trust_ratio,
            zero_norms=self.zero_norms,
        )


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
        from largebatch.jobs.optim.groupwise import eager
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


AnyOptimizer = Annotated[SgdConfig | AdamWConfig | LarsConfig | LambConfig, Field(discriminator="name")]
"""The optimizer's part of a spec."""

OPTIMIZERS: dict[str, type[OptimizerConfig]] = {
    get_args(config.model_fields["name"].annotation)[0]: config for config in get_args(get_args(AnyOptimizer)[0])
}
"""The config of each optimizer."""
