"""What the optimizers' configs have in common: options of several, groups of parameters, memory.

The service, the client and the MLflow mirror read specs too, and must not wait for torch: a config imports what it builds when it builds it.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from largebatch.jobs.optim.by_samples.options import BETAS_CHANGE, BY_TIME_SCALE, TIME_SCALE, FollowsSamples, StepSize, decay_of
from largebatch.jobs.spec_base import Fraction, Spec

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from largebatch.jobs.optim.averaging.schedule_free import EvaluatedAverage

ParamGroups = list[dict[str, Any]]
"""As every optimizer of torch takes them: "params", and options that differ from group to group."""
ClassAndOptions: TypeAlias = "tuple[type[Optimizer], dict[str, Any]]"
"""See `OptimizerConfig.class_and_options`."""
FLOAT32_BYTES = 4
EUCLIDEAN = "its steps follow the Euclidean norm, in which noise is measured anyhow"
"""Why momentum SGD's kin have no dual norm of their own."""
BY_SQUARES = "it divides by a mean of squared gradients, and so the norm of its steps changes along the run and with the batch"
"""Why Adam's kin have none."""
LEARNING_RATE_FACTOR = "learning_rate_factor"
"""The option of a group whose learning rate is a multiple of the optimizer's."""
TRANSPOSED = "transposed"
"""The option of a group whose matrices lie (in, out), for a rule that tells rows from columns."""


class Kind(StrEnum):
    """What a parameter is to the module that holds it, in words; of several modules that hold it, the first of these."""

    BIAS_OR_NORM = "biases and norms"
    EMBEDDING = "embeddings"
    HEAD = "output heads"
    MATRIX = "hidden matrices"
    MANY_MATRICES = "grouped convolutions"
    OTHER = "of modules of other kinds"


class ParameterGroupConfig(Spec):
    """Parameters, by a pattern of their names, that have a learning rate and a weight decay of their own."""

    pattern: str
    """Of names (*, ?, [abc]); a parameter belongs to the first group that it matches."""
    learning_rate_factor: PositiveFloat = 1.0
    """What the learning rate of each step is multiplied by."""
    weight_decay: NonNegativeFloat | None = None
    """In place of the optimizer's own, and like it not of biases and norms unless decay_biases_and_norms; none given: the optimizer's own."""


class OptimizerConfig(FollowsSamples):
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
    usual_rate: ClassVar[float | None] = None
    """A learning rate that is usual at a batch of 256, for a search that is given no range; None: not known."""
    averages: ClassVar[bool] = False
    """Whether other weights are evaluated than gradients are taken at: see `evaluated_average`."""
    accumulates: ClassVar[bool] = False
    """Whether momentum adds steps up, so that in the long run the weights move by rate / (1 - momentum)."""
    library: ClassVar[str | None] = None
    """What must be installed besides for it, as Python imports it; None: nothing."""
    tells_rows: ClassVar[bool] = False
    """Whether the main rule treats a matrix' rows, its outputs, otherwise than its columns, and must be told of one that lies transposed."""
    dual_norm: ClassVar[Literal["l1", "nuclear", ""]] = ""
    """Of gradients: the dual of the norm that bounds the main rule's steps; "": `without_dual_norm` says why there is none."""
    without_dual_norm: ClassVar[str] = "which norm bounds its steps is not known"

    @property
    def label(self) -> str:
        """What answers call it."""
        return self.name

    @property
    def decay_in_words(self) -> str:
        """The weight decay of what the rule (of two: the main one) updates, for a person."""
        return f"weight decay {self.weight_decay:g}"

    @property
    def decays_in_words(self) -> str:
        """The weight decay by each of its rules, for a person."""
        return self.decay_in_words

    def momentum_at(self, size: StepSize) -> float:
        """The value of `momentum_option` at a step of such a size."""
        told = self.half_lives.get(self.momentum_option)
        value: float = getattr(self, self.momentum_option) if told is None else decay_of(told[1], size.amount(told[0]))
        return value

    @property
    @abstractmethod
    def num_state_tensors(self) -> int:
        """How many float32 tensors of a parameter's shape the optimizer keeps for it."""

    def state_bytes(self, num_parameters: int, main_shapes: Sequence[tuple[int, ...]] = ()) -> int:
        """Memory of the optimizer's state. Args: main_shapes: of the parameters, those that `takes` gives to the main rule of two."""
        return self.num_state_tensors * num_parameters * FLOAT32_BYTES

    def evaluated_average(self, model: "nn.Module", optimizer: "Optimizer") -> "EvaluatedAverage | None":
        """What the optimizer averages itself, to be evaluated in place of the weights; most do not."""
        return None

    def takes(self, kind: Kind, names: Sequence[str], num_dimensions: int) -> bool:
        """Whether the main rule updates a parameter, where there are two. Args: names, num_dimensions: the parameter's."""
        return True

    def group_options(self, *, is_bias_or_norm: bool, is_main: bool = True, group: ParameterGroupConfig | None = None) -> dict[str, Any]:
        """Options of a parameter group: of the weights, or of the biases and normalisation parameters. Args: group: with options of its own."""
        weight_decay = self.weight_decay if group is None or group.weight_decay is None else group.weight_decay
        options: dict[str, Any] = {"weight_decay": 0.0 if is_bias_or_norm and not self.decay_biases_and_norms else weight_decay}
        return options if group is None else {**options, LEARNING_RATE_FACTOR: group.learning_rate_factor}

    def options_by_progress(self, epoch: float, learning_rate: float) -> dict[str, float]:
        """Options of all groups that follow how far the run is; most optimizers have none.

        Args: epoch: the schedules' progress at the middle of the step; learning_rate: the step's.
        """
        return {}

    def schedule_in_words(self, num_epochs: float) -> str:
        """How these options change, for a person; empty where there are none. Args: num_epochs: of the run."""
        return ""

    def for_share(self, share: float) -> Self:
        """The config for a run of this share of the length: options that are told in epochs shrink with it; most optimizers have none."""
        return self

    def class_and_options(self) -> ClassAndOptions:
        """What `build` makes the optimizer of: its class, and all of its options but the learning rate; for it to import what it names."""
        raise NotImplementedError

    def build(self, groups: ParamGroups) -> "Optimizer":
        """The optimizer over parameter groups; its learning rate, 0 here, is set before every step."""
        from largebatch.jobs.optim.groupwise import eager

        kind, options = self.class_and_options()
        optimizer: Optimizer = eager(kind)(groups, lr=0.0, **options)  # type: ignore[call-arg]
        return optimizer


class DecoupledConfig(OptimizerConfig):
    """An optimizer with decoupled weight decay, which may be told by its time scale instead."""

    weight_decay_time_scale: PositiveFloat | None = None
    """In place of weight_decay: the part of the run in which weight decay alone, at the highest learning rate, divides a weight by e, tau in
    weight_decay = global batch / (learning rate * tau * samples of the run) (arXiv:2505.13738)."""

    @model_validator(mode="after")
    def _decay_is_told_once(self) -> Self:
        if self.weight_decay and self.weight_decay_time_scale is not None:
            raise ValueError("give one of weight_decay and weight_decay_time_scale: either says how fast weights decay")
        return self

    @property
    def decay_in_words(self) -> str:
        """See `OptimizerConfig`; the time scale is of every group, whose weight decay then follows from its own learning rate."""
        scale = self.weight_decay_time_scale
        return super().decay_in_words if scale is None else f"weight decay by time scale {scale:g} of the run"

    @property
    def time_scales(self) -> dict[str, float]:
        """See `FollowsSamples`."""
        return {} if self.weight_decay_time_scale is None else {TIME_SCALE: self.weight_decay_time_scale}

    def options_at(self, size: StepSize) -> dict[str, float]:
        """See `FollowsSamples`."""
        options = super().options_at(size)
        if self.weight_decay_time_scale is not None:
            options["weight_decay"] = size.share / (size.peak_learning_rate * self.weight_decay_time_scale)
        return options

    def group_options(self, *, is_bias_or_norm: bool, is_main: bool = True, group: ParameterGroupConfig | None = None) -> dict[str, Any]:
        """See `OptimizerConfig`; with a mark where a time scale says the weight decay."""
        options = super().group_options(is_bias_or_norm=is_bias_or_norm, group=group)
        has_none = is_bias_or_norm and not self.decay_biases_and_norms
        if self.weight_decay_time_scale is None or has_none or (group is not None and group.weight_decay is not None):
            return options
        return {**options, BY_TIME_SCALE: True}


class OneDecayConfig(OptimizerConfig):
    """An optimizer with momentum."""

    momentum: Fraction | None = None
    """Weight of the past in the momentum buffer; default 0.9 (muon: 0.95)."""
    momentum_half_life_samples: PositiveFloat | None = None
    """In place of momentum: samples after which half of a gradient is left in the buffer; momentum = 0.5^(samples of the step / this)."""
    momentum_half_life_tokens: PositiveFloat | None = None
    """The same in tokens."""

    decays: ClassVar[Mapping[str, float]] = {"momentum": 0.9}
    momentum_option: ClassVar[str] = "momentum"


class TwoDecaysConfig(OptimizerConfig):
    """An optimizer with two decays."""

    beta1: Fraction | None = None
    """Decay of the first moment (lion: weight of the mean in a step, beside the gradient); default 0.9."""
    beta1_half_life_samples: PositiveFloat | None = None
    """In place of beta1: samples after which half of a gradient is left in the first moment; beta1 = 0.5^(samples of the step / this)."""
    beta1_half_life_tokens: PositiveFloat | None = None
    """The same in tokens."""
    beta2: Fraction | None = None
    """Decay of the second moment (lion: of the mean); default 0.999 (lion: 0.99)."""
    beta2_half_life_samples: PositiveFloat | None = None
    """In place of beta2: samples after which half of a gradient is left in the second moment; beta2 = 0.5^(samples of the step / this)."""
    beta2_half_life_tokens: PositiveFloat | None = None
    """The same in tokens."""

    decays: ClassVar[Mapping[str, float]] = {"beta1": 0.9, "beta2": 0.999}
    momentum_option: ClassVar[str] = "beta1"
    batch_power: ClassVar[float] = 0.5

    @property
    def betas(self) -> tuple[float, float]:
        """What an optimizer is built with."""
        return self.built_with("beta1"), self.built_with("beta2")


class MomentumConfig(OneDecayConfig):
    """Momentum, plain or Nesterov's, that adds gradients up."""

    nesterov: bool = False
    """Look ahead along the momentum."""

    batch_power: ClassVar[float] = 1.0
    accumulates: ClassVar[bool] = True
    without_dual_norm: ClassVar[str] = EUCLIDEAN

    @property
    def num_state_tensors(self) -> int:
        """The momentum buffer."""
        return int(self.momentum != 0)

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class AdamConfig(TwoDecaysConfig):
    """Running means of the gradient and of its square."""

    epsilon: NonNegativeFloat | None = None
    """Added to denominators; default 1e-8 (adamw), 1e-6 (lamb)."""

    without_dual_norm: ClassVar[str] = BY_SQUARES
    num_state_tensors: ClassVar[int] = 2
    """Both moments."""

    def group_options(self, *, is_bias_or_norm: bool, is_main: bool = True, group: ParameterGroupConfig | None = None) -> dict[str, Any]:
        """See `OptimizerConfig`; with a mark where the betas follow the samples of the step."""
        options = super().group_options(is_bias_or_norm=is_bias_or_norm, group=group)
        return {**options, BETAS_CHANGE: True} if self.half_lives else options
