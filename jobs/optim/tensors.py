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


def state_like(state: dict[str, Any], key: str, param: Tensor) -> Tensor:
    """The state tensor `key` of a parameter, zeros in at least float32 when first asked for."""
    if key not in state:
        state[key] = torch.zeros_like(param, dtype=at_least_float32(param.dtype), memory_format=torch.preserve_format)
    tensor: Tensor = state[key]
    return tensor
