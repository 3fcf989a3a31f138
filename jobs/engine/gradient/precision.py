"""The precision that a model computes in: its own passes in bfloat16 where the spec says so, loss and metrics in float32."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def in_precision(forward: Callable[..., Any], precision: str, device: torch.device) -> Callable[..., Any]:
    """What calls a model in a precision. Args: precision: "float32", or "bfloat16" for torch's autocast."""
    if precision == "float32":
        return forward

    def call(*inputs: Any, **named: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            output = forward(*inputs, **named)
        return output.float() if isinstance(output, Tensor) and output.is_floating_point() else output

    return call
