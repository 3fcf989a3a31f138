"""Optimizers without a schedule of rates: an average of the iterates takes its place."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import NonNegativeFloat

from largebatch.jobs.optim.config_base import BY_SQUARES, EUCLIDEAN, ClassAndOptions, OptimizerConfig
from largebatch.jobs.spec_base import Fraction

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from largebatch.jobs.optim.averaging.schedule_free import EvaluatedAverage


class ScheduleFreeConfig(OptimizerConfig):
    """The options of optimizers whose average of the iterates takes the place of a decaying rate (arXiv:2405.15682)."""

    weight_lr_power: NonNegativeFloat = 2.0
    """The power of the largest rate so far that an iterate weighs in the average."""

    averages: ClassVar[bool] = True

    def evaluated_average(self, model: "nn.Module", optimizer: "Optimizer") -> "EvaluatedAverage | None":
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.averaging.schedule_free import EvaluatedAverage

        return EvaluatedAverage(model, optimizer)


class ScheduleFreeSgdConfig(ScheduleFreeConfig):
    """Schedule-free SGD; weight decay is coupled."""

    name: Literal["schedule-free-sgd"]
    """schedule-free-sgd is ours."""
    momentum: Fraction = 0.9
    """Where gradients are taken between the iterate (0) and the average (1)."""

    momentum_option: ClassVar[str] = "momentum"
    batch_power: ClassVar[float] = 1.0
    usual_rate: ClassVar[float | None] = 1.0
    without_dual_norm: ClassVar[str] = EUCLIDEAN
    num_state_tensors: ClassVar[int] = 2
    """The iterate and the average."""

    def class_and_options(self) -> ClassAndOptions:
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.averaging.schedule_free import ScheduleFreeSGD

        return ScheduleFreeSGD, {"beta": self.momentum, "weight_lr_power": self.weight_lr_power}


class ScheduleFreeAdamWConfig(ScheduleFreeConfig):
    """Schedule-free AdamW; weight decay is decoupled."""

    name: Literal["schedule-free-adamw"]
    """schedule-free-adamw is ours."""
    beta1: Fraction = 0.9
    """Where gradients are taken between the iterate (0) and the average (1)."""
    beta2: Fraction = 0.999
    """Decay of the second moment."""
    epsilon: NonNegativeFloat | None = None
    """Added to denominators; default 1e-8."""

    momentum_option: ClassVar[str] = "beta1"
    batch_power: ClassVar[float] = 0.5
    usual_rate: ClassVar[float | None] = 2.5e-3
    without_dual_norm: ClassVar[str] = BY_SQUARES
    num_state_tensors: ClassVar[int] = 3
    """The iterate, the average and the second moment."""

    def class_and_options(self) -> ClassAndOptions:
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.averaging.schedule_free import ScheduleFreeAdamW

        epsilon = 1e-8 if self.epsilon is None else self.epsilon
        return ScheduleFreeAdamW, {"beta": self.beta1, "beta2": self.beta2, "eps": epsilon, "weight_lr_power": self.weight_lr_power}
