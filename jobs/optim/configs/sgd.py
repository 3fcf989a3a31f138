"""SGD with momentum: torch's own."""

from typing import TYPE_CHECKING, Literal

from largebatch.jobs.optim.configs.base import ParamGroups
from largebatch.jobs.optim.configs.shared_options import MomentumConfig

if TYPE_CHECKING:
    from torch.optim import Optimizer


class SgdConfig(MomentumConfig):
    """Momentum SGD; weight decay is coupled."""

    name: Literal["sgd"]
    """sgd is torch's."""

    def build(self, groups: ParamGroups) -> "Optimizer":
        """See `OptimizerConfig`."""
        from torch.optim import SGD  # torch: see base.py

        from largebatch.jobs.optim.eager import eager

        return eager(SGD)(groups, lr=0.0, momentum=self.momentum, nesterov=self.nesterov)
