"""What the config of every optimizer holds, and what the rest of the program asks of it.

The service, the client and the MLflow mirror read specs too, and must not wait for torch: a config imports what it builds when it builds it.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import NonNegativeFloat

from largebatch.jobs.spec_base import Spec

if TYPE_CHECKING:
    from torch.optim import Optimizer

ParamGroups = list[dict[str, Any]]
"""As every optimizer of torch takes them: "params", and options that differ from group to group."""
FLOAT32_BYTES = 4


class OptimizerConfig(Spec):
    """The update rule and its options; options of another optimizer are refused."""

    name: str
    """Which optimizer it is."""
    weight_decay: NonNegativeFloat = 0.0
    """Coupled (added to the gradient) for sgd and lars, decoupled for adamw, inside the ratio for lamb."""
    decay_biases_and_norms: bool = False
    """Apply weight decay also to biases and normalisation parameters."""

    momentum_option: ClassVar[str]
    """The option that results call momentum."""
    batch_power: ClassVar[float]
    """The power of the batch that the learning rate follows: 1 for momentum SGD and its kin (arXiv:1706.02677), 0.5 for Adam's."""

    @property
    def momentum_value(self) -> float:
        """The value of `momentum_option`."""
        value: float = getattr(self, self.momentum_option)
        return value

    @property
    @abstractmethod
    def num_state_tensors(self) -> int:
        """How many float32 tensors of a parameter's shape the optimizer keeps for it."""

    def state_bytes(self, num_parameters: int) -> int:
        """Memory of the optimizer's state."""
        return self.num_state_tensors * num_parameters * FLOAT32_BYTES

    def group_options(self, *, is_bias_or_norm: bool) -> dict[str, Any]:
        """Options of a parameter group: of the weights, or of the biases and normalisation parameters."""
        return {"weight_decay": 0.0 if is_bias_or_norm and not self.decay_biases_and_norms else self.weight_decay}

    @abstractmethod
    def build(self, groups: ParamGroups) -> "Optimizer":
        """The optimizer over parameter groups; its learning rate, 0 here, is set before every step."""
