"""What a run or a group of a sweep changes, in short, as pages and terminals say it."""

from typing import Any

from largebatch.tuning.sweep.optimizers import ENTRY_POINT, OPTIMIZER_NAME
from largebatch.tuning.sweep.spec import BATCHES, RATE

SHORT = {RATE: "learning rate", OPTIMIZER_NAME: "optimizer", ENTRY_POINT: "optimizer", **dict.fromkeys(BATCHES, "batch")}


def in_short(fields: dict[str, Any]) -> str:
    """`batch 64, learning rate 0.1`; seeds are left out."""
    own = ENTRY_POINT in fields
    shown = {name: value for name, value in fields.items() if name != "seed" and not (own and name == OPTIMIZER_NAME)}
    return ", ".join(f"{short_name(name)} {short_value(value)}" for name, value in shown.items())


def short_name(field: str) -> str:
    """`warmup epochs` of `learning_rate.warmup_epochs`."""
    return SHORT.get(field) or field.rpartition(".")[2].replace("_", " ")


def short_value(value: Any) -> str:
    """A number by four digits."""
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)
