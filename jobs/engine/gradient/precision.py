"""The precision that a model computes in: its own passes in bfloat16 where the spec says so, loss and metrics in float32."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from largebatch.jobs.tasks.outputs import map_tensors, wide


def in_precision(forward: Callable[..., Any], precision: str, device: torch.device) -> Callable[..., Any]:
    """What calls a model in a precision, and gives its outputs in float32 at the least, wherever they stand in a tuple, list, dict or object.

    Args: precision: "float32", or "bfloat16" for torch's autocast.
    """
    if precision == "float32":
        return forward

    def call(*inputs: Any, **named: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            output = forward(*inputs, **named)
        if isinstance(output, Tensor):
            return output.float() if output.is_floating_point() else output
        return map_tensors(lambda tensor: wide(tensor) if tensor.is_floating_point() else tensor, output)

    return call
