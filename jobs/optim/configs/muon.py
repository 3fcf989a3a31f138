"""Muon for hidden matrices, another optimizer for all else."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from largebatch.jobs.optim.by_samples.options import StepSize
from largebatch.jobs.optim.config_base import LEARNING_RATE_FACTOR, DecoupledConfig, Kind, OneDecayConfig, ParameterGroupConfig, ParamGroups
from largebatch.jobs.optim.configs.element_wise import AdamWConfig, SgdConfig
from largebatch.jobs.optim.configs.layer_wise import LambConfig
from largebatch.jobs.spec_base import Spec

if TYPE_CHECKING:
    from torch.optim import Optimizer


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
