"""Optimizers of two rules: one for hidden matrices, another for all else."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from largebatch.jobs.optim.by_samples.options import StepSize
from largebatch.jobs.optim.config_base import FLOAT32_BYTES, LEARNING_RATE_FACTOR, DecoupledConfig, Kind, ParameterGroupConfig, ParamGroups
from largebatch.jobs.optim.configs.element_wise import AdamWConfig, SgdConfig
from largebatch.jobs.optim.configs.layer_wise import LambConfig
from largebatch.jobs.spec_base import Spec

if TYPE_CHECKING:
    from torch.optim import Optimizer


class AssignmentConfig(Spec):
    """Parameters, by a pattern of their names, and the rule that updates them whatever their kind."""

    pattern: str
    """Of names (*, ?, [abc]); the first that a parameter matches decides."""
    to: str
    """The optimizer's own name, or other. The rule for matrices takes what has two dimensions or more; vectors that match stay with the other."""


class TwoRulesConfig(DecoupledConfig):
    """The options of an optimizer that updates hidden matrices by a rule of its own, and all else by another optimizer."""

    weight_decay: NonNegativeFloat = 0.0
    """Of the matrices, decoupled; `other` has its own."""
    other: Annotated[AdamWConfig | LambConfig | SgdConfig, Field(discriminator="name")] = Field(default_factory=lambda: AdamWConfig(name="adamw"))
    """What updates embeddings, output heads, biases, norms and whatever is no hidden matrix; its options are its own."""
    other_learning_rate_factor: PositiveFloat = 1.0
    """What the learning rate of each step is multiplied by for these."""
    assign: tuple[AssignmentConfig, ...] = Field(default=(), strict=False)
    """Parameters whose kind does not decide."""

    batch_power: ClassVar[float] = 0.5

    @property
    @abstractmethod
    def rule_in_words(self) -> str:
        """What of the rule for matrices a plan tells besides its weight decay."""

    @abstractmethod
    def numbers_kept(self, shape: tuple[int, ...]) -> int:
        """How many float32 numbers the rule for matrices keeps for a parameter of this shape."""

    def build_main(self, groups: ParamGroups) -> "Optimizer":
        """The rule for matrices over parameter groups, of `class_and_options`. Raises: InputError."""
        return super().build(groups)

    @property
    def decays_in_words(self) -> str:
        """See `OptimizerConfig`; once where both rules have the same."""
        main, other = self.decay_in_words, self.other.decay_in_words
        return main if main == other else f"{main} by {self.name}, {other} by {self.other.name}"

    @property
    def num_state_tensors(self) -> int:
        """Of the other rule; for the matrices see `numbers_kept`."""
        return self.other.num_state_tensors

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

    def state_bytes(self, num_parameters: int, main_shapes: Sequence[tuple[int, ...]] = ()) -> int:
        """See `OptimizerConfig`."""
        others = num_parameters - sum(map(math.prod, main_shapes))
        return sum(map(self.numbers_kept, main_shapes)) * FLOAT32_BYTES + self.other.state_bytes(others)

    def takes(self, kind: Kind, names: Sequence[str], num_dimensions: int) -> bool:
        """See `OptimizerConfig`: of what is no vector the first pattern of `assign` decides, else whether it is a hidden matrix."""
        assigned = (each.to == self.name for each in self.assign if any(fnmatchcase(name, each.pattern) for name in names))
        return num_dimensions >= 2 and next(assigned, kind is Kind.MATRIX)

    def group_options(self, *, is_bias_or_norm: bool, is_main: bool = True, group: ParameterGroupConfig | None = None) -> dict[str, Any]:
        """With `is_main`: whether the rule for matrices updates the group."""
        if is_main:
            return {**super().group_options(is_bias_or_norm=is_bias_or_norm, group=group), "is_main": True}
        options = self.other.group_options(is_bias_or_norm=is_bias_or_norm, group=group)
        return {**options, LEARNING_RATE_FACTOR: options.get(LEARNING_RATE_FACTOR, 1.0) * self.other_learning_rate_factor, "is_main": False}

    @model_validator(mode="after")
    def _both_rules_agree(self) -> Self:
        if self.other.groups:
            raise ValueError("other has groups; give them in optimizer.groups, whose patterns are of all parameters")
        for each in self.assign:
            if each.to not in (self.name, "other"):
                raise ValueError(f"assign has the pattern {each.pattern!r} to {each.to!r}; it must be to {self.name} or to other")
        return self

    def build(self, groups: ParamGroups) -> "Optimizer":
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.groupwise import eager
        from largebatch.jobs.optim.split.together import Together

        matrices, others = ([group for group in groups if group["is_main"] == is_main] for is_main in (True, False))
        parts = [self.build_main(matrices)] if matrices else []
        return eager(Together)([*parts, *([self.other.build(others)] if others else [])])
