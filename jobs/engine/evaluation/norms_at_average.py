"""Batch-norm statistics at the average of the weights that a schedule-free optimizer evaluates.

While it trains, a norm's running statistics are of the activations that the weights y give. What is evaluated, saved and exported are other
weights, x: before each of these, training samples pass forward with x, as evaluation passes them (no augmentation, no dropout), the norms alone
as in training, and

    running <- mean over all groups of `span` samples, on all ranks, of each group's mean (and unbiased variance)

The authors of schedule-free optimizers ask for such a pass (README of schedule_free, "Caveats"). What it leaves follows from x alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from largebatch.jobs.engine.evaluation.forward import evaluation_share, evaluation_weights, halve, samples_at_once, seen_if_it_fits, whole_groups
from largebatch.jobs.engine.ranks.batch_norm_statistics import BatchNormStatistics
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.models.norms.ghost_batch_norm import GhostNorm, ghost_norms
from largebatch.jobs.models.norms.last_steps import COUNT
from largebatch.jobs.optim.averaging.schedule_free import EvaluatedAverage


@torch.no_grad()
def settle_norms(state: TrainState, precision: str, notify: Callable[[str], Any] = lambda text: None) -> None:
    """Take the statistics at the average that is evaluated, unless they are there since the last update. Every rank must call this.

    Args: see `evaluate`.
    Raises: LargebatchError, the same on every rank, for a sample that cannot be read or where not even one group fits.
    """
    average, samples = state.average, state.norm_samples
    if samples is None or not isinstance(average, EvaluatedAverage) or average.has_statistics:
        return
    norms = [norm for norm in ghost_norms(state.model) if norm.moves_statistics]
    forward_pass, statistics = state.buffers.forward_pass, BatchNormStatistics(state.model, state.ranks)
    span = forward_pass.span or 1
    share = evaluation_share(samples.num_samples, state.ranks, span)

    def pass_share() -> None:
        _begin(norms)
        forward_pass.start_step()
        start = share.start
        while start < share.stop:
            piece = whole_groups(share, start, samples_at_once(state.micro_batch_size, state.evaluation_batch_size), span)
            if seen_if_it_fits(state, samples.batches, piece, precision) is None:
                halve(state, piece.size, span, notify)
                return pass_share()  # the pass that ran out has moved some norms, and not others
            forward_pass.end()
            start = piece.stop
        return None

    with evaluation_weights(state), _as_in_training(norms):
        _begin(norms)
        before = [buffer.clone() for buffer in statistics.buffers()]
        state.ranks.agreed(pass_share)
        statistics.settle(statistics.buffers(), before, is_local=False, checks=False)
        average.take_statistics([norm.ghost.name for norm in norms])
    forward_pass.forget()


@contextmanager
def _as_in_training(norms: Sequence[GhostNorm]) -> Iterator[None]:
    """Norms of a model in evaluation mode take statistics, each group counting the same."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.training, norm.momentum = True, None
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.training, norm.momentum = False, momentum


def _begin(norms: Sequence[GhostNorm]) -> None:
    """Forget what was counted: the next group's statistics take the place of the running ones."""
    for norm in norms:
        getattr(norm, COUNT).zero_()
