"""The optimizers by name: each one's options, what they mean, and how it is built.

The service, the client and the MLflow mirror read specs too, and must not wait for torch: a config imports what it builds when it builds it.
To add an optimizer: its config here, and its line in `AnyOptimizer`.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from largebatch.jobs.spec_base import Fraction, Spec

if TYPE_CHECKING:
    from torch.optim import Optimizer

ParamGroups = list[dict[str, Any]]
"""As every optimizer of torch takes them: "params", and options that differ from group to group."""
FLOAT32_BYTES = 4
LEARNING_RATE_FACTOR = "learning_rate_factor"
"""The option of a group whose learning rate is a multiple of the optimizer's."""


class ParameterGroupConfig(Spec):
    """Parameters, by a pattern of their names, that have a learning rate and a weight decay of their own."""

    pattern: str
    """Of names (*, ?, [abc]); a parameter belongs to the first group that it matches."""
    learning_rate_factor: PositiveFloat = 1.0
    """What the learning rate of each step is multiplied by."""
    weight_decay: NonNegativeFloat | None = None
    """In place of the optimizer's own, and like it not of biases and norms unless decay_biases_and_norms; none given: the optimizer's own."""


class OptimizerConfig(Spec):
    """The update rule and its options; options of another optimizer are refused."""

    name: str
    """Which optimizer it is."""
    weight_decay: NonNegativeFloat = 0.0
    """Coupled (added to the gradient) for sgd and lars, decoupled for adamw, inside the ratio for lamb."""
    decay_biases_and_norms: bool = False
    """Apply weight decay also to biases and normalisation parameters."""
    groups: tuple[ParameterGroupConfig, ...] = Field(default=(), strict=False)
    """Parameters with a learning rate or a weight decay of their own; all others have the optimizer's."""

    momentum_option: ClassVar[str]
    """The option that results call momentum."""
    batch_power: ClassVar[float]
    """The power of the batch that the learning rate follows: 1 for momentum SGD and its kin (arXiv:1706.02677), 0.5 for Adam's."""

    @property
    def momentum_value(self) -> float:
        """The value of `momentum_option`."""
        value: float = getattr(self, self.momentum_option)
        return value

    @property
    @abstractmethod
    def num_state_tensors(self) -> int:
        """How many float32 tensors of a parameter's shape the optimizer keeps for it."""

    def state_bytes(self, num_parameters: int) -> int:
        """Memory of the optimizer's state."""
        return self.num_state_tensors * num_parameters * FLOAT32_BYTES

    def group_options(self, *, is_bias_or_norm: bool, group: ParameterGroupConfig | None = None) -> dict[str, Any]:
        """Options of a parameter group: of the weights, or of the biases and normalisation parameters. Args: group: with options of its own."""
        weight_decay = self.weight_decay if group is None or group.weight_decay is None else group.weight_decay
        options: dict[str, Any] = {"weight_decay": 0.0 if is_bias_or_norm and not self.decay_biases_and_norms else weight_decay}
        return options if group is None else {**options, LEARNING_RATE_FACTOR: group.learning_rate_factor}

    @abstractmethod
    def build(self, groups: ParamGroups) -> "Optimizer":
        """The optimizer over parameter groups; its learning rate, 0 here, is set before every step."""


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

    def group_options(self, *, is_bias_or_norm: bool, group: ParameterGroupConfig | None = None) -> dict[str, Any]:
        """With `adapts`: whether the group's trust ratio is more than 1 for all."""
        return {**super().group_options(is_bias_or_norm=is_bias_or_norm, group=group), "adapts": self.adapt_biases_and_norms or not is_bias_or_norm}


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
