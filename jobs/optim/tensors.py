"""Small helpers over lists of tensors, for optimizers that update many parameters at once."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def buckets(params: list[Tensor]) -> Iterator[list[Tensor]]:
    """The parameters that have a gradient, in lists to be updated together.

    On an accelerator few large launches win: one list per dtype and device. On a CPU the caches win: one
    parameter at a time, so that the passes over it after the first find it in cache.
    """
    grouped: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for param in params:
        if param.grad is None:
            continue
        if param.grad.is_sparse:
            raise ValueError("sparse gradients have no layer-wise norm here; use a dense embedding.")
        if param.device.type == "cpu":
            yield [param]
        else:
            grouped.setdefault((param.device, param.dtype), []).append(param)
    yield from grouped.values()


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
