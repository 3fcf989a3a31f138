"""Finds what a model carries from one forward pass to the next: buffers, weights that the pass itself moves, running statistics that it reads.

Weights that a pass normalises are where it wants them before the next one, and rows of a table that it clips are clipped once. A copy
that follows the weights, or weights that shrink, go on with every pass: how a step is split would change them. Running statistics move
from micro-batch to micro-batch, and what the model makes of them in training moves with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from largebatch.jobs.engine.model_check.passes import Passes, difference
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.norms.ghost_batch_norm import GhostNorm, ghost_norms
from largebatch.jobs.models.snapshot import Snapshot
from largebatch.jobs.samples.trees import Tree, halves, num_samples

TOLERANCE = 0.02
"""Of how far weights moved."""
ROUNDING = 8.0
"""Times the precision of their numbers, of the largest: a weight that is normalised once more may move by its last bits."""

Moves = dict[str, tuple[Tensor, Tensor]]
"""By a weight's name: its values before and after some forward passes, in host memory."""


@dataclass(frozen=True)
class Findings:
    """The facts of a model, and the notices for the person, that decide how it can be trained."""

    once_a_step: list[str] = field(default_factory=list)
    """Buffers that each pass in training moves, whichever its samples: a step's passes must begin from the same."""
    by_samples: list[str] = field(default_factory=list)
    """Buffers that keep something of the samples, and statistics of norms that training reads: a step must be one pass."""
    by_forward: list[str] = field(default_factory=list)
    """Parameters that the forward pass itself changes: workers would come to have different ones."""
    by_passes: list[str] = field(default_factory=list)
    """Parameters among them that several passes change otherwise than one: a step must be one pass."""
    notices: list[str] = field(default_factory=list)
    """Sentences for the person."""


def find_moved_buffers(passes: Passes, samples: Tree, findings: Findings) -> None:
    """Tell buffers that every pass in training moves from those that keep something of its samples. Raises: PlanError for other shapes."""
    before = _buffers(passes.model)
    passes.training(samples)
    after = _buffers(passes.model)
    for name in {**before, **after}:
        if name not in before or name not in after or before[name].shape != after[name].shape:
            shapes = [str(tuple(buffers[name].shape)) if name in buffers else "not there" for buffers in (before, after)]
            raise PlanError(
                "model",
                f"its buffer {name} takes another shape with the batch ({shapes[0]} before a pass of {num_samples(samples)} samples, {shapes[1]}"
                " after it): what it keeps of them would depend on how the batch is split.",
                "Keep nothing of the samples from pass to pass, or keep it in one shape.",
            )
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    if moved:
        passes.training(halves(samples)[1])
        again = _buffers(passes.model)
        for name in moved:
            (findings.once_a_step if torch.equal(after[name], again[name]) else findings.by_samples).append(name)


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all buffers but the running statistics of torch's norms, which have rules of their own."""
    return {
        f"{prefix}.{name}" if prefix else name: buffer.clone()
        for prefix, module in model.named_modules()
        if not isinstance(module, GhostNorm)
        for name, buffer in module.named_buffers(recurse=False)
    }


def find_read_statistics(passes: Passes, samples: Tree, findings: Findings) -> None:
    """Note the running statistics that make a difference to a pass in training."""
    norms = [norm for norm in ghost_norms(passes.model) if norm.moves_statistics]
    if not norms:
        return
    reference = passes.training(samples)

    def are_read(norms: Sequence[GhostNorm]) -> bool:
        passes.begin()
        _shift(norms)
        other = passes.training(samples, seed=None)
        return difference([reference.outputs, *reference.gradient], [other.outputs, *other.gradient]) > passes.rounding

    if are_read(norms):
        findings.by_samples.extend(f"{norm.ghost.name}'s running statistics" for norm in norms if are_read([norm]))


@torch.no_grad()
def _shift(norms: Sequence[GhostNorm]) -> None:
    for norm in norms:
        for statistic in (norm.running_mean, norm.running_var):
            if statistic is not None:
                statistic.mul_(2.0).add_(1.0)


def find_moved_weights(passes: Passes, samples: Tree, findings: Findings) -> None:
    """Note the parameters that a pass in training moves, and those among them that move otherwise in two passes of half the samples each.

    Raises: PlanError for those that passes in evaluation move, too, and further with each.
    """
    moved, by_passes = _moved(passes, samples, is_training=True)
    in_evaluation = _moved(passes, samples, is_training=False)[1]
    if in_evaluation:
        raise PlanError(
            "model",
            f"its forward pass moves {in_evaluation[0]} in evaluation, too, and further with each pass: how often a run is evaluated would"
            " change what it learns.",
            "Move weights only where self.training is true.",
        )
    findings.by_forward.extend(moved)
    findings.by_passes.extend(by_passes)


def _moved(passes: Passes, samples: Tree, is_training: bool) -> tuple[list[str], list[str]]:
    """(Weights that a pass moves, those among them that two passes move otherwise)."""
    moves = _moves(passes, [samples], is_training)
    if not moves:
        return [], []
    split_moves = _moves(passes, halves(samples) if num_samples(samples) > 1 else [samples, samples], is_training)
    return list(moves), [name for name, move in moves.items() if name not in split_moves or _differ(*move, split_moves[name][1])]


def _moves(passes: Passes, pieces: Sequence[Tree], is_training: bool) -> Moves:
    """What forward passes of several pieces, one after another, move."""
    passes.begin()
    _update_weights(passes.model)
    before = Snapshot(passes.model)
    for piece in pieces:
        if is_training:
            passes.training(piece, seed=None)
        else:
            passes.evaluation(piece, seed=None)
    return before.changed_weights()


@torch.no_grad()
def _update_weights(model: nn.Module) -> None:
    """Change the weights, as an update will: a copy that follows them moves only then."""
    params = [param for param in model.parameters() if param.requires_grad]
    for number, param in enumerate(params):
        param.mul_(1.25 + 0.25 * number / len(params))  # not all by the same, for what follows may be trainable, too


def _differ(before: Tensor, after: Tensor, other: Tensor) -> bool:
    """Whether a weight that one pass moved is elsewhere after several."""
    if not before.shape == after.shape == other.shape:
        return True
    if not other.is_floating_point():
        return not torch.equal(after, other)
    allowed = TOLERANCE * (after - before).abs().max() + ROUNDING * torch.finfo(other.dtype).eps * after.abs().max()
    return not bool((after - other).abs().max() <= allowed)
