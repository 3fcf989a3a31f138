"""A model by name whose weights take no memory: each of its tensors is a single number, seen in the tensor's shape.

Its shapes, its number of parameters, and what its passes keep for the backward pass are those of the real one, by the same kernels. Its numbers mean
nothing.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from largebatch.jobs.errors import LargebatchError


def without_weights(build: Callable[[], nn.Module]) -> nn.Module | None:
    """What `build` makes, on the CPU; None where it cannot be built without its numbers."""
    try:
        with torch.device("meta"):
            model = build()
    except (LargebatchError, RuntimeError):  # it asks for a number, say; the whole model says what is wrong with it
        return None
    shown: dict[int, Tensor] = {}

    def show(tensor: Tensor) -> Tensor:
        """The tensor's one number; tied tensors stay tied."""
        if id(tensor) not in shown:
            number = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
            shown[id(tensor)] = nn.Parameter(number, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else number.clone()
        return shown[id(tensor)]

    whole = list(model.parameters()), list(model.buffers())  # kept, so that no id is used twice
    for module in model.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            setattr(module, name, show(tensor))
    del whole
    return model


def weight_bytes(model: nn.Module) -> int:
    """The bytes that a model's parameters have, or would have."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
