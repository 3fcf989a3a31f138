"""The norm of a gradient that is dual to the one in which an optimizer bounds its steps.

A step of lion or muon is as long as the rate says, in a norm of its own, whatever the gradient's size:

    |step|_opt = max over parameters p of |step_p|_p / r_p,    |G|_* = max <G, step> over |step|_opt <= 1 = sum over p of r_p |G_p|_{p,*}

    lion    |.|_p the largest number, |.|_{p,*} the sum of the numbers' absolute values (l1)
    muon    |.|_p the largest singular value, |.|_{p,*} the sum of the singular values (nuclear)

r_p is how far a rate of 1 moves the parameter: its group's factor on the rate, under muon times what `adjust_lr_fn` says of its shape.
What muon's `other` rule updates is not in it: adamw's and lamb's steps have no such norm, and sgd's have no bound.
Newton-Schulz' iteration puts the singular values near 1, not at 1; that is left aside.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from largebatch.jobs.optim.config_base import LEARNING_RATE_FACTOR, TRANSPOSED


class DualNorm:
    """|.|_* of the gradients of an optimizer's parameters.

    Args:
        optimizer: lion's, or muon's with its other rule's.
        name: of the dual norm, "l1" or "nuclear".
    """

    def __init__(self, optimizer: Optimizer, name: str) -> None:
        self._norm_of = {"l1": l1_norm, "nuclear": nuclear_norm}[name]
        groups = [group for group in optimizer.param_groups if group.get("is_main", True)]
        self._radii = {
            param: group.get(LEARNING_RATE_FACTOR, 1.0) * (_of_shape(group, param) if name == "nuclear" else 1.0)
            for group in groups
            for param in group["params"]
        }

    @property
    def params(self) -> list[Tensor]:
        """What it is of."""
        return list(self._radii)

    def of(self, gradients: Mapping[Tensor, Tensor | None]) -> Tensor:
        """The part of these parameters; parts add up. 0-d, float64. Args: gradients: a finite one, or None, by parameter."""
        parts = [self._radii[param] * self._norm_of(gradient) for param, gradient in gradients.items() if gradient is not None]
        return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64, device=self.params[0].device)


def _of_shape(param_group: dict[str, Any], param: Tensor) -> float:
    """What muon multiplies the rate by for a matrix: see `MuonConfig`. Args: param_group: the matrix'."""
    rows, columns = param.shape[0], param[0].numel()
    if param_group["adjust_lr_fn"] == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    ratio = math.sqrt(columns / rows if param_group.get(TRANSPOSED) else rows / columns)
    return ratio if param_group["adjust_lr_fn"] == "spectral_unclamped" else max(1.0, ratio)


def l1_norm(gradient: Tensor) -> Tensor:
    """Sum of absolute values, 0-d, float64."""
    return gradient.abs().sum(dtype=torch.float64)


def nuclear_norm(gradient: Tensor) -> Tensor:
    """Sum of the singular values of a gradient as muon sees it, the matrix (out, all else); 0-d, float64.

    They are the roots of the eigenvalues of G G^T in float64, which takes less than half as long as their decomposition. A singular value that is
    0 may come out as 2e-8 of the largest: of a float32 gradient less than its own rounding.
    """
    matrix = gradient.flatten(1).double()
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    squares: Tensor = torch.linalg.eigvalsh(matrix @ matrix.T)
    return squares.clamp_min(0).sqrt().sum()
