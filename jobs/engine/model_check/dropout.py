"""Tries whether what a sample drops is its own, for the dropouts whose masks belong to the samples.

These dropouts take dimension 0 of their inputs for the samples, or the samples times something in their order. Where it is something else, such
as time, masks belong to nothing, and would be others for another micro-batch.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from largebatch.jobs.engine.model_check.independence import CERTAIN
from largebatch.jobs.engine.model_check.passes import Passes, before_each_run, difference
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.sample_dropout import SampleDropout, sample_dropouts
from largebatch.jobs.samples.trees import Tree, num_samples

Shapes = list[list[torch.Size]]
"""Shapes of the inputs of each dropout, run by run."""


def refuse_coupled_dropout(passes: Passes, samples: Tree, is_random: bool) -> list[str]:
    """Pass an even number of samples through at once and in two halves, each sample with its own masks.

    Args: is_random: whether something else in the model draws at random, so that outputs tell nothing, but shapes do.
    Returns: names of dropouts that get what is of no samples, such as a table of positions, so that torch's generator draws their masks.
    Raises: PlanError for the first dropout that takes something else for the samples.
    """
    dropouts = [dropout for dropout in sample_dropouts(passes.model) if dropout.training and dropout.p]
    if not dropouts:
        return []
    total = num_samples(samples)
    at_once, by_halves = [0, total], [0, total // 2, total]
    outputs, shapes = _outputs(passes, samples, dropouts, at_once)
    half_outputs, half_shapes = _outputs(passes, samples, dropouts, by_halves)
    for dropout, full, half in zip(dropouts, shapes, half_shapes, strict=True):
        if len(half) == 2 * len(full) and not all(map(_belong_to_samples, [*full, *full], half)):
            raise _refusal(passes.model, dropout)
    allowed = max(passes.rounding, CERTAIN)
    if not is_random and difference([outputs], [half_outputs]) > allowed:
        for dropout in dropouts:
            alone = [_outputs(passes, samples, [dropout], bounds)[0] for bounds in (at_once, by_halves)]
            if difference(alone[:1], alone[1:]) > allowed:
                raise _refusal(passes.model, dropout)
        raise _refusal(passes.model, dropouts[0])
    return [
        _name(passes.model, dropout)
        for dropout, runs, half_runs in zip(dropouts, shapes, half_shapes, strict=True)
        if any(full == half for full, half in zip(runs, half_runs, strict=False))
    ]


def _belong_to_samples(full: torch.Size, half: torch.Size) -> bool:
    """Whether an input is of twice as many rows for twice the samples, or is none of samples at all, such as a table of positions."""
    return full == half or (len(full) > 0 and len(half) > 0 and full[0] == 2 * half[0])


def _outputs(passes: Passes, samples: Tree, dropouts: Sequence[SampleDropout], bounds: Sequence[int]) -> tuple[Tensor, Shapes]:
    """Logits, and the shapes that each dropout got, of passes of the samples between bounds in which these dropouts drop."""
    shapes: dict[nn.Module, list[torch.Size]] = {dropout: [] for dropout in dropouts}
    with before_each_run(dropouts, lambda dropout, arguments: shapes[dropout].append(arguments[0].shape)):
        outputs = [passes.dropping(samples, start, stop, dropouts) for start, stop in pairwise(bounds)]
    return torch.cat(outputs), list(shapes.values())


def _name(model: nn.Module, part: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is part) or "the model itself"


def _refusal(model: nn.Module, dropout: SampleDropout) -> PlanError:
    return PlanError(
        "model",
        f"{_name(model, dropout)}, a dropout, gets inputs whose dimension 0 is not the samples: what a sample drops would depend on which others"
        " pass with it, so on micro-batches and workers.",
        "Give it inputs whose first dimension is the samples (batch_first=True), or the samples times something in their order, or use"
        " nn.functional.dropout(x, p, self.training).",
    )
