"""The optimizers that a sweep compares: the fields of each, what it is called, and the rates that are searched where no range is given.

A rate that is usual for one optimizer is far off for another, so each has a range of its own; all ranges are as wide, which is the equal care.
"""

from collections.abc import Mapping
from typing import Any

from largebatch.jobs.optim.configs.registry import OPTIMIZERS

OPTIMIZER, OPTIMIZER_NAME, ENTRY_POINT = "optimizer", "optimizer.name", "optimizer.entry_point"
USUAL_BATCH = 256
"""Where the usual rates hold."""
RATE_POWER = 0.5
"""Of the batch, by which the middle of the searched learning rates grows."""
RATE_REACH = 6.0
"""Learning rates are searched from so many times below the middle to so many times above."""


def optimizer_fields(value: Any) -> dict[str, Any]:
    """The spec's fields of an optimizer that is named, by its name or an entry point, or given with options as in a recipe.

    Raises: ValueError for what is neither.
    """
    if isinstance(value, str):
        return {ENTRY_POINT: value, OPTIMIZER_NAME: "own"} if ":" in value else {OPTIMIZER_NAME: value}
    if not isinstance(value, Mapping) or not ("name" in value or "entry_point" in value):
        raise ValueError("each.optimizer holds what is neither an optimizer's name nor a mapping with name or entry_point")
    options = dict(value) if "name" in value else {"name": "own", **value}
    return {f"{OPTIMIZER}.{option}": of for option, of in options.items()}


def optimizer_of(fields: Mapping[str, Any]) -> str | None:
    """What the optimizer is called that these fields of a spec name; None where they name none."""
    label = fields.get(ENTRY_POINT) or fields.get(OPTIMIZER_NAME)
    return None if label is None else str(label)


def usual_rate(optimizer: str, batch: int) -> float | None:
    """A learning rate that is usual for an optimizer, moved to a batch; None for one that is not known."""
    rate = OPTIMIZERS[optimizer].usual_rate if optimizer in OPTIMIZERS else None
    return None if rate is None else rate * (batch / USUAL_BATCH) ** RATE_POWER
