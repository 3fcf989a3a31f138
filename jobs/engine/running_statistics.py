"""Batch-norm's running statistics over several ranks, as if one process had seen all groups in order.

A rank starts every step from the common value r and moves it by its own k groups, r' = a r + c. One process would
go through rank 0's groups first, then rank 1's, and so on:

    r_out = (prod_q a_q) r + sum_r (prod_{q > r} a_q) c_r,    a_q = (1 - momentum)^k_q

which is linear, so every rank adds its own term and one reduction gives the sum. Under momentum None (a plain
average over all N groups so far) the weights are a_q = N / (N + k_q), and a rank's term counts (N + k_r) / (N + K).
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from jobs.engine.group import Group
from jobs.models.ghost_batch_norm import GhostBatchNorm


def combine_running_statistics(model: nn.Module, held: dict[int, Tensor], groups: list[int], group: Group) -> None:
    """Make the running statistics of several ranks one.

    Args:
        held: by the id of each buffer of the model, its value as the step began.
        groups: batch-norm groups that each rank saw in this step.
    """
    norms = [module for module in model.modules() if isinstance(module, GhostBatchNorm) and module.running_mean is not None]
    terms = [_own_term(norm, held, groups, group.rank) for norm in norms]
    if terms:
        summed = group.sum(torch.cat(terms))
        for norm, piece in zip(norms, torch.split(summed, [len(term) for term in terms]), strict=True):
            _set(norm, held, piece, groups)
    known = {id(buffer) for norm in norms for buffer in norm.buffers(recurse=False)}
    # What a person's own layer keeps has no rule of composition: rank 0's counts.
    group.take_from_first([buffer for buffer in model.buffers() if id(buffer) not in known])


def _statistics(norm: GhostBatchNorm) -> list[Tensor]:
    return [cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)]


def _weights(norm: GhostBatchNorm, held: dict[int, Tensor], groups: list[int], rank: int) -> tuple[float, float, float]:
    """(a of this rank, weight of this rank's term, product of all a)."""
    if norm.momentum is not None:
        kept = 1.0 - norm.momentum
        return kept ** groups[rank], kept ** sum(groups[rank + 1 :]), kept ** sum(groups)
    seen = float(held[id(norm.num_batches_tracked)])
    total = seen + sum(groups)
    return seen / max(seen + groups[rank], 1.0), (seen + groups[rank]) / total, seen / total


def _own_term(norm: GhostBatchNorm, held: dict[int, Tensor], groups: list[int], rank: int) -> Tensor:
    kept, weight, _ = _weights(norm, held, groups, rank)
    terms = []
    for statistic in _statistics(norm):
        begin = held[id(statistic)]
        terms.append((statistic - kept * begin) * weight if groups[rank] else torch.zeros_like(statistic))
    return torch.cat(terms)


def _set(norm: GhostBatchNorm, held: dict[int, Tensor], summed: Tensor, groups: list[int]) -> None:
    _, _, kept = _weights(norm, held, groups, 0)
    for statistic, piece in zip(_statistics(norm), summed.chunk(2), strict=True):
        statistic.copy_(held[id(statistic)] * kept + piece)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.copy_(held[id(norm.num_batches_tracked)] + sum(groups))


def num_groups(num_samples: int, span: int) -> int:
    """Batch-norm groups among so many samples; the last may be short."""
    return math.ceil(num_samples / span)
