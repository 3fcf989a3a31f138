"""The bias of moving averages whose decay changes from step to step.

An average that starts at zero holds, after t steps, the gradients with weights that add up to

    1 - beta_1 * beta_2 * ... * beta_t

which is 1 - beta^t, as optimizers have it, only where all betas are the same.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from largebatch.jobs.optim.by_samples.options import BETAS_CHANGE

LEFT = "share_of_the_start"
"""The key in a parameter's state of the products of its betas, of both moments: numbers of Python's, which keep their 53 bits in a checkpoint."""


class Correction(NamedTuple):
    """What makes Adam's step of moments that are not corrected that of corrected ones.

        lr * (m / c1) / (sqrt(v / c2) + epsilon) = (lr * sqrt(c2) / c1) * m / (sqrt(v) + epsilon * sqrt(c2))

    c1, c2: the weights of all gradients in the averages m and v.
    """

    rate: float
    """sqrt(c2) / c1: what the learning rate is multiplied by."""
    epsilon: float
    """sqrt(c2): what epsilon is multiplied by."""


def corrections(
    state: Mapping[Tensor, dict[str, Any]], params: list[Tensor], param_group: Mapping[str, Any]
) -> Iterator[tuple[list[Tensor], Correction | None]]:
    """Parameters that have had the same betas, with the correction for the step that is to be done with the group's, which is counted.

    None for all where the betas do not change, or their bias is not corrected. Args: state: an optimizer's; params: those that the step updates.
    """
    if not (param_group.get(BETAS_CHANGE) and param_group.get("bias_correction", True)):
        yield params, None
        return
    betas = param_group["betas"]
    by_products: dict[tuple[float, float], list[Tensor]] = {}
    for param in params:
        first, second = state[param].get(LEFT, (1.0, 1.0))
        state[param][LEFT] = products = (first * betas[0], second * betas[1])
        by_products.setdefault(products, []).append(param)
    for (first, second), members in by_products.items():
        root = (1.0 - second) ** 0.5
        yield members, Correction(root / (1.0 - first), root)


def long_ago(steps: list[Tensor]) -> list[Tensor]:
    """Counts of steps at which 1 - beta^t is 1: how a pass that corrects by itself is kept from it."""
    return [torch.full_like(step, torch.inf) for step in steps]
