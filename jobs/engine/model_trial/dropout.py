"""Whether what a sample drops is its own, for the dropouts whose masks belong to the samples.

They take dimension 0 of their inputs for the samples, or the samples times something in their order. Where it is something else, such
as time, masks belong to nothing, and would be others for another micro-batch.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from largebatch.jobs.engine.model_trial.independence import CERTAIN, difference
from largebatch.jobs.engine.model_trial.passes import Passes, Samples
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.sample_dropout import SampleDropout, sample_dropouts

Shapes = list[list[torch.Size]]
"""Of what each dropout gets, run by run."""


def refuse_coupled_dropout(passes: Passes, samples: Samples, is_random: bool, rounding: float) -> bool:
    """Pass an even number of samples through at once and in two halves, each sample with its own masks.

    Args: is_random: whether something else in the model draws at random, so that logits tell nothing, but shapes do.
    Returns: whether some dropout gets what is of no samples, such as a table of positions, so that torch's generator draws its masks.
    Raises: PlanError for the first dropout that takes something else for the samples.
    """
    dropouts = [dropout for dropout in sample_dropouts(passes.model) if dropout.training and dropout.p]
    if not dropouts:
        return False
    total = len(samples.labels)
    whole, shapes = _logits(passes, samples, dropouts, [0, total])
    halves, half_shapes = _logits(passes, samples, dropouts, [0, total // 2, total])
    for dropout, full, half in zip(dropouts, shapes, half_shapes, strict=True):
        if len(half) == 2 * len(full) and not all(map(_belong_to_samples, [*full, *full], half)):
            raise _refusal(passes.model, dropout)
    allowed = max(rounding, CERTAIN)
    if not is_random and difference([whole], [halves]) > allowed:
        for dropout in dropouts:
            alone = [_logits(passes, samples, [dropout], bounds)[0] for bounds in ([0, total], [0, total // 2, total])]
            if difference(alone[:1], alone[1:]) > allowed:
                raise _refusal(passes.model, dropout)
        raise _refusal(passes.model, dropouts[0])
    return any(full == half for runs, half_runs in zip(shapes, half_shapes, strict=True) for full, half in zip(runs, half_runs, strict=False))


def _belong_to_samples(full: torch.Size, half: torch.Size) -> bool:
    """Whether an input is of twice as many rows for twice the samples, or is none of samples at all, such as a table of positions."""
    return full == half or (len(full) > 0 and len(half) > 0 and full[0] == 2 * half[0])


def _logits(passes: Passes, samples: Samples, dropouts: Sequence[SampleDropout], bounds: Sequence[int]) -> tuple[Tensor, Shapes]:
    """Of passes of the samples between bounds, in which these drop."""
    shapes: Shapes = [[] for _ in dropouts]

    def remember(runs: list[torch.Size]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, arguments: runs.append(arguments[0].shape)

    hooks = [dropout.register_forward_pre_hook(remember(runs)) for dropout, runs in zip(dropouts, shapes, strict=True)]
    try:
        logits = [passes.dropping(samples, start, stop, dropouts) for start, stop in pairwise(bounds)]
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(logits), shapes


def _refusal(model: nn.Module, dropout: SampleDropout) -> PlanError:
    name = next(name for name, module in model.named_modules() if module is dropout)
    return PlanError(
        "model",
        f"{name or 'the model itself'}, a dropout, gets inputs whose dimension 0 is not the samples: what a sample drops would depend on which others"
        " pass with it, so on micro-batches and workers.",
        "Give it inputs whose first dimension is the samples (batch_first=True), or the samples times something in their order, or use"
        " nn.functional.dropout(x, p, self.training).",
    )
