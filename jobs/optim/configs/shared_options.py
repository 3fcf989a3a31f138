"""Options that kinds of optimizers share: momentum SGD's, Adam's, and those of a learning rate per layer."""

from typing import Any, ClassVar, Literal, Self

from pydantic import NonNegativeFloat, PositiveFloat, model_validator

from largebatch.jobs.optim.configs.base import OptimizerConfig
from largebatch.jobs.spec_base import Fraction


class MomentumConfig(OptimizerConfig):
    """Momentum, plain or Nesterov's."""

    momentum: Fraction = 0.9
    """Weight of the momentum buffer."""
    nesterov: bool = False
    """Look ahead along the momentum."""

    momentum_option: ClassVar[str] = "momentum"
    batch_power: ClassVar[float] = 1.0

    @property
    def num_state_tensors(self) -> int:
        """The momentum buffer."""
        return int(self.momentum > 0)

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class AdamConfig(OptimizerConfig):
    """Running means of the gradient and of its square."""

    beta1: Fraction = 0.9
    """Decay of the first moment."""
    beta2: Fraction = 0.999
    """Decay of the second moment."""
    epsilon: NonNegativeFloat | None = None
    """Added to denominators; default 1e-8 (adamw), 1e-6 (lamb)."""

    momentum_option: ClassVar[str] = "beta1"
    batch_power: ClassVar[float] = 0.5

    @property
    def num_state_tensors(self) -> int:
        """Both moments."""
        return 2


class LayerwiseConfig(OptimizerConfig):
    """The options of an optimizer that gives every parameter tensor a learning rate of its own, by a trust ratio."""

    adapt_biases_and_norms: bool = False
    """Apply the trust ratio also to biases and normalisation parameters."""
    max_trust_ratio: PositiveFloat | None = None
    """Upper bound of the trust ratio; none in the papers."""
    zero_norms: Literal["one", "equation"] = "one"
    """The trust ratio where a norm is 0, of which the papers say nothing: 1 (most public code), or what the equation gives: 0 for
    a weight of zeros, which lars then never moves and lamb's phi_min lifts."""

    def group_options(self, *, is_bias_or_norm: bool) -> dict[str, Any]:
        """With `adapts`: whether the group's trust ratio is more than 1 for all."""
        return {**super().group_options(is_bias_or_norm=is_bias_or_norm), "adapts": self.adapt_biases_and_norms or not is_bias_or_norm}
