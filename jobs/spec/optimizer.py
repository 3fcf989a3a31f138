"""The optimizer's part of a spec: its name, and the options that it reads."""

from typing import Any, Literal, Self

from pydantic import NonNegativeFloat, PositiveFloat, SerializerFunctionWrapHandler, model_serializer, model_validator

from largebatch.jobs.spec.base import Fraction, Spec

EVERY_OPTIMIZER = frozenset({"name", "weight_decay", "decay_biases_and_norms"})
OPTIMIZER_OPTIONS: dict[str, frozenset[str]] = {
    "sgd": frozenset({"momentum", "nesterov"}),
    "adamw": frozenset({"beta1", "beta2", "epsilon"}),
    "lars": frozenset({"momentum", "nesterov", "epsilon", "trust_coefficient", "max_trust_ratio"})
    | {"learning_rate_in_momentum", "adapt_biases_and_norms", "zero_norms"},
    "lamb": frozenset({"beta1", "beta2", "epsilon", "phi_min", "phi_max", "max_trust_ratio", "zero_norms"})
    | {"bias_correction", "adapt_biases_and_norms"},
}
"""Which options each optimizer reads, besides weight_decay and decay_biases_and_norms, which all do."""


class OptimizerSpec(Spec):
    """The update rule. Options that the named optimizer does not read are refused."""

    name: Literal["sgd", "adamw", "lars", "lamb"]
    """sgd and adamw are torch's; lars and lamb are ours."""
    momentum: Fraction = 0.9
    """sgd, lars: weight of the momentum buffer."""
    nesterov: bool = False
    """sgd, lars: look ahead along the momentum."""
    beta1: Fraction = 0.9
    """adamw, lamb: decay of the first moment."""
    beta2: Fraction = 0.999
    """adamw, lamb: decay of the second moment."""
    epsilon: NonNegativeFloat | None = None
    """Added to denominators; default 1e-8 (adamw), 1e-6 (lamb), 0 (lars)."""
    weight_decay: NonNegativeFloat = 0.0
    """Coupled (added to the gradient) for sgd and lars, decoupled for adamw, inside the ratio for lamb."""
    decay_biases_and_norms: bool = False
    """Apply weight decay also to biases and normalisation parameters."""
    adapt_biases_and_norms: bool = False
    """lars, lamb: apply the trust ratio also to biases and normalisation parameters."""
    trust_coefficient: PositiveFloat = 0.001
    """lars: the paper's eta."""
    max_trust_ratio: PositiveFloat | None = None
    """lars, lamb: upper bound of the trust ratio; none in the papers."""
    zero_norms: Literal["one", "equation"] = "one"
    """lars, lamb: the trust ratio where a norm is 0, of which the papers say nothing: 1 (most public code), or what the equation gives: 0 for
    a weight of zeros, which lars then never moves and lamb's phi_min lifts."""
    learning_rate_in_momentum: bool = True
    """lars: learning rate inside the momentum buffer (the paper), or outside (most public code)."""
    bias_correction: bool = True
    """lamb: divide the moments by 1 - beta^t (the paper's Algorithm 2)."""
    phi_min: NonNegativeFloat = 0.0
    """lamb: lower bound of phi(|w|)."""
    phi_max: PositiveFloat | None = None
    """lamb: upper bound of phi(|w|); none: phi is the identity above phi_min."""

    @model_validator(mode="after")
    def _only_what_is_read(self) -> Self:
        unread = self.model_fields_set - EVERY_OPTIMIZER - OPTIMIZER_OPTIONS[self.name]
        if unread:
            known = ", ".join(sorted(OPTIMIZER_OPTIONS[self.name] | {"weight_decay", "decay_biases_and_norms"}))
            raise ValueError(f"{self.name} does not read {', '.join(sorted(unread))}; it reads {known}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if self.name == "lamb" and self.epsilon == 0:
            raise ValueError("lamb needs an epsilon above 0: a weight that never had a gradient would be divided by 0")
        if self.phi_max is not None and self.phi_min > self.phi_max:
            raise ValueError(f"phi_min {self.phi_min} is above phi_max {self.phi_max}")
        return self

    @model_serializer(mode="wrap")
    def _write_only_what_is_read(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        read = EVERY_OPTIMIZER | OPTIMIZER_OPTIONS[self.name]
        return {option: value for option, value in write(self).items() if option in read}
