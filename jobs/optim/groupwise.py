"""What the optimizer classes have in common: a step goes group by group, and none imports torch's compiler."""

import inspect
import math
import sys
from collections.abc import Callable, Mapping
from itertools import accumulate
from numbers import Real
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

Kind = TypeVar("Kind", bound=Optimizer)

NUMBERS_AT_ONCE_ON_A_CPU = 2**20
"""So that the passes over parameters after the first find them in the cache."""
NUMBERS_AT_ONCE_ELSEWHERE = 2**26
"""So that few launches do, and what a step needs besides stays small."""


class GroupwiseOptimizer(Optimizer):
    """An optimizer whose `_update` takes some parameters of one group at a time, all with a gradient.

    In a loop of anybody's it is as torch's are: hooks, labels in profiles, a rate that is a tensor of one element, groups that come late,
    copies, pickles. Unlike there a group's options are looked at whenever it comes, and state keeps the precision it was saved in.
    """

    in_parts: ClassVar[bool] = True
    """Whether `_update` gets some of a group's parameters at a time: see `NUMBERS_AT_ONCE_ON_A_CPU`."""
    _memory: dict[torch.dtype, Tensor] | None = None
    """What `_scratch` hands out on a CPU. No copy, pickle or state_dict has it."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # A compiled loop calls it as it is: it goes through memory as few times as there is need to, by operations that are not compiled.
        update_all = torch.compiler.disable(self._update_all) if torch.compiler.is_compiling() else self._update_all  # type: ignore[no-untyped-call]
        update_all()
        return loss

    def _update_all(self) -> None:
        for param_group in self.param_groups:
            for params in self._buckets(param_group["params"]):
                self._update(param_group, params)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, at any time, with options of their own. Raises: ValueError for an option or a parameter that cannot be."""
        if isinstance(param_group, dict):
            self._refuse_options({**self.defaults, **param_group})
        inspect.unwrap(Optimizer.add_param_group)(self, param_group)
        try:
            self._refuse_params(self.param_groups[-1]["params"])
        except ValueError:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict()` gave, in the precision that it was saved in where that is more than the parameter's, to which torch casts."""
        loaded: dict[str, Any] = {}

        def widen(optimizer: Optimizer) -> None:
            params = [param for group in optimizer.param_groups for param in group["params"]]
            for index, param in zip((index for group in loaded["param_groups"] for index in group["params"]), params, strict=True):
                for key, value in loaded["state"].get(index, {}).items():
                    if isinstance(value, Tensor) and value.is_floating_point():
                        wide = torch.promote_types(value.dtype, optimizer.state[param][key].dtype)
                        optimizer.state[param][key] = value.to(param.device, wide)

        with (  # after the hooks that change what is loaded, and before those that look at it then
            self.register_load_state_dict_pre_hook(lambda _, state_dict: loaded.update(state_dict)),
            self.register_load_state_dict_post_hook(widen, prepend=True),
        ):
            inspect.unwrap(Optimizer.load_state_dict)(self, state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """State of an earlier version lacks the options that came since."""
        super().__setstate__(state)
        for param_group in self.param_groups:
            for name, value in self.defaults.items():
                if name != "differentiable":  # which torch has just added for optimizers of its own
                    param_group.setdefault(name, value)

    def _refuse_options(self, options: Mapping[str, Any]) -> None:
        """Raise ValueError for options of a group that cannot be."""
        learning_rate = options["lr"]
        if not isinstance(learning_rate, (Tensor, Real)):
            raise ValueError(f"lr must be a number or a tensor of one element, not a {type(learning_rate).__name__}.")
        if isinstance(learning_rate, Tensor) and learning_rate.numel() != 1:
            raise ValueError(f"lr must be a number or a tensor of one element, not of the shape {tuple(learning_rate.shape)}.")
        if not 0 <= float(learning_rate) < math.inf:
            raise ValueError(f"lr must be a finite number of at least 0, not {float(learning_rate)}.")
        for name in ("weight_decay", "epsilon", "eps", "sgd_weight", "rmsprop_weight"):
            if not options.get(name, 0.0) >= 0:
                raise ValueError(f"{name} must be at least 0, not {options[name]}.")
        for name, values in {
            "betas": options.get("betas", ()),
            **{name: (options.get(name, 0.0),) for name in ("momentum", "beta", "beta2")},
        }.items():
            if not all(0 <= value < 1 for value in values):
                raise ValueError(f"{name} must be in [0, 1), not {options[name]}.")
        if not (options.get("max_trust_ratio") is None or options["max_trust_ratio"] > 0):
            raise ValueError(f"max_trust_ratio must be above 0, not {options['max_trust_ratio']}.")
        if not options.get("trust_coefficient", 1.0) > 0:
            raise ValueError(f"trust_coefficient must be above 0, not {options['trust_coefficient']}.")

    def _refuse_params(self, params: list[Tensor]) -> None:
        """Raise ValueError for parameters that cannot be updated."""
        for param in params:
            if not param.is_floating_point():
                raise ValueError(f"{type(self).__name__} updates real numbers, and a parameter is of {param.dtype}.")

    def _buckets(self, params: list[Tensor]) -> list[list[Tensor]]:
        """The parameters that have a gradient, in lists of one dtype and device, each of one parameter or of not too many numbers."""
        buckets: list[list[Tensor]] = []
        filled: dict[Any, tuple[list[Tensor], int]] = {}
        for param in params:
            gradient = param.grad
            if gradient is None:
                continue
            if gradient.layout is not torch.strided:
                raise ValueError(f"{type(self).__name__} takes no sparse gradients; use an embedding without sparse=True.")
            most = (NUMBERS_AT_ONCE_ON_A_CPU if param.is_cpu else NUMBERS_AT_ONCE_ELSEWHERE) if self.in_parts else sys.maxsize
            key, size = (param.device, param.dtype), param.numel()
            bucket, numbers = filled.get(key, ([], most))
            if numbers + size > most:
                bucket, numbers = [], 0
                buckets.append(bucket)
            bucket.append(param)
            filled[key] = bucket, numbers + size
        return buckets

    def _update(self, param_group: dict[str, Any], params: list[Tensor]) -> None:
        """Update these parameters, of one dtype and on one device, by the options of their group."""
        raise NotImplementedError

    def _scratch(self, examples: list[Tensor]) -> list[Tensor]:
        """Memory for a tensor like each of these, until the next call: on a CPU always the same, for new memory costs as much as a pass over it."""
        if not examples[0].is_cpu:
            return [torch.empty_like(example) for example in examples]
        dtype, sizes = examples[0].dtype, [example.numel() for example in examples]
        self._memory = self._memory or {}
        if dtype not in self._memory or self._memory[dtype].numel() < sum(sizes):
            self._memory[dtype] = torch.empty(sum(sizes), dtype=dtype)
        begins = accumulate(sizes, initial=0)
        return [self._memory[dtype].as_strided(example.shape, example.stride(), begin) for begin, example in zip(begins, examples, strict=False)]


def learning_rate_of(param_group: dict[str, Any], params: list[Tensor]) -> Any:
    """A group's learning rate as a number, or, where it lies on the parameters' accelerator, a 0-d tensor there: nothing is copied to the host."""
    learning_rate = param_group["lr"]
    if isinstance(learning_rate, Tensor) and learning_rate.device == params[0].device and not learning_rate.is_cpu:
        return learning_rate.reshape(())
    return float(learning_rate)


def eager(kind: type[Kind]) -> type[Kind]:
    """A class of optimizers with its methods as they are below torch's mark that they are never to be compiled.

    Making the mark imports the compiler: 900 modules, 1.5 s of every start whose model and data do not bring it along anyhow, as
    torchvision does (docs/results/speedups.md). No optimizer is compiled here.
    """
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad")}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(inspect.unwrap(kind.step))})
