"""Numbers of a step on their way from the device to the host.

On an accelerator they stay on it until all are wanted, so that it is waited for once a step. On a CPU nothing is waited
for, and a plain number costs less than an operation on a tensor of one.
"""

import torch
from torch import Tensor

Scalar = Tensor | float
"""0-d float64 on an accelerator, or a plain number."""


def scalar(value: Tensor) -> Scalar:
    """A 0-d tensor in the form that its device wants."""
    return value.item() if value.is_cpu else value.detach().to(torch.float64)


def on_device(scalars: list[Scalar], device: torch.device) -> Tensor:
    """All as one tensor (n,), float64, without waiting for the device."""
    return torch.stack([value if isinstance(value, Tensor) else torch.full((), value, dtype=torch.float64, device=device) for value in scalars])


def on_host(scalars: list[Scalar]) -> list[float]:
    """All as plain numbers; the device is waited for once."""
    device = next((value.device for value in scalars if isinstance(value, Tensor)), None)
    return [float(value) for value in scalars] if device is None else on_device(scalars, device).tolist()
