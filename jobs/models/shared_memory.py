"""Finds tensors that share memory, and buffers that overlap themselves. Tensors are dense and lie on the CPU."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether two elements of one tensor lie in the same place, as an expanded tensor's do."""
    reach = 0
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1):
        if stride <= reach:  # certain for a stride of 0; an odd use of as_strided is counted out
            return stride == 0 or _num_offsets(tensor) < tensor.numel()
        reach += stride * (size - 1)
    return False


def unfold_buffers(model: nn.Module) -> None:
    """Give every buffer that overlaps itself (`mask.expand(8, 8)`, say) memory of its own: nothing can be loaded into it otherwise."""
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if overlaps_itself(buffer):
                setattr(module, name, buffer.contiguous())


def _num_offsets(tensor: Tensor) -> int:
    offsets = torch.zeros((), dtype=torch.int64)
    for stride, size in zip(tensor.stride(), tensor.shape, strict=True):
        offsets = offsets.unsqueeze(-1) + torch.arange(size) * stride
    return len(set(offsets.flatten().tolist()))


def two_that_overlap(tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """The names of two tensors that hold the same place; none may overlap itself."""
    heap: list[tuple[int, int, str]] = []
    for start, end, name in sorted((*_span(tensor), name) for name, tensor in tensors.items() if tensor.numel()):
        if heap and start >= max(stop for _, stop, _ in heap):
            heap = []
        heap.append((start, end, name))
        # Slices of one tensor may lie one within the other's span and have no place in common.
        for other_start, other_end, other in heap[:-1]:
            if start < other_end and _meet(tensors[name], start, tensors[other], other_start, max(end, other_end)):
                return other, name
    return None


def _span(tensor: Tensor) -> tuple[int, int]:
    """The addresses of a tensor's first byte and of the one after its last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _meet(later: Tensor, start: int, earlier: Tensor, first: int, end: int) -> bool:
    """Whether two tensors have a byte in common, between the addresses `first` and `end`."""
    marks = torch.zeros(end - first, dtype=torch.bool)
    _bytes_of(earlier, marks, 0).fill_(True)
    return bool(_bytes_of(later, marks, start - first).any())


def _bytes_of(tensor: Tensor, marks: Tensor, offset: int) -> Tensor:
    width = tensor.element_size()
    return marks.as_strided((*tensor.shape, width), (*(stride * width for stride in tensor.stride()), 1), offset)
