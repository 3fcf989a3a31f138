"""A model's buffers, and its weights if asked, as they were at one moment, to be put back after passes that must leave no trace."""

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter


def is_uninitialised(tensor: Tensor) -> bool:
    """Whether a lazy layer has yet to give it a shape."""
    return isinstance(tensor, (UninitializedParameter, UninitializedBuffer))


class Held:
    """Copies of what passes may change. What comes into being later stays.

    Args: weights: hold the parameters too, in host memory: few models change theirs, and a device may have no room for them twice.
    """

    def __init__(self, model: nn.Module, weights: bool = False) -> None:
        self._buffers = [
            (module, name, buffer.detach().clone())
            for module in model.modules()
            for name, buffer in module.named_buffers(recurse=False)
            if not is_uninitialised(buffer)
        ]
        params = model.named_parameters() if weights else ()
        self._weights = [(name, param, param.detach().to("cpu", copy=True)) for name, param in params if not is_uninitialised(param)]

    def changed_weights(self) -> list[str]:
        """Names of the parameters that have other values now."""
        return [name for name, param, value in self._weights if _differ(value, param.detach().cpu())]

    @torch.no_grad()
    def put_back(self) -> None:
        """Give everything its value and shape of then."""
        for module, name, value in self._buffers:
            now = getattr(module, name, None)
            if isinstance(now, Tensor) and (now.shape, now.dtype) == (value.shape, value.dtype):
                now.copy_(value)
            else:
                setattr(module, name, value.clone())
        for _, param, value in self._weights:
            if _differ(value, param.detach().cpu()):
                param.copy_(value)


def _differ(tensor: Tensor, other: Tensor) -> bool:
    """Whether they differ in shape or in any bit; not-a-number equals itself."""
    return tensor.shape != other.shape or (not torch.equal(tensor, other) and not torch.equal(tensor.nan_to_num(), other.nan_to_num()))
