"""Refuses parameters that cannot be trained exactly: all must be real numbers, each in memory of its own.

Slices, transposed tensors and views of one storage are fine as long as no two parameters hold the same number.
"""

from itertools import zip_longest

import torch
from torch import Tensor, nn

from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.shared_memory import overlaps_itself, two_that_overlap

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
        if overlaps_itself(param):
            raise PlanError(
                "model",
                f"{name}, of shape {tuple(param.shape)}, is expanded: several of its numbers lie in the same place in memory.",
                "Give it memory of its own with .clone(), or make what is expanded the parameter and expand it in forward.",
            )
    sharing = two_that_overlap(trained)
    if sharing is not None:
        raise PlanError(
            "model",
            f"{sharing[0]} and {sharing[1]} are two parameters that share memory: each would be updated on top of the other.",
            "Tie weights by assigning the same parameter (b.weight = a.weight), or give each memory of its own with .clone().",
        )


def refuse_sparse_gradients(model: nn.Module) -> None:
    """Raise PlanError, with the parameter's name, if a backward pass left a sparse gradient: norms and several optimizers know none."""
    for name, param in model.named_parameters():
        if param.grad is not None and param.grad.layout != torch.strided:
            raise _sparse_gradient(name)


Description = list[tuple[str, str, tuple[int, ...], tuple[int, ...]]]


def description(model: nn.Module) -> Description:
    """(name, dtype, shape, strides) of every parameter: ranks that add numbers up in one flat tensor must have these alike."""
    return [(name, str(param.dtype), tuple(param.shape), param.stride()) for name, param in model.named_parameters()]


def refuse_unlike_first(own: Description, first: Description, rank: int) -> None:
    """Raise PlanError if this rank's model has other parameters than rank 0's."""
    for param, first_param in zip_longest(own, first):
        if param != first_param:
            raise PlanError(
                "model",
                f"workers build different models: {_in_words(param)} in worker {rank}, {_in_words(first_param)} in worker 0.",
                "Build it from its arguments alone, not from what one process or machine happens to have.",
            )


def _in_words(param: tuple[str, str, tuple[int, ...], tuple[int, ...]] | None) -> str:
    if param is None:
        return "no such parameter"
    name, dtype, shape, strides = param
    return f"{name} ({dtype.removeprefix('torch.')}, shape {shape}, strides {strides})"


def _refuse_kind(name: str, param: Tensor) -> None:
    dtype = str(param.dtype).removeprefix("torch.")
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
