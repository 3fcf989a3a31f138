"""Small helpers over lists of tensors, for optimizers that update many parameters at once."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.promote_types(dtype, torch.float32)


def in_at_least_float32(tensors: list[Any]) -> list[Tensor]:
    """The same tensors, or float32 copies of narrower ones."""
    return [tensor.to(at_least_float32(tensor.dtype)) for tensor in tensors]


def norms(tensors: list[Tensor]) -> list[Tensor]:
    """The L2 norm of each tensor, 0-d, in at least float32."""
    return list(torch._foreach_norm(tensors, 2, dtype=at_least_float32(tensors[0].dtype)))


def state_like(state: dict[str, Any], key: str, param: Tensor, dtype: torch.dtype) -> Tensor:
    """The state tensor `key` of a parameter, zeros at first; it lies in memory like `dense_like(param)`.

    What was loaded may lie otherwise, where the parameter did when it was saved: it is laid anew, once.
    """
    if key not in state:
        state[key] = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
    elif state[key].stride() != param.stride():
        state[key] = laid_like(state[key], dense_like(param))
    tensor: Tensor = state[key]
    return tensor


def adam_state(
    state: Mapping[Tensor, dict[str, Any]], params: list[Tensor], moments: tuple[str, str], dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """(steps, first moments, second moments) of parameters on one device, zeros at first; steps are 0-d float32.

    Args: state: an optimizer's; moments: their keys in it; dtype: theirs.
    """
    for param in params:
        if "step" not in state[param]:
            state[param]["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
    first, second = ([state_like(state[param], key, param, dtype) for param in params] for key in moments)
    return [state[param]["step"] for param in params], first, second


def dense_like(tensor: Tensor) -> Tensor:
    """A tensor without numbers (on "meta") of the same shape and order in memory, and without the gaps that a slice has."""
    return torch.empty_like(tensor, device="meta", memory_format=torch.preserve_format)


def laid_like(tensor: Tensor, example: Tensor) -> Tensor:
    """The same numbers with the strides of `example`, which must be without gaps: the tensor or a view of it where it lies so, else a copy.

    torch's fused passes walk through memory from a tensor's first number on and look at no strides. Only tensors that lie
    alike, without gaps, may go through one together: a CPU trains on the wrong numbers otherwise, and an accelerator raises.
    """
    strides = example.stride()
    if tensor.stride() == strides:
        return tensor
    # The stride of a dimension of size 1 moves nothing, and is often another one: a 1x1 convolution's gradient has it.
    if all(size == 1 or own == other for size, own, other in zip(tensor.shape, tensor.stride(), strides, strict=True)):
        return tensor.as_strided(tensor.shape, strides)
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
