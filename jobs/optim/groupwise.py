"""What the optimizer classes have in common: a step goes group by group, and none imports torch's compiler."""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

Kind = TypeVar("Kind", bound=Optimizer)


class GroupwiseOptimizer(Optimizer):
    """An optimizer whose `_update` takes some parameters of one group at a time, all with a gradient."""

    one_by_one_on_cpu: ClassVar[bool] = True
    """On a CPU the caches win: one parameter at a time, so that the passes over it after the first find it in cache."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for param_group in self.param_groups:
            for params in self._buckets(param_group["params"]):
                self._update(param_group, params)
        return loss

    def _buckets(self, params: list[Tensor]) -> list[list[Tensor]]:
        """The parameters that have a gradient, one list per dtype and device: on an accelerator few large launches win."""
        buckets: dict[Any, list[Tensor]] = {}
        for param in params:
            if param.grad is None:
                continue
            if param.grad.is_sparse:
                raise ValueError("sparse gradients have no layer-wise norm here; use a dense embedding.")
            bucket = param if self.one_by_one_on_cpu and param.is_cpu else (param.device, param.dtype)
            buckets.setdefault(bucket, []).append(param)
        return list(buckets.values())

    def _update(self, param_group: dict[str, Any], params: list[Tensor]) -> None:
        """Update these parameters, of one dtype and on one device, by the options of their group."""
        raise NotImplementedError


def eager(kind: type[Kind]) -> type[Kind]:
    """A class of optimizers with its methods as they are below torch's mark that they are never to be compiled.

    Making the mark imports the compiler: 900 modules, 1.5 s of every start whose model and data do not bring it along anyhow, as
    torchvision does (docs/results/speedups.md). No optimizer is compiled here.
    """
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad")}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(inspect.unwrap(kind.step))})
