"""Finds the running statistics that a model reads while it trains.

They move from micro-batch to micro-batch, and what the model makes of them moves with them.
"""

from collections.abc import Sequence

import torch

from largebatch.jobs.engine.model_trial.independence import difference
from largebatch.jobs.engine.model_trial.passes import Passes, Samples, TrainingPass
from largebatch.jobs.models.norms.ghost_batch_norm import GhostNorm, ghost_norms


def read_in_training(passes: Passes, samples: Samples, reference: TrainingPass, rounding: float) -> list[str]:
    """The running statistics that make a difference to a pass in training, in words.

    Args: reference: the result of a pass of the samples; rounding: how large a difference may be that is none.
    """

    def are_read(norms: Sequence[GhostNorm]) -> bool:
        other = passes.training(samples, change=lambda: _shift(norms))
        return difference([reference.logits, *reference.gradient], [other.logits, *other.gradient]) > rounding

    norms = [norm for norm in ghost_norms(passes.model) if norm.moves_statistics]
    if not norms or not are_read(norms):
        return []
    return [f"{norm.ghost.name}'s running statistics" for norm in norms if are_read([norm])]


@torch.no_grad()
def _shift(norms: Sequence[GhostNorm]) -> None:
    for norm in norms:
        for statistic in (norm.running_mean, norm.running_var):
            if statistic is not None:
                statistic.mul_(2.0).add_(1.0)
