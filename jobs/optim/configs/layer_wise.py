"""Optimizers that give every parameter tensor a learning rate of its own: LARS, LAMB."""

from typing import Any, ClassVar, Literal, Self

from pydantic import NonNegativeFloat, PositiveFloat, model_validator

from largebatch.jobs.optim.config_base import AdamConfig, ClassAndOptions, MomentumConfig, OptimizerConfig, ParameterGroupConfig


class LayerwiseConfig(OptimizerConfig):
    """The options of an optimizer that gives every parameter tensor a learning rate of its own, by a trust ratio."""

    adapt_biases_and_norms: bool = False
    """Apply the trust ratio also to biases and normalisation parameters."""
    max_trust_ratio: PositiveFloat | None = None
    """Upper bound of the trust ratio; none in the papers."""
    zero_norms: Literal["one", "equation"] = "one"
    """The trust ratio where a norm is 0, of which the papers say nothing: 1 (most public code), or what the equation gives: 0 for
    a weight of zeros, which lars then never moves and lamb's phi_min lifts."""

    without_dual_norm: ClassVar[str] = "its steps are bounded layer by layer by the weights' own norms, which change along the run"

    def group_options(self, *, is_bias_or_norm: bool, is_main: bool = True, group: ParameterGroupConfig | None = None) -> dict[str, Any]:
        """With `adapts`: whether the group's trust ratio is more than 1 for all."""
        return {**super().group_options(is_bias_or_norm=is_bias_or_norm, group=group), "adapts": self.adapt_biases_and_norms or not is_bias_or_norm}


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

    usual_rate: ClassVar[float | None] = 5.0

    def class_and_options(self) -> ClassAndOptions:
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.lars import LARS

        own = self.model_dump(include={"nesterov", "trust_coefficient", "learning_rate_in_momentum", "max_trust_ratio", "zero_norms"})
        return LARS, {**own, "momentum": self.built_with("momentum"), "epsilon": self.epsilon or 0.0}


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

    usual_rate: ClassVar[float | None] = 2e-2

    @model_validator(mode="after")
    def _can_divide_and_has_a_range(self) -> Self:
        if self.epsilon == 0:
            raise ValueError("lamb needs an epsilon above 0: a weight that never had a gradient would be divided by 0")
        if self.phi_max is not None and self.phi_min > self.phi_max:
            raise ValueError(f"phi_min {self.phi_min} is above phi_max {self.phi_max}")
        return self

    def class_and_options(self) -> ClassAndOptions:
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.lamb import LAMB

        own = self.model_dump(include={"bias_correction", "phi_min", "phi_max", "max_trust_ratio", "zero_norms"})
        return LAMB, {**own, "betas": self.betas, "epsilon": 1e-6 if self.epsilon is None else self.epsilon}
