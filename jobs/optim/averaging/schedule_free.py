"""Schedule-free SGD and AdamW: an average of the iterates takes the place of a decaying rate (Defazio et al., arXiv:2405.15682, Algorithm 1).

    z <- z - lr * (d + lambda * y)      d the direction at y: the gradient, or Adam's without its first moment
    x <- (1 - c) * x + c * z            c = lr_max^2 / (sum of lr_max^2 so far)
    y <- (1 - beta) * z + beta * x

Gradients are taken at y, the parameters while training; x is evaluated. lr_max is the largest rate so far, lambda weight decay.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from largebatch.jobs.optim.groupwise import GroupwiseOptimizer, learning_rate_of
from largebatch.jobs.optim.tensors import add_scaled, at_least_float32, in_at_least_float32, state_like

SEQUENCE, AVERAGE = "z", "x"


class ScheduleFreeSGD(GroupwiseOptimizer):
    """Schedule-free SGD. z and x are float32 at the least, one tensor more than the authors keep: x need not be computed back from y and z.

    Args:
        params: parameters or groups.
        lr: learning rate; warmed up, and not decayed.
        beta: where between z (0: averaged SGD) and x (1: primal averaging) gradients are taken, in [0, 1).
        weight_decay: lambda >= 0, at y.
        weight_lr_power: the power of lr_max that an iterate weighs in the average.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Tensor,
        *,
        beta: float = 0.9,
        weight_decay: float = 0.0,
        weight_lr_power: float = 2.0,
        **more: Any,
    ) -> None:
        defaults = {"lr": lr, "beta": beta, "weight_decay": weight_decay, "weight_lr_power": weight_lr_power}
        super().__init__(params, {**defaults, **more, "lr_max": 0.0, "weight_sum": 0.0, "share": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            group["lr_max"] = max(group["lr_max"], float(group["lr"]))
            weight = group["lr_max"] ** group["weight_lr_power"]
            group["weight_sum"] += weight
            group["share"] = weight / group["weight_sum"] if group["weight_sum"] else 0.0
        return super().step(closure)

    def _update(self, param_group: dict[str, Any], params: list[Tensor]) -> None:
        sequences, averages = ([self._held(param, key) for param in params] for key in (SEQUENCE, AVERAGE))
        directions = self._directions(param_group, params)
        if param_group["weight_decay"]:
            directions = list(torch._foreach_add(directions, in_at_least_float32(params), alpha=param_group["weight_decay"]))
        add_scaled(sequences, directions, [-learning_rate_of(param_group, params)] * len(params))
        torch._foreach_lerp_(averages, sequences, param_group["share"])
        torch._foreach_copy_(params, torch._foreach_lerp(sequences, averages, param_group["beta"]))

    def _directions(self, param_group: dict[str, Any], params: list[Tensor]) -> list[Tensor]:
        return in_at_least_float32([param.grad for param in params])

    def _held(self, param: Tensor, key: str) -> Tensor:
        """A state tensor of a parameter that begins where the parameter does."""
        begins = key not in self.state[param]
        held = state_like(self.state[param], key, param, at_least_float32(param.dtype))
        return held.copy_(param) if begins else held


class ScheduleFreeAdamW(ScheduleFreeSGD):
    """Schedule-free AdamW: directions are divided by the root of the second moment.

    Args: beta2: decay of the second moment, whose bias is corrected; eps: added to the root; all others: see `ScheduleFreeSGD`.
    """

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float | Tensor, *, beta2: float = 0.999, eps: float = 1e-8, **options: Any
    ) -> None:
        super().__init__(params, lr, beta2=beta2, eps=eps, **options)

    def _directions(self, param_group: dict[str, Any], params: list[Tensor]) -> list[Tensor]:
        directions = []
        for param, gradient in zip(params, super()._directions(param_group, params), strict=True):
            state, beta2 = self.state[param], param_group["beta2"]
            moment = state_like(state, "exp_avg_sq", param, gradient.dtype)
            state["step"] = state.get("step", 0) + 1
            moment.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            directions.append(gradient / (moment / (1 - beta2 ** state["step"])).sqrt_().add_(param_group["eps"]))
        return directions


class EvaluatedAverage:
    """The x of a schedule-free optimizer, evaluated and exported in place of the parameters; the optimizer keeps it. See `WeightAverage`.

    Batch-norms' running statistics at x, which `settle_norms` takes, are kept here, and take the place of those at y.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._model, self._optimizer = model, optimizer
        self._params = {name: param for name, param in model.named_parameters() if param.requires_grad}
        self._statistics: dict[str, Tensor] = {}
        self._held: list[tuple[Tensor, Tensor]] | None = None
        self.averages: list[Tensor] = []
        """None beside the optimizer's state."""
        self.has_statistics = False
        """Whether the statistics are those at x as it is now."""

    def update(self, power: float = 1.0) -> None:
        """Take note that x has moved, which the optimizer's step has done."""
        self.has_statistics = False

    def take_statistics(self, norms: Sequence[str]) -> None:
        """Keep the statistics that these norms of the model have now, with x in the parameters' place."""
        self._statistics = {
            f"{name}.{buffer}": value.clone() for name in norms for buffer, value in self._model.get_submodule(name).named_buffers(recurse=False)
        }
        self.has_statistics = True

    @torch.no_grad()
    def swap(self) -> None:
        """Put the averages in the parameters' place; a second call undoes the first, bit for bit."""
        if self._held is None:
            buffers = dict(self._model.named_buffers())
            places = [*self._params.values(), *(buffers[name] for name in self._statistics)]
            values = [*self._values(), *self._statistics.values()]
            self._held = [(place, place.detach().clone()) for place in places]
        else:
            places, values = [place for place, _ in self._held], [value for _, value in self._held]
            self._held = None
        for place, value in zip(places, values, strict=True):
            place.copy_(value)

    def _values(self) -> list[Tensor]:
        """Where a parameter has had no gradient yet, it is its own average."""
        return [self._optimizer.state.get(param, {}).get(AVERAGE, param.detach()) for param in self._params.values()]

    def state_dict(self) -> dict[str, Any]:
        """The averages and their names, for whoever reads a checkpoint's weights."""
        values = [value.to(param.dtype) for value, param in zip(self._values(), self._params.values(), strict=True)]
        return {"averages": [*values, *self._statistics.values()], "names": [*self._params, *self._statistics]}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take the statistics over; the averages came with the optimizer's state."""
        averages, buffers = dict(zip(saved["names"], saved["averages"], strict=True)), dict(self._model.named_buffers())
        self._statistics = {name: value.to(buffers[name].device) for name, value in averages.items() if name in buffers}
        self.has_statistics = bool(self._statistics)
