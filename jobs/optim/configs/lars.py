"""LARS: see `largebatch.jobs.optim.lars`."""

from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat, PositiveFloat

from largebatch.jobs.optim.configs.base import ParamGroups
from largebatch.jobs.optim.configs.shared_options import LayerwiseConfig, MomentumConfig

if TYPE_CHECKING:
    from torch.optim import Optimizer


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
        from largebatch.jobs.optim.eager import eager  # with torch: see base.py
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
