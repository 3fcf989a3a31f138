"""The optimizers by name: each one's options, what they mean, and how it is built.

To add an optimizer: its config here, and its line in `AnyOptimizer`.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, JsonValue, NonNegativeFloat, PositiveFloat, model_validator

from largebatch.jobs.optim.by_samples.options import StepSize
from largebatch.jobs.optim.config_base import (
    BY_SQUARES,
    EUCLIDEAN,
    LEARNING_RATE_FACTOR,
    AdamConfig,
    DecoupledConfig,
    Kind,
    LayerwiseConfig,
    MomentumConfig,
    OneDecayConfig,
    OptimizerConfig,
    ParameterGroupConfig,
    ParamGroups,
    TwoDecaysConfig,
)
from largebatch.jobs.optim.rmsprop_warm_up.config import RmspropSgdConfig
from largebatch.jobs.spec_base import Fraction, Spec

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from largebatch.jobs.optim.averaging.schedule_free import EvaluatedAverage


class SgdConfig(MomentumConfig):
    """Momentum SGD; weight decay is coupled."""

    name: Literal["sgd"]
    """sgd is torch's."""

    usual_rate: ClassVar[float | None] = 0.1

    def build(self, groups: ParamGroups) -> "Optimizer":
        """See `OptimizerConfig`."""
        from torch.optim import SGD

        from largebatch.jobs.optim.groupwise import eager

        return eager(SGD)(groups, lr=0.0, momentum=self.built_with("momentum"), nesterov=self.nesterov)


class AdamWConfig(DecoupledConfig, AdamConfig):
    """AdamW (arXiv:1711.05101); weight decay is decoupled."""

    name: Literal["adamw"]
    """adamw is torch's."""

    usual_rate: ClassVar[float | None] = 1e-3

    def build(self, groups: ParamGroups) -> "Optimizer":
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.adamw import AdamW
        from largebatch.jobs.optim.groupwise import eager

        epsilon = 1e-8 if self.epsilon is None else self.epsilon
        return eager(AdamW)(groups, lr=0.0, betas=self.betas, eps=epsilon, fused=True)


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

    def build(self, groups: ParamGroups) -> "Optimizer":
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.groupwise import eager
        from largebatch.jobs.optim.lars import LARS

        return eager(LARS)(
            groups,
            lr=0.0,
            momentum=self.built_with("momentum"),
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

    usual_rate: ClassVar[float | None] = 2e-2

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
            betas=self.betas,
            epsilon=1e-6 if self.epsilon is None else self.epsilon,
            bias_correction=self.bias_correction,
            phi_min=self.phi_min,
            phi_max=self.phi_max,
            max_trust_ratio=self.max_trust_ratio,
            zero_norms=self.zero_norms,
        )


class AssignmentConfig(Spec):
    """Parameters, by a pattern of their names, and the rule that updates them whatever their kind."""

    pattern: str
    """Of names (*, ?, [abc]); the first that a parameter matches decides."""
    to: Literal["muon", "other"]
    """muon takes what has two dimensions or more; vectors that match stay with the other rule."""


class MuonConfig(DecoupledConfig, OneDecayConfig):
    """Momentum made orthogonal for hidden matrices (https://kellerjordan.github.io/posts/muon/), another optimizer for all else."""

    name: Literal["muon"]
    """muon is torch's."""
    weight_decay: NonNegativeFloat = 0.0
    """Of the matrices, decoupled; `other` has its own."""
    nesterov: bool = True
    """Look ahead along the mean."""
    ns_steps: Annotated[int, Field(ge=1, lt=100)] = 5
    """Newton-Schulz iterations."""
    epsilon: PositiveFloat | None = None
    """The least norm that a matrix is divided by before them; default 1e-7."""
    adjust_lr_fn: Literal["original", "match_rms_adamw", "spectral_unclamped"] = "match_rms_adamw"
    """What the learning rate is multiplied by for a matrix of A rows and B columns: sqrt(max(1, A / B)), 0.2 sqrt(max(A, B)) (arXiv:2502.16982:
    updates as large as AdamW's, so that one rate serves both) or sqrt(A / B)."""
    other: Annotated[AdamWConfig | LambConfig | SgdConfig, Field(discriminator="name")] = Field(default_factory=lambda: AdamWConfig(name="adamw"))
    """What updates embeddings, output heads, biases, norms and whatever is no hidden matrix; its options are its own."""
    other_learning_rate_factor: PositiveFloat = 1.0
    """What the learning rate of each step is multiplied by for these."""
    assign: tuple[AssignmentConfig, ...] = Field(default=(), strict=False)
    """Parameters whose kind does not decide."""

    decays: ClassVar[Mapping[str, float]] = {"momentum": 0.95}
    batch_power: ClassVar[float] = 0.5
    usual_rate: ClassVar[float | None] = 3e-3
    dual_norm: ClassVar[Literal["l1", "nuclear", ""]] = "nuclear"

    @property
    def num_state_tensors(self) -> int:
        """The gradient's mean, of matrices."""
        return 1

    @property
    def half_lives(self) -> dict[str, tuple[str, float]]:
        """See `OptimizerConfig`; those of `other` too."""
        others = {f"other.{option}": (f"other.{field}", half_life) for option, (field, half_life) in self.other.half_lives.items()}
        return {**super().half_lives, **others}

    @property
    def time_scales(self) -> dict[str, float]:
        """See `OptimizerConfig`; that of `other` too."""
        return {**super().time_scales, **{f"other.{field}": scale for field, scale in self.other.time_scales.items()}}

    def options_at(self, size: StepSize) -> dict[str, float]:
        """See `OptimizerConfig`; those of `other` too."""
        return {**super().options_at(size), **{f"other.{option}": value for option, value in self.other.options_at(size).items()}}

    def state_bytes(self, num_parameters: int, num_by_main_rule: int = 0) -> int:
        """See `OptimizerConfig`."""
        return super().state_bytes(num_by_main_rule) + self.other.state_bytes(num_parameters - num_by_main_rule)

    def takes(self, kind: Kind, names: Sequence[str], num_dimensions: int) -> bool:
        """See `OptimizerConfig`: of what is no vector the first pattern of `assign` decides, else whether it is a hidden matrix."""
        assigned = (each.to == self.name for each in self.assign if any(fnmatchcase(name, each.pattern) for name in names))
        return num_dimensions >= 2 and next(assigned, kind is Kind.MATRIX)

    def group_options(self, *, is_bias_or_norm: bool, is_main: bool = True, group: ParameterGroupConfig | None = None) -> dict[str, Any]:
        """With `is_main`: whether Muon updates the group."""
        if is_main:
            return {**super().group_options(is_bias_or_norm=is_bias_or_norm, group=group), "is_main": True}
        options = self.other.group_options(is_bias_or_norm=is_bias_or_norm, group=group)
        return {**options, LEARNING_RATE_FACTOR: options.get(LEARNING_RATE_FACTOR, 1.0) * self.other_learning_rate_factor, "is_main": False}

    @model_validator(mode="after")
    def _groups_stand_once(self) -> Self:
        if self.other.groups:
            raise ValueError("other has groups; give them in optimizer.groups, whose patterns are of all parameters")
        return self

    def build(self, groups: ParamGroups) -> "Optimizer":
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.groupwise import eager
        from largebatch.jobs.optim.split.muon import Muon
        from largebatch.jobs.optim.split.together import Together

        matrices, others = ([group for group in groups if group["is_main"] == is_main] for is_main in (True, False))
        options: dict[str, Any] = {
            "momentum": self.built_with("momentum"),
            "nesterov": self.nesterov,
            "ns_steps": self.ns_steps,
            "eps": self.epsilon or 1e-7,
        }
        parts = [eager(Muon)(matrices, lr=0.0, adjust_lr_fn=self.adjust_lr_fn, **options)] if matrices else []
        return eager(Together)([*parts, *([self.other.build(others)] if others else [])])


class LionConfig(DecoupledConfig, TwoDecaysConfig):
    """The sign of a mean of gradients (arXiv:2302.06675); weight decay is decoupled."""

    name: Literal["lion"]
    """lion is ours."""

    decays: ClassVar[Mapping[str, float]] = {"beta1": 0.9, "beta2": 0.99}
    usual_rate: ClassVar[float | None] = 2e-4
    dual_norm: ClassVar[Literal["l1", "nuclear", ""]] = "l1"

    @property
    def num_state_tensors(self) -> int:
        """The mean."""
        return 1

    def build(self, groups: ParamGroups) -> "Optimizer":
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.groupwise import eager
        from largebatch.jobs.optim.lion import Lion

        return eager(Lion)(groups, lr=0.0, betas=self.betas)


class ScheduleFreeConfig(OptimizerConfig):
    """The options of optimizers whose average of the iterates takes the place of a decaying rate (arXiv:2405.15682)."""

    weight_lr_power: NonNegativeFloat = 2.0
    """The power of the largest rate so far that an iterate weighs in the average."""

    averages: ClassVar[bool] = True

    def evaluated_average(self, model: "nn.Module", optimizer: "Optimizer") -> "EvaluatedAverage | None":
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.averaging.schedule_free import EvaluatedAverage

        return EvaluatedAverage(model, optimizer)


class ScheduleFreeSgdConfig(ScheduleFreeConfig):
    """Schedule-free SGD; weight decay is coupled."""

    name: Literal["schedule-free-sgd"]
    """schedule-free-sgd is ours."""
    momentum: Fraction = 0.9
    """Where gradients are taken between the iterate (0) and the average (1)."""

    momentum_option: ClassVar[str] = "momentum"
    batch_power: ClassVar[float] = 1.0
    usual_rate: ClassVar[float | None] = 1.0
    without_dual_norm: ClassVar[str] = EUCLIDEAN

    @property
    def num_state_tensors(self) -> int:
        """The iterate and the average."""
        return 2

    def build(self, groups: ParamGroups) -> "Optimizer":
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.averaging.schedule_free import ScheduleFreeSGD
        from largebatch.jobs.optim.groupwise import eager

        return eager(ScheduleFreeSGD)(groups, lr=0.0, beta=self.momentum, weight_lr_power=self.weight_lr_power)


class ScheduleFreeAdamWConfig(ScheduleFreeConfig):
    """Schedule-free AdamW; weight decay is decoupled."""

    name: Literal["schedule-free-adamw"]
    """schedule-free-adamw is ours."""
    beta1: Fraction = 0.9
    """Where gradients are taken between the iterate (0) and the average (1)."""
    beta2: Fraction = 0.999
    """Decay of the second moment."""
    epsilon: NonNegativeFloat | None = None
    """Added to denominators; default 1e-8."""

    momentum_option: ClassVar[str] = "beta1"
    batch_power: ClassVar[float] = 0.5

    usual_rate: ClassVar[float | None] = 2.5e-3
    without_dual_norm: ClassVar[str] = BY_SQUARES

    @property
    def num_state_tensors(self) -> int:
        """The iterate, the average and the second moment."""
        return 3

    def build(self, groups: ParamGroups) -> "Optimizer":
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.averaging.schedule_free import ScheduleFreeAdamW
        from largebatch.jobs.optim.groupwise import eager

        epsilon = 1e-8 if self.epsilon is None else self.epsilon
        return eager(ScheduleFreeAdamW)(groups, lr=0.0, beta=self.beta1, beta2=self.beta2, eps=epsilon, weight_lr_power=self.weight_lr_power)


class OwnOptimizerConfig(OptimizerConfig):
    """A person's own optimizer."""

    name: Literal["own"] = "own"
    """An optimizer of your own."""
    entry_point: str
    """Your own: "package.module:function", which takes params, as torch's optimizers do, and the arguments, and returns a torch.optim.Optimizer."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """Keyword arguments of the entry point."""

    momentum_option: ClassVar[str] = ""
    batch_power: ClassVar[float] = 0.5

    @property
    def label(self) -> str:
        """Its entry point: there may be several of one's own."""
        return self.entry_point

    def momentum_at(self, size: StepSize) -> float:
        """Not known."""
        return 0.0

    @property
    def num_state_tensors(self) -> int:
        """Not known: as many as Adam's."""
        return 2

    def build(self, groups: ParamGroups) -> "Optimizer":
        """See `OptimizerConfig`. Raises: SpecError."""
        from largebatch.jobs.optim.own import own_optimizer

        return own_optimizer(self.entry_point, self.arguments, groups)


AnyOptimizer = Annotated[
    SgdConfig
    | AdamWConfig
    | LarsConfig
    | LambConfig
    | MuonConfig
    | LionConfig
    | RmspropSgdConfig
    | ScheduleFreeSgdConfig
    | ScheduleFreeAdamWConfig
    | OwnOptimizerConfig,
    Field(discriminator="name"),
]
"""The optimizer's part of a spec."""

OPTIMIZERS: dict[str, type[OptimizerConfig]] = {
    get_args(config.model_fields["name"].annotation)[0]: config for config in get_args(get_args(AnyOptimizer)[0]) if config is not OwnOptimizerConfig
}
"""The config of each optimizer that has a name of its own."""
