"""Muon for hidden matrices, another optimizer for all else."""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat

from largebatch.jobs.optim.config_base import ClassAndOptions, OneDecayConfig
from largebatch.jobs.optim.configs.two_rules import TwoRulesConfig


class MuonConfig(TwoRulesConfig, OneDecayConfig):
    """Momentum made orthogonal for hidden matrices (https://kellerjordan.github.io/posts/muon/), another optimizer for all else."""

    name: Literal["muon"]
    """muon is torch's."""
    nesterov: bool = True
    """Look ahead along the mean."""
    ns_steps: Annotated[int, Field(ge=1, lt=100)] = 5
    """Newton-Schulz iterations."""
    epsilon: PositiveFloat | None = None
    """The least norm that a matrix is divided by before them; default 1e-7."""
    adjust_lr_fn: Literal["original", "match_rms_adamw", "spectral_unclamped"] = "match_rms_adamw"
    """What the learning rate is multiplied by for a matrix of A rows and B columns: sqrt(max(1, A / B)), 0.2 sqrt(max(A, B)) (arXiv:2502.16982:
    updates as large as AdamW's, so that one rate serves both) or sqrt(A / B)."""

    decays: ClassVar[Mapping[str, float]] = {"momentum": 0.95}
    usual_rate: ClassVar[float | None] = 3e-3
    tells_rows: ClassVar[bool] = True
    dual_norm: ClassVar[Literal["l1", "nuclear", ""]] = "nuclear"

    @property
    def rule_in_words(self) -> str:
        """See `TwoRulesConfig`."""
        return f"rate by {self.adjust_lr_fn}"

    def numbers_kept(self, shape: tuple[int, ...]) -> int:
        """The gradient's mean."""
        return math.prod(shape)

    def class_and_options(self) -> ClassAndOptions:
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.split.muon import Muon

        own = self.model_dump(include={"nesterov", "ns_steps", "adjust_lr_fn"})
        return Muon, {**own, "momentum": self.built_with("momentum"), "eps": self.epsilon or 1e-7}
