"""A person's own optimizer, by its entry point."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, JsonValue

from largebatch.jobs.optim.by_samples.options import StepSize
from largebatch.jobs.optim.config_base import OptimizerConfig, ParamGroups

if TYPE_CHECKING:
    from torch.optim import Optimizer


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
    num_state_tensors: ClassVar[int] = 2
    """Not known: as many as Adam's."""

    @property
    def label(self) -> str:
        """Its entry point: there may be several of one's own."""
        return self.entry_point

    def momentum_at(self, size: StepSize) -> float:
        """Not known."""
        return 0.0

    def build(self, groups: ParamGroups) -> "Optimizer":
        """See `OptimizerConfig`. Raises: SpecError."""
        from largebatch.jobs.optim.own import own_optimizer

        return own_optimizer(self.entry_point, self.arguments, groups)
