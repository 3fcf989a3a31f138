"""Optimizers that keep a factor for each dimension of a hidden matrix, from the library pytorch_optimizer: SOAP, Shampoo."""

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt

from largebatch.jobs.optim.by_samples.options import StepSize
from largebatch.jobs.optim.config_base import BY_SQUARES, ParamGroups
from largebatch.jobs.optim.configs.two_rules import TwoRulesConfig
from largebatch.jobs.spec_base import Fraction

if TYPE_CHECKING:
    from torch.optim import Optimizer


class SoapConfig(TwoRulesConfig):
    """Adam in the eigenbasis of Shampoo's factors for hidden matrices (arXiv:2409.11321), another optimizer for all else."""

    name: Literal["soap"]
    """soap is the library pytorch_optimizer's."""
    beta1: Fraction = 0.95
    """Decay of the first moment."""
    beta2: Fraction = 0.95
    """Decay of the second moment, which is of the gradient in the basis."""
    shampoo_beta: Fraction | None = None
    """Decay of the factors; default beta2."""
    precondition_frequency: PositiveInt = 10
    """Steps from one basis to the next."""
    max_precondition_dim: PositiveInt = 10_000
    """Dimensions that are longer have no factor and keep their own basis."""
    epsilon: PositiveFloat | None = None
    """Added to denominators; default 1e-8."""

    momentum_option: ClassVar[str] = "beta1"
    usual_rate: ClassVar[float | None] = 3e-3
    without_dual_norm: ClassVar[str] = BY_SQUARES
    library: ClassVar[str | None] = "pytorch_optimizer"

    @property
    def rule_in_words(self) -> str:
        """See `TwoRulesConfig`."""
        return f"a basis every {self.precondition_frequency} steps"

    def numbers_kept(self, shape: tuple[int, ...]) -> int:
        """Both moments; of each dimension a factor and its basis."""
        return 2 * math.prod(shape) + 2 * sum(size**2 for size in shape if size <= self.max_precondition_dim)

    def build_main(self, groups: ParamGroups) -> "Optimizer":
        """See `TwoRulesConfig`."""
        from largebatch.jobs.optim.split.soap import soap

        own = self.model_dump(include={"shampoo_beta", "precondition_frequency", "max_precondition_dim"})
        return soap(groups, betas=(self.beta1, self.beta2), eps=self.epsilon or 1e-8, **own)


class ShampooConfig(TwoRulesConfig):
    """Gradients of hidden matrices times a root of a factor for each dimension (arXiv:1802.09568), another optimizer for all else."""

    name: Literal["shampoo"]
    """shampoo is the library pytorch_optimizer's."""
    epsilon: PositiveFloat | None = None
    """What the factors begin with on their diagonals; default 1e-6."""
    precondition_frequency: PositiveInt = 1
    """Steps from one pair of roots to the next."""
    other_learning_rate_factor: PositiveFloat = 0.05
    """What the learning rate of each step is multiplied by for what is no hidden matrix: Shampoo's steps shrink from one to the next."""

    momentum_option: ClassVar[str] = ""
    usual_rate: ClassVar[float | None] = 0.1
    without_dual_norm: ClassVar[str] = "its factors add up squared gradients, and so the norm of its steps changes along the run and with the batch"
    library: ClassVar[str | None] = "pytorch_optimizer"

    def momentum_at(self, size: StepSize) -> float:
        """It has none."""
        return 0.0

    @property
    def rule_in_words(self) -> str:
        """See `TwoRulesConfig`."""
        return f"roots every {self.precondition_frequency} steps" if self.precondition_frequency > 1 else "roots at every step"

    def numbers_kept(self, shape: tuple[int, ...]) -> int:
        """Of each dimension a factor and its root."""
        return 2 * sum(size**2 for size in shape)

    def build_main(self, groups: ParamGroups) -> "Optimizer":
        """See `TwoRulesConfig`."""
        from largebatch.jobs.optim.split.shampoo import shampoo

        return shampoo(groups, epsilon=self.epsilon or 1e-6, every=self.precondition_frequency)
