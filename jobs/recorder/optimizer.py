"""What a torch optimizer says of itself: its name, its options and its learning rate, in the words of a recipe."""

from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

RATES = ("max_lr", "initial_lr", "lr")
"""What parameter groups call a learning rate; schedules of torch leave the first two."""
LEFT_OUT = {"params", "param_names", *RATES, "min_lr", "foreach", "fused", "capturable", "differentiable"}
"""What of a group is no option, or changes how a step is computed and not what it is."""
BY_GROUP = "by_group"
"""Options that differ between parameter groups, each with the groups' values."""


class RateOfSteps:
    """The learning rate of each step, taken as it begins: a schedule may change it before the loop says that the step is done."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._rate: float | None = None
        self._hook: RemovableHandle | None = None

    def begin(self) -> None:
        """Listen to the optimizer from here on."""
        self._hook = self._optimizer.register_step_pre_hook(self._keep)

    def take(self) -> float:
        """The rate of the step just done; the optimizer's own now where that was not called."""
        rate, self._rate = self._rate, None
        return float(self._optimizer.param_groups[0]["lr"]) if rate is None else rate

    def end(self) -> None:
        """Listen no longer."""
        if self._hook is not None:
            self._hook.remove()

    def _keep(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._rate = float(optimizer.param_groups[0]["lr"])


def describe_optimizer(optimizer: Optimizer, name: str | None = None) -> dict[str, Any]:
    """Its name and options: of several parameter groups the first one's, and what differs between them under `by_group`.

    Args: name: what to call it; None: its class, in small letters, so that torch's SGD and AdamW are sgd and adamw, as they are in recipes.
    """
    groups = [_options(group) for group in optimizer.param_groups]
    rates = [_peak(group) for group in optimizer.param_groups]
    differing: dict[str, list[Any]] = {
        option: [group.get(option) for group in groups] for option in groups[0] if any(group.get(option) != groups[0][option] for group in groups)
    }
    if any(rate != rates[0] for rate in rates):
        # Of a first group that stands still, the others' rates are no multiples.
        differing |= {"learning_rate_factor": [rate / rates[0] for rate in rates]} if rates[0] else {"learning_rate": [*rates]}
    return {"name": name or type(optimizer).__name__.lower(), **groups[0], **({BY_GROUP: differing} if differing else {})}


def peak_learning_rate(optimizer: Optimizer) -> float:
    """The highest rate that the first parameter group says it will have: a one-cycle's, else what a schedule began from, else what it is now."""
    return _peak(optimizer.param_groups[0])


def _peak(group: dict[str, Any]) -> float:
    return float(next(group[name] for name in RATES if name in group))


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """The options of one group that are plain values; Adam's kin in our names."""
    plain = {name: value for name, value in group.items() if name not in LEFT_OUT and isinstance(value, bool | int | float | str)}
    options = {name: float(value) if type(value) is int else value for name, value in plain.items()}  # 0 and 0.0 are one value
    betas = group.get("betas")
    if isinstance(betas, tuple | list):
        options |= {f"beta{number}": float(beta) for number, beta in enumerate(betas, start=1)}
    if "eps" in options:
        options["epsilon"] = options.pop("eps")
    return dict(sorted(options.items()))
