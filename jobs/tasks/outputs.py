"""Reads what a model gives for a batch: logits alone, or in an object or dict beside other things."""

from typing import Any

from torch import Tensor


def logits_of(output: Any) -> Tensor:
    """The logits: the output itself, its `logits` (as the models of transformers give them), or the first of a tuple."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict) and "logits" in output:
        return _tensor(output["logits"])
    if hasattr(output, "logits"):
        return _tensor(output.logits)
    return _tensor(output)


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    raise TypeError(f"the model gives a {type(value).__name__}, not a tensor of logits")


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


def wide(tensor: Tensor) -> Tensor:
    """A tensor in float32 at the least."""
    return tensor if tensor.dtype.itemsize >= 4 else tensor.float()


def in_words(inputs: Tensor) -> str:
    """The number, shape and type of samples, in words."""
    return f"{len(inputs)} sample{'s' if len(inputs) > 1 else ''} of shape {tuple(inputs.shape[1:])}, {dtype_name(inputs)},"


def about_one(inputs: Tensor) -> str:
    """What often loses the dimension of the samples where there is one sample alone."""
    return " A squeeze() without a dimension drops that of the samples." if len(inputs) == 1 else ""


def dtype_name(tensor: Tensor) -> str:
    """A tensor's type without torch's name."""
    return str(tensor.dtype).removeprefix("torch.")
