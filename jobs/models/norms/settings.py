"""Refuses a forward pass that changes a norm's settings: the result would depend on how many passes there were.

Nothing in a checkpoint holds these settings, so that a resume would not know them either.
"""

from collections.abc import Sequence
from typing import NamedTuple

from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.norms.ghost_batch_norm import GhostNorm


class Settings(NamedTuple):
    """The settings of one norm."""

    momentum: float | None
    eps: float
    training: bool


def settings_of(norm: GhostNorm) -> Settings:
    """A norm's settings at this moment."""
    return Settings(norm.momentum, norm.eps, norm.training)


def refuse_change(norms: Sequence[GhostNorm], before: Sequence[Settings]) -> None:
    """Raise PlanError for the first norm that has other settings than before."""
    now = [settings_of(norm) for norm in norms]
    if now == before:
        return
    for norm, new, old in zip(norms, now, before, strict=True):
        for name, value in new._asdict().items():
            if value != getattr(old, name):
                raise PlanError(
                    "model",
                    f"the forward pass changes {norm.ghost.name}.{name} from {_in_words(getattr(old, name))} to {_in_words(value)}:"
                    " the result would depend on how many passes there were, which micro-batches, workers and a resume change.",
                    "Leave the settings of norms as they are while the model trains; freeze a norm by eval() where the model is built.",
                )


def _in_words(value: float | None) -> str:
    return str(value) if value is None or isinstance(value, bool) else f"{value:.4g}"
