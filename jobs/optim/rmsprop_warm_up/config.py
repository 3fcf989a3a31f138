"""The options of RMSprop that passes into momentum SGD, and when it does."""

import math
from typing import Any, ClassVar, Literal, Self

from pydantic import NonNegativeFloat, PositiveFloat

from largebatch.jobs.optim.config_base import ClassAndOptions, OneDecayConfig
from largebatch.jobs.spec_base import Fraction


class RmspropSgdConfig(OneDecayConfig):
    """RMSprop that passes into momentum SGD (arXiv:1711.04325); weight decay is coupled.

    With the share s of SGD, which follows progress in samples as the learning rate does,

        s = exp(2 (epoch - c) / p) / 2 before epoch c,  1/2 + (epoch - c) / p up to c + p / 2,  then 1
        sgd_weight = s,  rmsprop_weight = (1 - s) * rmsprop_learning_rate / learning rate

    c is transition_epoch, p transition_period_epochs: an exponential that passes into a straight line of the same slope, as ELU does.
    """

    name: Literal["rmsprop-sgd"]
    """rmsprop-sgd is ours."""
    beta2: Fraction = 0.99
    """Decay of RMSprop's second moment."""
    epsilon: PositiveFloat | None = None
    """Added to its root; default 1e-8."""
    rmsprop_learning_rate: PositiveFloat = 3e-4
    """RMSprop's own rate while it acts alone, whatever the learning rate, which is SGD's."""
    transition_epoch: NonNegativeFloat = 10.0
    """The epoch at which each of the two rules counts half."""
    transition_period_epochs: PositiveFloat = 5.0
    """How long they take to pass: before that epoch SGD's share halves with every 0.35 of it, half of it afterwards SGD acts alone."""

    batch_power: ClassVar[float] = 1.0
    usual_rate: ClassVar[float | None] = 0.1
    accumulates: ClassVar[bool] = True

    @property
    def num_state_tensors(self) -> int:
        """The momentum buffer and the second moment."""
        return 1 + int(self.momentum != 0)

    @property
    def last_epoch_of_both(self) -> float:
        """The epoch from which SGD acts alone."""
        return self.transition_epoch + self.transition_period_epochs / 2

    def share_of_sgd(self, epoch: float) -> float:
        """s, in (0, 1]. Args: epoch: progress, with its fraction."""
        if epoch >= self.last_epoch_of_both:
            return 1.0
        distance = (epoch - self.transition_epoch) / self.transition_period_epochs
        return 0.5 * math.exp(2.0 * distance) if distance < 0 else 0.5 + distance

    def options_by_progress(self, epoch: float, learning_rate: float) -> dict[str, float]:
        """See `OptimizerConfig`."""
        share = self.share_of_sgd(epoch)
        rmsprop = (1.0 - share) * self.rmsprop_learning_rate / learning_rate if learning_rate else 0.0
        return {"sgd_weight": share, "rmsprop_weight": rmsprop}

    def schedule_in_words(self, num_epochs: float) -> str:
        """See `OptimizerConfig`."""
        words = f"RMSprop at rate {self.rmsprop_learning_rate:g} passes into momentum SGD: half and half at epoch {self.transition_epoch:g}"
        ends = f", SGD alone from epoch {self.last_epoch_of_both:g}"
        return words + ends + (" (the run ends before)" if num_epochs < self.last_epoch_of_both else "")

    def for_share(self, share: float) -> Self:
        """See `OptimizerConfig`."""
        epochs = {name: getattr(self, name) * share for name in ("transition_epoch", "transition_period_epochs")}
        return self.model_copy(update=epochs)

    def class_and_options(self) -> ClassAndOptions:
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.rmsprop_warm_up.rmsprop_sgd import RMSpropSGD

        weights: dict[str, Any] = {"sgd_weight": 0.5, "rmsprop_weight": 0.5}  # like the rate they are set before every step
        momentum = self.built_with("momentum")
        return RMSpropSGD, {"momentum": momentum, "beta2": self.beta2, "epsilon": self.epsilon or 1e-8, **weights}
