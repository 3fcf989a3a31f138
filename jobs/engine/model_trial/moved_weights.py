"""Tries whether weights that a forward pass itself moves come to the same in one pass of some samples and in several.

Weights that a pass normalises are where it wants them before the next one, and rows of a table that it clips are clipped once. A copy
that follows the weights, or weights that shrink, go on with every pass: how a step is split would change them.
"""

import torch
from torch import Tensor

from largebatch.jobs.engine.model_trial.passes import Move, Passes, Samples
from largebatch.jobs.errors import PlanError

TOLERANCE = 0.02
"""Of how far weights moved."""
ROUNDING = 8.0
"""Times the precision of their numbers, of the largest: a weight that is normalised once more may move by its last bits."""


def moved_by_forward(passes: Passes, samples: Samples) -> tuple[list[str], list[str]]:
    """(Parameters that a pass in training moves, those among them that move otherwise in two passes of half the samples each).

    Raises: PlanError for those that passes in evaluation move, too, and further with each.
    """
    moved, by_passes = _moved(passes, samples, "training")
    in_evaluation = _moved(passes, samples, "evaluation")[1]
    if in_evaluation:
        raise PlanError(
            "model",
            f"its forward pass moves {in_evaluation[0]} in evaluation, too, and further with each pass: how often a run is evaluated would"
            " change what it learns.",
            "Move weights only where self.training is true.",
        )
    return moved, by_passes


def _moved(passes: Passes, samples: Samples, mode: str) -> tuple[list[str], list[str]]:
    moves = passes.moved_weights([samples], mode)
    if not moves:
        return [], []
    split_moves = passes.moved_weights(samples.halves() if len(samples.labels) > 1 else [samples, samples], mode)
    return list(moves), [name for name, move in moves.items() if name not in split_moves or _differ(move, split_moves[name].after)]


def _differ(move: Move, other: Tensor) -> bool:
    if not move.before.shape == move.after.shape == other.shape:
        return True
    if not other.is_floating_point():
        return not torch.equal(move.after, other)
    allowed = TOLERANCE * (move.after - move.before).abs().max() + ROUNDING * torch.finfo(other.dtype).eps * move.after.abs().max()
    return not bool((move.after - other).abs().max() <= allowed)
