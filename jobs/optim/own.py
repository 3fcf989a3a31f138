"""A person's own optimizer: built by their entry point, tried on a small layer before anything trains."""

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from largebatch.jobs.entry_points import ANYTHING, call_entry_point, described
from largebatch.jobs.errors import SpecError
from largebatch.jobs.optim.config_base import ParamGroups

FIELD = "optimizer.entry_point"


def own_optimizer(reference: str, arguments: Mapping[str, Any], groups: ParamGroups) -> Optimizer:
    """What the entry point makes of parameter groups. Raises: SpecError for what is no optimizer of all these parameters."""
    given = {param for group in groups for param in group["params"]}
    optimizer = call_entry_point(FIELD, reference, {"params": groups, **arguments})
    if not isinstance(optimizer, Optimizer) or not getattr(optimizer, "param_groups", None):
        what = "an optimizer without param_groups" if isinstance(optimizer, Optimizer) else type(optimizer).__name__
        hint = "Let the class inherit from torch.optim.Optimizer, and hand params on to its __init__."
        raise SpecError(FIELD, f"{reference} returned {what}; it must return a torch.optim.Optimizer.", hint)
    taken = {param for group in optimizer.param_groups for param in group["params"]}
    for params, verb in ((given - taken, "leaves out"), (taken - given, "adds")):
        if params:
            shape = tuple(next(iter(params)).shape)
            problem = f"{reference} {verb} {len(params)} of {len(given | taken)} parameters, one of them of shape {shape}."
            raise SpecError(FIELD, problem, "Hand on all of params, and nothing else; model.freeze keeps parameters as they are.")
    return optimizer


def refuse_unusable(reference: str, arguments: Mapping[str, Any]) -> None:
    """Try an entry point's optimizer on a small layer. Raises: SpecError where the loop could not use it, or a checkpoint not keep it."""
    layer = nn.Linear(3, 2)
    groups: ParamGroups = [{"params": [layer.weight], "weight_decay": 0.0}, {"params": [layer.bias], "weight_decay": 0.0}]
    optimizer = own_optimizer(reference, arguments, groups)
    before = [param.detach().clone() for param in layer.parameters()]
    for param in layer.parameters():
        param.grad = torch.ones_like(param)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    try:
        optimizer.step()
    except ANYTHING as error:
        hint = "step() is called without a closure, after ordinary (dense) gradients, and never with train() or eval() around it."
        raise SpecError(FIELD, f"the optimizer of {reference} cannot take a step: {described(error)}.", hint) from error
    if any(not torch.equal(param, value) for param, value in zip(layer.parameters(), before, strict=True)):
        hint = "Let step() read group['lr'] of each of its param_groups, which is set before every step."
        raise SpecError(FIELD, f"the optimizer of {reference} moves weights at a learning rate of 0.", hint)
    file = io.BytesIO()
    try:
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        optimizer.load_state_dict(torch.load(file, weights_only=True))
    except ANYTHING as error:
        problem = f"the state of the optimizer of {reference} does not come back from a checkpoint: {described(error)}."
        raise SpecError(FIELD, problem, "Keep tensors, numbers and texts in state and param_groups, nothing else.") from error
