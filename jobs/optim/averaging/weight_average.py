"""A moving average of a model's weights, evaluated in place of the weights."""

from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of weights and running statistics, evaluated in place of the weights.

        average <- decay^power * average + (1 - decay^power) * weights,  once per optimizer step

    Args: decay: in (0, 1), of a step of power 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._params = {name: param.detach() for name, param in model.named_parameters() if param.is_floating_point()}
        self._buffers = {name: _home(model, name) for name, buffer in model.named_buffers() if buffer.is_floating_point()}
        self._names = [*self._params, *self._buffers]
        self.averages = [source.clone() for source in self._sources()]
        """In the model's order; always the same tensors."""

    @torch.no_grad()
    def update(self, power: float = 1.0) -> None:
        """Count the weights as they are now. Args: power: how many steps of the decay's own batch this one was."""
        torch._foreach_lerp_(self.averages, self._sources(), 1.0 - self.decay**power)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and averages; a second call undoes the first."""
        # All are held before any is overwritten: a buffer may be a view of a weight.
        sources = self._sources()
        held = [source.clone() for source in sources]
        torch._foreach_copy_(sources, self.averages)
        torch._foreach_copy_(self.averages, held)

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
