"""Muon: momentum whose matrices are made orthogonal (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/).

    B <- m * B + (1 - m) * g
    U  = NS(m * B + (1 - m) * g)    with Nesterov's look ahead;  NS(B) without
    w <- w - lr * beta * w - lr * ratio * U

g gradient, B its mean, m momentum, beta weight decay. NS, Newton-Schulz' iteration, puts every singular value near 1. ratio, of a matrix
of A rows and B columns, is what `adjust_lr_fn` says: see `MuonConfig`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.functional import muon

from largebatch.jobs.optim.config_base import TRANSPOSED
from largebatch.jobs.optim.groupwise import GroupwiseOptimizer
from largebatch.jobs.optim.tensors import at_least_float32, laid_like, state_like

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Of the iteration's polynomial, torch's and its authors'."""


class Muon(GroupwiseOptimizer):
    """torch's Muon, for parameters of two dimensions and more, which lie in memory in any way.

    What has more than two, a convolution's weight, is the matrix (out, in * height * width); where a group is `transposed`, its parameters lie
    (in, out) and (in, out * height * width), and it is the transposed matrix whose rows and columns count. The mean of the gradient is float32 at the
    least and lies row by row; the iteration is bfloat16, as torch has it on every device.

    Args:
        params: parameters or groups.
        lr: learning rate.
        momentum: m, in [0, 1).
        weight_decay: beta >= 0, decoupled.
        nesterov: look ahead along the mean.
        ns_steps: iterations, 1 ... 99.
        eps: the least Frobenius norm that a matrix is divided by before the iteration.
        adjust_lr_fn: "original", "match_rms_adamw" or "spectral_unclamped".
        transposed: whether matrices lie (in, out).
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Tensor,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        nesterov: bool = True,
        ns_steps: int = 5,
        eps: float = 1e-7,
        adjust_lr_fn: str = "original",
        transposed: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(params, {**defaults, "ns_steps": ns_steps, "eps": eps, "adjust_lr_fn": adjust_lr_fn, TRANSPOSED: transposed})

    def _refuse_params(self, params: list[Tensor]) -> None:
        super()._refuse_params(params)
        for param in params:
            if param.ndim < 2:
                raise ValueError(f"Muon updates matrices, and a parameter has the shape {tuple(param.shape)}.")

    def _update(self, param_group: dict[str, Any], params: list[Tensor]) -> None:
        for param in params:
            mean = state_like(self.state[param], "momentum_buffer", param, at_least_float32(param.dtype), torch.contiguous_format)  # seen as a matrix
            weight, gradient = laid_like(param, mean), laid_like(param.grad.to(mean.dtype), mean)  # type: ignore[union-attr]
            matrices = [each.flatten(1).T if param_group.get(TRANSPOSED) else each.flatten(1) for each in (weight, gradient, mean)]
            muon(
                *([matrix] for matrix in matrices),
                lr=float(param_group["lr"]),
                momentum=param_group["momentum"],
                weight_decay=param_group["weight_decay"],
                nesterov=param_group["nesterov"],
                ns_coefficients=COEFFICIENTS,
                ns_steps=param_group["ns_steps"],
                eps=param_group["eps"],
                adjust_lr_fn=param_group["adjust_lr_fn"],
                has_complex=False,
            )
            if weight.data_ptr() != param.data_ptr():
                param.copy_(weight)
