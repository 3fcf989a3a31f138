"""Small helpers over lists of tensors, for optimizers that update many parameters at once."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

SQUARES_AT_ONCE = 2**20
"""So many are added up in float32, their sums in float64."""
SMALLEST_SQUARE = 1e-20
"""A sum of squares above it has lost nothing of note to those that float32 holds as 0: 10^10 of them come to less than 1e-28."""

_WIDE = (torch.float32, torch.float64)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.promote_types(dtype, torch.float32)


def in_at_least_float32(tensors: list[Any]) -> list[Tensor]:
    """The same tensors, or float32 copies of narrower ones."""
    return [tensor if tensor.dtype in _WIDE else tensor.to(torch.float32) for tensor in tensors]


def norms(tensors: list[Tensor]) -> Tensor:
    """The L2 norms of tensors on one device, 1-D and on it; right also where the squares lie beyond float32, on CPUs and CUDA's devices."""
    if tensors[0].is_cpu:
        return torch.tensor([_norm_on_cpu(tensor) for tensor in in_at_least_float32(tensors)], dtype=torch.float64)
    dtype = torch.float64 if tensors[0].is_cuda else at_least_float32(tensors[0].dtype)
    return torch.stack(list(torch._foreach_norm(tensors, 2, dtype=dtype)))


def _norm_on_cpu(tensor: Tensor) -> float:
    """By the dot product, which uses all threads, as torch's norm does not."""
    flat = _in_memory_order(tensor)
    parts = (flat,) if flat.numel() <= SQUARES_AT_ONCE else torch.split(flat, SQUARES_AT_ONCE)
    square = math.fsum([torch.dot(part, part).item() for part in parts])
    if SMALLEST_SQUARE < square < math.inf:
        return math.sqrt(square)
    largest = torch.linalg.vector_norm(flat, math.inf).item() if flat.numel() else 0.0
    return largest * torch.linalg.vector_norm(flat / largest).item() if 0 < largest < math.inf else largest


def _in_memory_order(tensor: Tensor) -> Tensor:
    """All numbers of a tensor, 1-D: a view, or a copy if it has gaps."""
    if tensor.is_contiguous() or tensor.stride() != dense_like(tensor).stride():
        return tensor.flatten()
    return tensor.as_strided((tensor.numel(),), (1,))


def add_scaled(targets: list[Tensor], sources: list[Tensor], factors: list[Any]) -> None:
    """Add to each tensor another times a number, or times a 0-d tensor on its device, without a copy of either."""
    if isinstance(factors[0], float) and factors.count(factors[0]) == len(factors):
        torch._foreach_add_(targets, sources, alpha=factors[0])
        return
    for target, source, factor in zip(targets, sources, factors, strict=True):
        if isinstance(factor, Tensor):
            target.addcmul_(source, factor)
        else:
            target.add_(source, alpha=factor)


def numbers_for(values: Tensor, dtype: torch.dtype) -> list[Any]:
    """What `add_scaled` takes of a 1-D tensor: numbers if it lies on the host, else 0-d tensors, which need not be copied there."""
    return values.tolist() if values.is_cpu else list(values.to(dtype).unbind())


def state_like(state: dict[str, Any], key: str, param: Tensor, dtype: torch.dtype, layout: torch.memory_format = torch.preserve_format) -> Tensor:
    """The state tensor `key` of a parameter, zeros at first, of this dtype; it lies in memory like `dense_like(param, layout)`.

    What was loaded may be otherwise: of another precision, or laid as the parameter was when it was saved. It is made so, once.

    Raises: ValueError if it is of another shape, which torch's fused passes would not notice.
    """
    if key not in state:
        state[key] = torch.zeros_like(param, dtype=dtype, memory_format=layout)
    tensor: Tensor = state[key]
    if tensor.shape != param.shape:
        raise ValueError(f"the optimizer's state {key} has the shape {tuple(tensor.shape)}, the parameter {tuple(param.shape)}.")
    if tensor.dtype != dtype or tensor.stride() != param.stride():
        tensor = state[key] = laid_like(tensor.to(dtype), dense_like(param, layout))
    return tensor


def adam_state(
    state: Mapping[Tensor, dict[str, Any]], params: list[Tensor], moments: tuple[str, str], dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """(steps, first moments, second moments) of parameters on one device, zeros at first; steps are 0-d float32.

    Args: state: an optimizer's; moments: their keys in it; dtype: theirs.
    """
    states, device = [state[param] for param in params], params[0].device
    for own in states:
        step = own.get("step", 0.0)
        # What was loaded may be a number, or lie on the host.
        if not isinstance(step, Tensor) or step.device != device or step.dtype != torch.float32:
            own["step"] = torch.as_tensor(step, dtype=torch.float32, device=device)
    first, second = ([state_like(own, key, param, dtype) for param, own in zip(params, states, strict=True)] for key in moments)
    return [own["step"] for own in states], first, second


def count_one(steps: list[Tensor]) -> None:
    """Add 1 to each count. On a CPU torch would otherwise make a tensor of the number for each of them."""
    torch._foreach_add_(steps, torch.ones(()) if steps[0].is_cpu else 1.0)


def dense_like(tensor: Tensor, layout: torch.memory_format = torch.preserve_format) -> Tensor:
    """A tensor without numbers (on "meta") of the same shape and order in memory, and without the gaps that a slice has."""
    return torch.empty_like(tensor, device="meta", memory_format=layout)


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
