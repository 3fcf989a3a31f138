"""Running statistics of a step's micro-batches on several ranks, as if one forward pass had been of the whole batch.

That pass would run a norm over all groups in order, rank 0's first, and then, where the model runs it twice, over all of
them again. Each run on each rank moves statistics r by its own k groups, from a common beginning, to r' = a r + c: the
first run the norm's own, a second one others that begin at zero. In this order they come to

    r_out = (prod_q a_q) r + sum_q (prod_{p > q} a_p) c_q,    a_q = (1 - momentum)^k_q,    p, q: (run, rank)

which is linear, so every rank adds its own terms and one reduction gives the sum. Under momentum None (a plain
average over all N groups so far) the weights are a_q = N / (N + k_q), and a term counts (N + k_q) / (N + K).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.norms.ghost_batch_norm import GhostNorm, forward_pass_of, ghost_norms, statistics_of

Moves = list[list[int]]
"""Of one norm in one step: for each run in a forward pass, for each rank, by how many groups its statistics moved."""


class BatchNormStatistics:
    """Combines what the runs of a model's norms on all ranks left in their running statistics."""

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self.forward_pass = forward_pass_of(model)
        self._ranks = ranks
        self._norms = [norm for norm in ghost_norms(model) if norm.running_mean is not None]
        self._num_runs = 1
        """Of a norm in one forward pass, the most that any rank has seen."""

    def buffers(self) -> list[Tensor]:
        """Those of the norms, as they are now."""
        return [buffer for norm in self._norms for buffer in norm.buffers(recurse=False)]

    def settle(self, buffers: Iterable[Tensor], values: list[Tensor], is_local: bool, checks: bool) -> None:
        """Make one of what all runs on all ranks left; of this rank's own in a local step. Every rank must call this.

        Args:
            buffers: the model's, looked at only where there is something to make one of.
            values: their values as the step began.
            checks: whether to compare the norms' own counts of batches with ours.
        Raises: PlanError, on every rank, if they differ.
        """
        world_size, rank = (1, 0) if is_local else (self._ranks.world_size, self._ranks.rank)
        if not self._norms or (world_size == 1 and not self.forward_pass.apart):
            return
        before, moves = dict(zip(map(id, buffers), values, strict=True)), self._all_moves(world_size)
        terms = [self._own_terms(norm, before, moves[norm.ghost.number], rank) for norm in self._norms]
        summed = torch.cat(terms)
        if world_size > 1:
            self._ranks.sum(summed)
        for norm, piece in zip(self._norms, torch.split(summed, [len(term) for term in terms]), strict=True):
            total = sum(map(sum, moves[norm.ghost.number]))
            if checks and norm.num_batches_tracked is not None and not isinstance(norm, _InstanceNorm):
                _refuse_miscount(norm, total, int(piece[-1]))
            kept = _weights(norm, before, own=total, after=0, total=total)[0]
            mean, variance = piece[:-1].chunk(2)
            for name, statistic in statistics_of(norm).items():
                if name == "num_batches_tracked":
                    statistic.copy_(before[id(statistic)] + piece[-1])
                else:
                    statistic.copy_(before[id(statistic)] * kept + (mean if name == "running_mean" else variance).view(statistic.shape))

    def _all_moves(self, world_size: int) -> dict[int, Moves]:
        """By each norm's number."""
        own = self.forward_pass.moves
        num_runs = 1 + max((run for _, run in own), default=0)
        table = [[float(num_runs), *(float(own.get((norm.ghost.number, run), 0)) for norm in self._norms for run in range(self._num_runs))]]
        if world_size > 1:
            rows = torch.zeros(world_size, len(table[0]), dtype=torch.float64, device=self._ranks.device)
            rows[self._ranks.rank] = torch.tensor(table[0], dtype=torch.float64)
            table = self._ranks.sum(rows).tolist()
        most = max(int(row[0]) for row in table)
        if most > self._num_runs:
            self._num_runs = most
            return self._all_moves(world_size)
        columns = [[int(row[column]) for row in table] for column in range(1, len(table[0]))]
        return {norm.ghost.number: columns[i * self._num_runs : (i + 1) * self._num_runs] for i, norm in enumerate(self._norms)}

    def _own_terms(self, norm: GhostNorm, before: dict[int, Tensor], moves: Moves, rank: int) -> Tensor:
        """What this rank adds to mean, variance and number of groups, flat."""
        statistics = list(statistics_of(norm).values())
        terms = [torch.zeros_like(statistic, dtype=torch.promote_types(statistic.dtype, torch.float32)) for statistic in statistics]
        total = sum(map(sum, moves))
        for run, counts in enumerate(moves):
            if not counts[rank]:
                continue
            after = sum(counts[rank + 1 :]) + sum(map(sum, moves[run + 1 :]))
            kept, weight = _weights(norm, before, own=counts[rank], after=after, total=total, is_first=run == 0)
            apart = None if run == 0 else list(self.forward_pass.apart[norm.ghost.number, run].values())
            for i, (term, statistic) in enumerate(zip(terms, statistics, strict=True)):
                if not statistic.is_floating_point():
                    kept, weight = 1.0, 1.0
                term += (statistic - kept * before[id(statistic)]) * weight if apart is None else apart[i] * weight
        flat = [term.reshape(-1) for term in terms]
        return torch.cat(flat if norm.num_batches_tracked is not None else [*flat, flat[0].new_zeros(1)])


def _weights(norm: GhostNorm, before: dict[int, Tensor], *, own: int, after: int, total: int, is_first: bool = True) -> tuple[float, float]:
    """(what is left of the beginning after a run's own moves, what is left of the run at the end).

    Args: own, after, total: moves of this run, of those after it, of all; is_first: whether it began where the step began.
    """
    if norm.momentum is not None:
        return (1.0 - norm.momentum) ** own, (1.0 - norm.momentum) ** after
    if norm.num_batches_tracked is None or isinstance(norm, _InstanceNorm):
        return 1.0, 1.0  # torch moves nothing then
    seen = float(before[id(norm.num_batches_tracked)])
    begin = seen if is_first else 0.0
    return begin / (begin + own) if own else 1.0, (begin + own) / max(seen + total, 1.0)


def _refuse_miscount(norm: GhostNorm, groups: int, counted: int) -> None:
    if counted != groups:
        raise agreed(
            PlanError(
                "model",
                f"{norm.ghost.name}, a {type(norm).__name__}, counted {counted} batches in a step of {groups} groups:"
                " its statistics do not move once for each group.",
                "Use a batch-norm whose statistics move once for each batch it is called on, or train in one process.",
            )
        )


def agreed(error: PlanError) -> PlanError:
    """An error that every rank raises, for all see the same numbers."""
    error.is_agreed = True
    return error
