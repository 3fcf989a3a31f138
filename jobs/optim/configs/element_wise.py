"""Optimizers that treat every number of a parameter alike: momentum SGD, AdamW, Lion."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from largebatch.jobs.optim.config_base import AdamConfig, ClassAndOptions, DecoupledConfig, MomentumConfig, TwoDecaysConfig


class SgdConfig(MomentumConfig):
    """Momentum SGD; weight decay is coupled."""

    name: Literal["sgd"]
    """sgd is torch's."""

    usual_rate: ClassVar[float | None] = 0.1

    def class_and_options(self) -> ClassAndOptions:
        """See `OptimizerConfig`."""
        from torch.optim import SGD

        return SGD, {"momentum": self.built_with("momentum"), "nesterov": self.nesterov}


class AdamWConfig(DecoupledConfig, AdamConfig):
    """AdamW (arXiv:1711.05101); weight decay is decoupled."""

    name: Literal["adamw"]
    """adamw is torch's."""

    usual_rate: ClassVar[float | None] = 1e-3

    def class_and_options(self) -> ClassAndOptions:
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.adamw import AdamW

        epsilon = 1e-8 if self.epsilon is None else self.epsilon
        return AdamW, {"betas": self.betas, "eps": epsilon, "fused": True}


class LionConfig(DecoupledConfig, TwoDecaysConfig):
    """The sign of a mean of gradients (arXiv:2302.06675); weight decay is decoupled."""

    name: Literal["lion"]
    """lion is ours."""

    decays: ClassVar[Mapping[str, float]] = {"beta1": 0.9, "beta2": 0.99}
    usual_rate: ClassVar[float | None] = 2e-4
    dual_norm: ClassVar[Literal["l1", "nuclear", ""]] = "l1"
    num_state_tensors: ClassVar[int] = 1
    """The mean."""

    def class_and_options(self) -> ClassAndOptions:
        """See `OptimizerConfig`."""
        from largebatch.jobs.optim.lion import Lion

        return Lion, {"betas": self.betas}
