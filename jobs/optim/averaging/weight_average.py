"""A moving average of a model's weights, evaluated in place of the weights."""

from typing import Any

import torch
from torch import Tensor, nn

from largebatch.jobs.optim.tensors import at_least_float32, in_at_least_float32


class WeightAverage:
    """Exponential moving average of weights and running statistics, evaluated in place of the weights.

        average <- decay^power * average + (1 - decay^power) * weights,  once per optimizer step

    It is float32 at the least: in bfloat16 a decay of 0.999 moves nothing that is not twice as far away as it is large.

    Args: decay: in (0, 1), of a step of power 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._params = {name: param.detach() for name, param in model.named_parameters() if param.is_floating_point()}
        self._buffers = {name: _home(model, name) for name, buffer in model.named_buffers() if buffer.is_floating_point()}
        self._names = [*self._params, *self._buffers]
        self.averages = [source.to(at_least_float32(source.dtype), copy=True) for source in self._sources()]
        """In the model's order; always the same tensors."""
        self._held: list[Tensor] | None = None
        """The weights, while the averages are in their place."""

    @torch.no_grad()
    def update(self, power: float = 1.0) -> None:
        """Count the weights as they are now. Args: power: how many steps of the decay's own batch this one was."""
        torch._foreach_lerp_(self.averages, in_at_least_float32(self._sources()), 1.0 - self.decay**power)

    @torch.no_grad()
    def swap(self) -> None:
        """Put the averages in the weights' place; a second call undoes the first, bit for bit."""
        sources = self._sources()
        # All are held before any is overwritten: a buffer may be a view of a weight.
        values, self._held = (self.averages, [source.clone() for source in sources]) if self._held is None else (self._held, None)
        torch._foreach_copy_(sources, values)

    def _sources(self) -> list[Tensor]:
        """What is averaged, as it is now: some models put another tensor in a buffer's place."""
        return [*self._params.values(), *(getattr(module, name) for module, name in self._buffers.values())]

    def state_dict(self) -> dict[str, Any]:
        """The averages, in the model's order, and their names there."""
        return {"averages": self.averages, "names": self._names}

    @torch.no_grad()
    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take the averages over. Raises: ValueError if they are another model's."""
        names = saved.get("names", self._names)  # versions that did not save them relied on the order
        values = dict(zip(names, saved["averages"], strict=True))
        for name, average in zip(self._names, self.averages, strict=True):
            if name not in values or values[name].shape != average.shape:
                raise ValueError(f"it has no average of {name}, of shape {tuple(average.shape)}")
            average.copy_(values[name])


def _home(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a buffer, and the buffer's name there."""
    prefix, _, own_name = name.rpartition(".")
    return model.get_submodule(prefix), own_name
