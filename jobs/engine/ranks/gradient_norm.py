"""Squared L2 norms of gradients, taken in at least float32."""

import torch
from torch import Tensor, nn

SMALL = 4096
"""Numbers in a gradient that is copied together with others before its norm is taken."""


class SquaredNorm:
    """Squared norm of all parameters' gradients together; 0 without any."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        self._params = params
        self._by_blas = all(param.is_cpu and param.dtype == torch.float32 for param in params)
        self._large = [param for param in params if param.numel() > SMALL]
        self._small = [param for param in params if param.numel() <= SMALL]

    def __call__(self) -> Tensor:
        """As the gradients are now; 0-d, float64, on their device."""
        if self._by_blas:
            # Reading the gradients once more costs 3 % of a small step; BLAS reads them at half the cost of a norm.
            vectors, small = _flat_gradients(self._large), _flat_gradients(self._small)
            if small:
                vectors.append(torch.cat(small))  # a call costs more than reading a bias
            total = 0.0
            for vector in vectors:  # Python's sum adds otherwise from 3.12 on
                total += torch.dot(vector, vector).item()
            return torch.tensor(total, dtype=torch.float64)
        gradients = [gradient for param in self._params if (gradient := param.grad) is not None]
        if not gradients:  # a rank without samples that steps alone
            return torch.zeros((), dtype=torch.float64, device=self._params[0].device)
        dtype = torch.float64 if any(gradient.dtype == torch.float64 for gradient in gradients) else torch.float32
        return torch.stack(torch._foreach_norm(gradients, 2, dtype=dtype)).square().sum().double()


def _flat_gradients(params: list[nn.Parameter]) -> list[Tensor]:
    gradients = [gradient for param in params if (gradient := param.grad) is not None]
    return [gradient if gradient.ndim == 1 else gradient.reshape(-1) for gradient in gradients]


def flat_squared_norm(flat: Tensor) -> Tensor:
    """Squared norm of one flat gradient, 0-d."""
    wide = flat if flat.dtype == torch.float64 else flat.float()
    return torch.dot(wide, wide)
