"""Refuses parameters that cannot be trained exactly: all must be real numbers, each in memory of its own.

Slices, transposed tensors and views of one storage are fine as long as no two parameters hold the same number.
"""

from collections.abc import Mapping
from itertools import islice, zip_longest

import torch
from torch import Tensor, nn

from largebatch.jobs.errors import PlanError
from largebatch.jobs.samples.trees import dtype_name

TRAINABLE = (torch.float32, torch.float64, torch.bfloat16)


def refuse_parameters(model: nn.Module) -> None:
    """Raise PlanError, with the parameter's name, for what cannot be trained exactly. Args: model: whole, on the CPU, as it was built."""
    trained = {name: param for name, param in model.named_parameters() if param.requires_grad}
    for name, param in trained.items():
        _refuse_kind(name, param)
    for name, module in model.named_modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse and module.weight.requires_grad:
            raise _sparse_gradient(f"{name}.weight" if name else "weight")
    for name, param in model.named_parameters():
        if _overlaps_itself(param):
            raise PlanError(
                "model",
                f"{name}, of shape {tuple(param.shape)}, is expanded: several of its numbers lie in the same place in memory.",
                "Give it memory of its own with .clone(), or make what is expanded the parameter and expand it in forward.",
            )
    sharing = _two_that_overlap(trained)
    if sharing is not None:
        raise PlanError(
            "model",
            f"{sharing[0]} and {sharing[1]} are two parameters that share memory: each would be updated on top of the other.",
            "Tie weights by assigning the same parameter (b.weight = a.weight), or give each memory of its own with .clone().",
        )


def unfold_buffers(model: nn.Module) -> None:
    """Give every buffer that overlaps itself (`mask.expand(8, 8)`, say) memory of its own: nothing can be loaded into it otherwise."""
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if _overlaps_itself(buffer):
                setattr(module, name, buffer.contiguous())


def refuse_sparse_gradients(model: nn.Module) -> None:
    """Raise PlanError, with the parameter's name, if a backward pass left a sparse gradient: norms and several optimizers know none."""
    for name, param in model.named_parameters():
        if param.grad is not None and param.grad.layout != torch.strided:
            raise _sparse_gradient(name)


def description(model: nn.Module) -> list[str]:
    """Every parameter and buffer in words. Ranks that add numbers up in one flat tensor must have all of this alike."""
    params = [f"{name} ({dtype_name(param)}, shape {tuple(param.shape)}, strides {param.stride()})" for name, param in model.named_parameters()]
    return params + [f"the buffer {name} ({dtype_name(buffer)}, shape {tuple(buffer.shape)})" for name, buffer in model.named_buffers()]


def refuse_unlike_first(own: list[str], first: list[str], rank: int) -> None:
    """Raise PlanError if this rank's model has other parameters or buffers than rank 0's. Args: own, first: their descriptions."""
    for tensor, first_tensor in zip_longest(own, first, fillvalue="no such parameter"):
        if tensor != first_tensor:
            raise PlanError(
                "model",
                f"workers build different models: {tensor} in worker {rank}, {first_tensor} in worker 0.",
                "Build it from its arguments alone, not from what one process or machine happens to have.",
            )


def _refuse_kind(name: str, param: Tensor) -> None:
    dtype = dtype_name(param)
    if param.layout != torch.strided:
        raise PlanError("model", f"{name} is stored as {str(param.layout).removeprefix('torch.')}.", "Make it an ordinary (dense) tensor.")
    if param.is_complex():
        raise PlanError(
            "model",
            f"{name} is complex ({dtype}), and norms, trust ratios and moments here are those of real numbers.",
            "Make torch.view_as_real of it the parameter, and call torch.view_as_complex in forward.",
        )
    if param.dtype == torch.float16:
        raise PlanError(
            "model",
            f"{name} is float16, in which gradients and moments below 6e-8 become 0; there is no loss scaling.",
            "Keep the parameters in float32 and set precision: bfloat16.",
        )
    if param.dtype not in TRAINABLE:
        raise PlanError(
            "model", f"{name} is {dtype}; parameters are trained in float32, float64 or bfloat16.", "Convert the model, with .float() say."
        )


def _sparse_gradient(name: str) -> PlanError:
    return PlanError(
        "model",
        f"{name} would have a sparse gradient, which has no norm and no sum over workers here.",
        "Build the embedding with sparse=False; its gradient has the same numbers.",
    )


def _overlaps_itself(tensor: Tensor) -> bool:
    """Whether two elements of one dense tensor lie in the same place, as an expanded tensor's do."""
    reach = 0
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1):
        if stride <= reach:  # certain for a stride of 0; an odd use of as_strided is counted out
            return stride == 0 or _num_offsets(tensor) < tensor.numel()
        reach += stride * (size - 1)
    return False


def _num_offsets(tensor: Tensor) -> int:
    offsets = torch.zeros((), dtype=torch.int64)
    for stride, size in zip(tensor.stride(), tensor.shape, strict=True):
        offsets = offsets.unsqueeze(-1) + torch.arange(size) * stride
    return len(set(offsets.flatten().tolist()))


def _two_that_overlap(tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """The names of two tensors that hold the same place, on the CPU; none may overlap itself."""
    spans = sorted((*_span(tensor), name) for name, tensor in tensors.items() if tensor.numel())
    for number, (start, end, name) in enumerate(spans):
        for later_start, later_end, later in islice(spans, number + 1, None):
            if later_start >= end:
                break
            # Slices of one tensor may lie one within the other's span and have no place in common.
            taken = torch.zeros(max(end, later_end) - start, dtype=torch.bool)
            _bytes_of(tensors[name], taken, 0).fill_(True)
            if _bytes_of(tensors[later], taken, later_start - start).any():
                return name, later
    return None


def _span(tensor: Tensor) -> tuple[int, int]:
    """The addresses of a tensor's first byte and of the one after its last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _bytes_of(tensor: Tensor, memory: Tensor, offset: int) -> Tensor:
    """A tensor's bytes in `memory`, one element a byte, where its first lies at `offset`."""
    width = tensor.element_size()
    return memory.as_strided((*tensor.shape, width), (*(stride * width for stride in tensor.stride()), 1), offset)
