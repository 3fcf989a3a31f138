"""AdamW: torch's rule."""

from typing import TYPE_CHECKING, Literal

from largebatch.jobs.optim.configs.base import ParamGroups
from largebatch.jobs.optim.configs.shared_options import AdamConfig

if TYPE_CHECKING:
    from torch.optim import Optimizer


class AdamWConfig(AdamConfig):
    """AdamW (arXiv:1711.05101); weight decay is decoupled."""

    name: Literal["adamw"]
    """adamw is torch's."""

    def build(self, groups: ParamGroups) -> "Optimizer":
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.adamw import AdamW  # with torch: see base.py
        from largebatch.jobs.optim.eager import eager

        epsilon = 1e-8 if self.epsilon is None else self.epsilon
        return eager(AdamW)(groups, lr=0.0, betas=(self.beta1, self.beta2), eps=epsilon, fused=True)
