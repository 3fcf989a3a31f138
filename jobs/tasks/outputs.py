"""Reads what a model gives for a batch: logits alone, or in an object or dict beside other things."""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from largebatch.jobs.errors import PlanError
from largebatch.jobs.samples.trees import dtype_name


def logits_of(output: Any) -> Tensor:
    """The logits, or predictions: the output itself, or its `logits`, as the models of transformers give them. Raises: PlanError for others."""
    value = output
    if isinstance(output, dict) and "logits" in output:
        value = output["logits"]
    elif not isinstance(output, Tensor):
        value = getattr(output, "logits", output)
    if isinstance(value, Tensor):
        return value
    given = f"a {type(value).__name__} of {len(value)}" if isinstance(value, (tuple, list)) else f"a {type(value).__name__}"
    raise PlanError("model", f"gives {given}, not one tensor.", 'Give the logits, or predictions, alone, or as "logits" of a dict beside others.')


def tensors_of(output: Any) -> list[Tensor]:
    """The floating-point tensors in what a model gives: itself, in a tuple, list or dict, or in the attributes of an object such as transformers'."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict):
        inner = list(output.values())
    elif isinstance(output, (tuple, list)):
        inner = list(output)
    else:
        inner = list(getattr(output, "__dict__", {}).values())
    return [tensor for value in inner for tensor in tensors_of(value)]


def map_tensors(change: Callable[[Tensor], Tensor], output: Any) -> Any:
    """What a model gives with each tensor in it changed, in the same tuples, lists, dicts and objects; the object itself where nothing is."""
    return _mapped(change, output, {})


def _mapped(change: Callable[[Tensor], Tensor], value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    """Args: done: what was changed already, by its identity, with what keeps that from being given to another: one tensor in two places stays one."""
    if id(value) in done:
        return done[id(value)][1]
    done[id(value)] = (value, value)  # an object that holds itself
    mapped = value
    if isinstance(value, Tensor):
        mapped = change(value)
    elif isinstance(value, (tuple, list)):
        pieces = [_mapped(change, inner, done) for inner in value]
        if any(piece is not inner for piece, inner in zip(pieces, value, strict=True)):
            mapped = type(value)(*pieces) if hasattr(value, "_fields") else type(value)(pieces)
    elif isinstance(value, dict):
        mapped = _with(value, {key: _mapped(change, inner, done) for key, inner in value.items()}, dict(value), type(value).__setitem__)
    elif not isinstance(value, (nn.Module, type)):
        fields = {name: getattr(value, name) for name in (*getattr(value, "__dict__", ()), *getattr(value, "__dataclass_fields__", ()))}
        mapped = _with(value, {name: _mapped(change, inner, done) for name, inner in fields.items()}, fields, object.__setattr__)
    done[id(value)] = (value, mapped)
    return mapped


def _with(value: Any, pieces: dict[Any, Any], inner: dict[Any, Any], put: Callable[[Any, Any, Any], None]) -> Any:
    """A copy of a dict or an object with some of its values replaced; itself where none is."""
    replaced = {key: piece for key, piece in pieces.items() if piece is not inner[key]}
    copied = copy.copy(value) if replaced else value
    for key, piece in replaced.items():
        put(copied, key, piece)
    return copied


def wide(tensor: Tensor) -> Tensor:
    """A tensor in float32 at the least."""
    return tensor if tensor.dtype.itemsize >= 4 else tensor.float()


def in_words(inputs: Tensor) -> str:
    """The number, shape and type of samples, in words."""
    return f"{len(inputs)} sample{'s' if len(inputs) > 1 else ''} of shape {tuple(inputs.shape[1:])}, {dtype_name(inputs)},"


def about_one(inputs: Tensor) -> str:
    """What often loses the dimension of the samples where there is one sample alone."""
    return " A squeeze() without a dimension drops that of the samples." if len(inputs) == 1 else ""
