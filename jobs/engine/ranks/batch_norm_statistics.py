"""Running statistics of a step's micro-batches on several ranks, as if one forward pass had been of the whole batch.

That pass would run a norm over all groups in order, rank 0's first, and then, where the model runs it twice, over all of
them again. Each run on each rank moves statistics r by its own k groups, from a common beginning, to r' = a r + c: the
first run the norm's own, a second one others that begin at zero. In this order they come to

    r_out = (prod_q a_q) r + sum_q (prod_{p > q} a_p) c_q,    a_q = (1 - momentum)^k_q,    p, q: (run, rank)

which is linear, so every rank adds its own terms and one reduction gives the sum. Under momentum None (a plain
average over all N groups so far) the weights are a_q = N / (N + k_q), and a term counts (N + k_q) / (N + K).
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.norms.ghost_batch_norm import GhostNorm, forward_pass_of, ghost_norms
from largebatch.jobs.models.norms.settings import Settings, refuse_change, settings_of

Moves = list[list[int]]
"""Of one norm in one step: for each run in a forward pass, for each rank, by how many groups its statistics moved."""
NUM_CHECKED = 3
"""Steps after which ranks compare what they hold, from the start of a process on."""
ROUNDING = 1e-4
"""Of a buffer's largest number: by how much two ranks may differ."""


class RunningStatistics:
    """What a model's buffers hold while it trains: norms' statistics, and what other layers keep."""

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self.forward_pass = forward_pass_of(model)
        self._model, self._ranks = model, ranks
        self._norms = [norm for norm in ghost_norms(model) if norm.running_mean is not None]
        self._all_norms = ghost_norms(model)
        self._settings: list[Settings] = []
        self._num_runs = 1
        """Of a norm in one forward pass, the most that any rank has seen."""
        self._num_checked = 0

    def begin(self) -> None:
        """Begin a step."""
        self.forward_pass.start_step()
        self._settings = [settings_of(norm) for norm in self._all_norms]

    def refuse_changed_settings(self) -> None:
        """Raise PlanError if a pass since the step began has changed the settings of a norm."""
        refuse_change(self._all_norms, self._settings)

    def settle(self, buffers: list[Tensor], held: list[Tensor], steps_alone: bool) -> None:
        """Make one of what all runs on all ranks left; of this rank's own where ranks step alone. Every rank must call this.

        Args: buffers: the model's; held: their values as the step began.
        Raises: PlanError, on every rank, if ranks hold different buffers after one of the first steps.
        """
        world_size = 1 if steps_alone else self._ranks.world_size
        checks = self._num_checked < NUM_CHECKED
        self._num_checked += 1
        if self._norms and (world_size > 1 or self.forward_pass.apart):
            self._settle_norms(dict(zip(map(id, buffers), held, strict=True)), world_size, checks)
        if world_size > 1:
            if checks:
                self._refuse_difference()
            known = {id(buffer) for norm in self._norms for buffer in norm.buffers(recurse=False)}
            # What the split of a batch changes is refused before training: the others differ by rounding, if at all.
            self._ranks.take_from_first([buffer for buffer in self._model.buffers() if id(buffer) not in known])
        self.forward_pass.forget()

    def _settle_norms(self, held: dict[int, Tensor], world_size: int, checks: bool) -> None:
        moves = self._all_moves(world_size)
        rank = self._ranks.rank if world_size > 1 else 0
        terms = [self._own_terms(norm, held, moves[norm.ghost.number], rank) for norm in self._norms]
        summed = torch.cat(terms)
        if world_size > 1:
            self._ranks.sum(summed)
        for norm, piece in zip(self._norms, torch.split(summed, [len(term) for term in terms]), strict=True):
            total = sum(map(sum, moves[norm.ghost.number]))
            if checks and norm.num_batches_tracked is not None and not isinstance(norm, _InstanceNorm):
                _refuse_miscount(norm, total, int(piece[-1]))
            kept = _weights(norm, held, own=total, after=0, total=total)[0]
            for statistic, part in zip(_statistics(norm), piece[:-1].chunk(2), strict=True):
                statistic.copy_(held[id(statistic)] * kept + part.view(statistic.shape))
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(held[id(norm.num_batches_tracked)] + piece[-1])

    def _all_moves(self, world_size: int) -> dict[int, Moves]:
        """By each norm's number."""
        own = self.forward_pass.moves
        num_runs = 1 + max((run for _, run in own), default=0)
        table = [[float(num_runs), *self._counts(max(num_runs, self._num_runs) if world_size == 1 else self._num_runs)]]
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

    def _counts(self, num_runs: int) -> list[float]:
        moves = self.forward_pass.moves
        return [float(moves.get((norm.ghost.number, run), 0)) for norm in self._norms for run in range(num_runs)]

    def _own_terms(self, norm: GhostNorm, held: dict[int, Tensor], moves: Moves, rank: int) -> Tensor:
        """What this rank adds to mean, variance and number of groups, flat."""
        statistics = [*_statistics(norm), *([] if norm.num_batches_tracked is None else [norm.num_batches_tracked])]
        terms = [torch.zeros_like(statistic, dtype=torch.promote_types(statistic.dtype, torch.float32)) for statistic in statistics]
        total = sum(map(sum, moves))
        for run, counts in enumerate(moves):
            if not counts[rank]:
                continue
            after = sum(counts[rank + 1 :]) + sum(map(sum, moves[run + 1 :]))
            kept, weight = _weights(norm, held, own=counts[rank], after=after, total=total, is_first=run == 0)
            apart = None if run == 0 else list(self.forward_pass.apart[norm.ghost.number, run].values())
            for i, (term, statistic) in enumerate(zip(terms, statistics, strict=True)):
                if not statistic.is_floating_point():
                    kept, weight = 1.0, 1.0
                term += (statistic - kept * held[id(statistic)]) * weight if apart is None else apart[i] * weight
        flat = [term.reshape(-1) for term in terms]
        return torch.cat(flat if norm.num_batches_tracked is not None else [*flat, flat[0].new_zeros(1)])

    def _refuse_difference(self) -> None:
        """Raises: PlanError for the first buffer that ranks hold different values of."""
        buffers = dict(self._model.named_buffers())
        shapes = self._ranks.gathered([(name, tuple(buffer.shape)) for name, buffer in buffers.items()])
        if any(of_rank != shapes[0] for of_rank in shapes):
            differing = sorted({name for of_rank in shapes for name, _ in set(of_rank) ^ set(shapes[0])})
            raise _differs(", ".join(differing))
        if not buffers:
            return
        values = [torch.nan_to_num(_numbers(buffer), nan=1e300).to(self._ranks.device) for buffer in buffers.values()]
        flat = torch.cat(values)
        spread = self._ranks.largest(flat.clone()) + self._ranks.largest(-flat)
        for (name, buffer), value, apart in zip(buffers.items(), values, torch.split(spread, [len(value) for value in values]), strict=True):
            allowed = ROUNDING * float(self._ranks.largest(value.abs().max())) if len(value) and not _is_exact(buffer) else 0.0
            if bool((apart > allowed).any()):
                raise _differs(name)


def _statistics(norm: GhostNorm) -> list[Tensor]:
    return [cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)]


def _weights(norm: GhostNorm, held: dict[int, Tensor], *, own: int, after: int, total: int, is_first: bool = True) -> tuple[float, float]:
    """(what is left of the beginning after a run's own moves, what is left of the run at the end).

    Args: own, after, total: moves of this run, of those after it, of all; is_first: whether it began where the step began.
    """
    if norm.momentum is not None:
        return (1.0 - norm.momentum) ** own, (1.0 - norm.momentum) ** after
    if norm.num_batches_tracked is None or isinstance(norm, _InstanceNorm):
        return 1.0, 1.0  # torch moves nothing then
    seen = float(held[id(norm.num_batches_tracked)])
    begin = seen if is_first else 0.0
    return begin / max(begin + own, 1.0), (begin + own) / max(seen + total, 1.0)


def _numbers(buffer: Tensor) -> Tensor:
    whole = buffer.detach()
    return (torch.view_as_real(whole) if whole.is_complex() else whole).reshape(-1).double()


def _is_exact(buffer: Tensor) -> bool:
    return not (buffer.is_floating_point() or buffer.is_complex())


def _refuse_miscount(norm: GhostNorm, groups: int, counted: int) -> None:
    if counted != groups:
        raise _agreed(
            PlanError(
                "model",
                f"{norm.ghost.name}, a {type(norm).__name__}, counted {counted} batches in a step of {groups} groups:"
                " its statistics do not move once for each group.",
                "Use a batch-norm whose statistics move once for each batch it is called on, or train in one process.",
            )
        )


def _differs(name: str) -> PlanError:
    return _agreed(
        PlanError(
            "model",
            f"workers hold different values of the buffer {name} after a step: what it holds depends on which samples a worker sees.",
            "Train without --workers, or keep it out of the model's buffers.",
        )
    )


def _agreed(error: PlanError) -> PlanError:
    """Every rank raises it, for all see the same numbers."""
    error.is_agreed = True
    return error
