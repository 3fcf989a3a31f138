"""Copies of a model's buffers, extra state and weights, which are put back after passes that must leave no trace."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from largebatch.jobs.entry_points import ANYTHING


class Snapshot:
    """Copies of what passes may change, with what modules save besides tensors (`get_extra_state`). What comes into being later stays.

    Args: weights: copy the parameters too, into host memory: few models change theirs, and a device may have no room for them twice.
    """

    def __init__(self, model: nn.Module, weights: bool = True) -> None:
        self._buffers = [
            (module, name, f"{prefix}.{name}" if prefix else name, buffer.detach().clone())
            for prefix, module in model.named_modules()
            for name, buffer in module.named_buffers(recurse=False)
            if not is_lazy(buffer)
        ]
        params = model.named_parameters() if weights else ()
        self._weights = [(name, param, param.detach().to("cpu", copy=True)) for name, param in params if not is_lazy(param)]
        self._extras: list[tuple[Any, bytes]] = []
        for module in model.modules():
            if type(module).get_extra_state is not nn.Module.get_extra_state:
                with suppress(*ANYTHING):  # a model whose extra state cannot be saved is refused for that: `refuse_unsaveable`
                    self._extras.append((module, as_bytes(module.get_extra_state())))

    def changed_weights(self) -> dict[str, tuple[Tensor, Tensor]]:
        """(Value then, value now), in host memory, of the parameters that have other values now, by name."""
        weights = ((name, value, param.detach().to("cpu", copy=True)) for name, param, value in self._weights)
        return {name: (value, now) for name, value, now in weights if differ(value, now)}

    def changed_buffers(self) -> list[str]:
        """Names of the buffers that have other values, or another type, now."""
        buffers = ((full_name, getattr(module, name, None), value) for module, name, full_name, value in self._buffers)
        return [name for name, buffer, value in buffers if not isinstance(buffer, Tensor) or buffer.dtype != value.dtype or differ(value, buffer)]

    @torch.no_grad()
    def restore(self) -> None:
        """Give everything its value and shape of then."""
        for module, name, _, value in self._buffers:
            buffer = getattr(module, name, None)
            if isinstance(buffer, Tensor) and (buffer.shape, buffer.dtype) == (value.shape, value.dtype):
                buffer.copy_(value)
            else:
                setattr(module, name, value.clone())
        for _, param, value in self._weights:
            if differ(value, param.detach().cpu()):
                param.copy_(value)
        for module, content in self._extras:
            with suppress(*ANYTHING):  # refused before training, too
                module.set_extra_state(torch.load(io.BytesIO(content), weights_only=True))


@contextmanager
def restored(model: nn.Module, weights: bool = True) -> Iterator[Snapshot]:
    """Context after which a model's buffers, extra state and, unless they are left out, weights are what they were before."""
    snapshot = Snapshot(model, weights)
    try:
        yield snapshot
    finally:
        snapshot.restore()


def as_bytes(value: Any) -> bytes:
    """Tensors and plain data as a checkpoint holds them."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def differ(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors differ in shape or in any number; not-a-number equals itself."""
    return tensor.shape != other.shape or (not torch.equal(tensor, other) and not torch.equal(tensor.nan_to_num(), other.nan_to_num()))
