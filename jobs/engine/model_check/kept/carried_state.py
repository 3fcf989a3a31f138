"""Finds what a model carries from one forward pass to the next: buffers, weights that the pass itself moves, running statistics and numbers.

Weights that a pass normalises are where it wants them before the next one, and rows of a table that it clips are clipped once. A copy
that follows the weights, or weights that shrink, go on with every pass: how a step is split would change them. Running statistics move
from micro-batch to micro-batch, and what the model makes of them in training moves with them. A plain number that counts passes counts those
of this trial, too, and no checkpoint has it.
"""

import copy
import numbers
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from largebatch.jobs.engine.model_check.kept.held import Way, held_by, in_words, put
from largebatch.jobs.engine.model_check.passes import Passes, difference
from largebatch.jobs.entry_points import ANYTHING
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.norms.ghost_batch_norm import GhostNorm, ghost_norms
from largebatch.jobs.models.snapshot import Snapshot
from largebatch.jobs.samples.trees import Tree, halves, num_samples

TOLERANCE = 0.02
"""Of how far weights moved."""
ROUNDING = 8.0
"""Times the precision of their numbers, of the largest: a weight that is normalised once more may move by its last bits."""
LATER = (1_000, 1_000_000)
"""Passes from now, at which a number that moves with each of them is tried; and 0."""

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
    before, after = _buffers_around(passes, samples)
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
    if unsaved := [name for name in moved if name not in passes.model.state_dict(keep_vars=True)]:
        raise PlanError(
            "model",
            f"its buffer {unsaved[0]} moves with each pass, and is not in its state_dict: no checkpoint would have it, and a resume would begin with"
            " another.",
            "Register it without persistent=False; what nothing reads later is no buffer.",
        )
    if moved:
        _, again = _buffers_around(passes, halves(samples)[1])
        for name in moved:
            (findings.once_a_step if torch.equal(after[name], again[name]) else findings.by_samples).append(name)


def _buffers_around(passes: Passes, samples: Tree) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The buffers before and after a pass in training, of weights that have been updated: a copy that follows them moves only then."""
    passes.begin()
    _update_weights(passes.model)
    before = _buffers(passes.model)
    passes.training(samples, seed=None)
    return before, _buffers(passes.model)


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


def refuse_moving_numbers(passes: Passes, samples: Tree) -> None:
    """Raise PlanError for a plain number of the model or its task that each pass moves, and that makes a difference to what a pass gives.

    A count of passes is one, by which a loss is annealed or a layer begins to work. It is tried in a copy, for what begins may stay.
    """
    before = _numbers(passes.model, passes.task)
    passes.training(samples)
    moved = {place: (before[place], now) for place, now in _numbers(passes.model, passes.task).items() if before.get(place, now) != now}
    if not moved:
        return
    try:
        model, task = copy.deepcopy((passes.model, passes.task))
    except ANYTHING:  # what cannot be copied is not tried
        return
    for (holder, way), (value, after) in moved.items():
        if _makes_a_difference(Passes(passes.spec, model, task), samples, holder, way, after):
            of_task, name = holder is None, in_words(way)
            raise PlanError(
                "task" if of_task else "model",
                f"it keeps a number from pass to pass, {f'{holder}.{name}' if holder else name} ({value:g} before a pass, {after:g} after it),"
                " and the loss depends on it: micro-batches, evaluations and passes before training would be counted, and no checkpoint has it.",
                'Keep it in a buffer of the model, as by self.register_buffer("count", torch.tensor(0)): what every pass moves alike moves once a'
                f" step there, and is saved.{' Give it to the task beside the outputs.' if of_task else ''}",
            )


def _makes_a_difference(passes: Passes, samples: Tree, holder: str | None, way: Way, value: float) -> bool:
    """Whether a pass gives something else when a number stands elsewhere. Args: passes: of a copy; holder: the module's name, None: the task."""
    keeper: Any = passes.task if holder is None else passes.model.get_submodule(holder)

    def given(value: float) -> list[Tensor]:
        put(keeper, way, value)
        result = passes.training(samples)
        return [result.outputs, torch.tensor(result.probe), *result.gradient]

    def is_apart(other: float) -> bool:
        with suppress(*ANYTHING):  # what fails there will say so when it comes to it
            return _are_apart(passes, reference, given(other))
        return False

    try:
        reference = given(value)
    except ANYTHING:  # a copy need not work
        return False
    if is_apart(value):
        return False  # something else is kept
    return any(is_apart(other) for other in (type(value)(0), *(value + count for count in LATER)))


def _are_apart(passes: Passes, one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) != len(other) or difference(one, other) > passes.rounding


def _numbers(model: nn.Module, task: object) -> dict[tuple[str | None, Way], float]:
    """The plain numbers in a person's own modules, by the module's name and the way to them there, and in their task, by None."""
    return {
        (holder, way): value  # type: ignore[misc]  # numpy's have all of a float's arithmetic
        for holder, keeper in _own(model, task)
        for way, value in held_by(keeper)
        if isinstance(value, numbers.Real) and not isinstance(value, bool)
    }


def _own(model: nn.Module, task: object) -> Iterator[tuple[str | None, object]]:
    keepers: list[tuple[str | None, object]] = [(None, task), *model.named_modules()]
    yield from ((holder, keeper) for holder, keeper in keepers if not type(keeper).__module__.startswith("largebatch."))
