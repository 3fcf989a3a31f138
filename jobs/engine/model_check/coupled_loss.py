"""Tries whether the loss of a person's own task is a sum over samples, whatever the model is.

The task gets the very same outputs of the model once whole and once in two halves: what batch-norm, dropout and another order of the
arithmetic change is in neither, and what is left is the task's own. A term of the batch as a whole, such as the square of a mean over it
(the load balance of experts) or a penalty on weights, is another number in each.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from largebatch.jobs.engine.model_check.passes import Passes, TrainingPass, difference
from largebatch.jobs.engine.out_of_memory import ran_out_of_memory
from largebatch.jobs.entry_points import ANYTHING
from largebatch.jobs.errors import PlanError
from largebatch.jobs.samples.keyed_random import key, seed_draws
from largebatch.jobs.samples.trees import Tree, leaves, map_leaves, num_samples, rows
from largebatch.jobs.tasks.base import Task
from largebatch.jobs.tasks.outputs import map_tensors

ROUNDING = 1e-5
"""Of the loss, and of its gradient: float32's over a few samples and some hundred times more, for what terms of either sign cancel."""


class _Loss(NamedTuple):
    """The task's number of some samples, and its gradient with respect to what the model gave, by each tensor with a row for each sample."""

    value: float
    gradients: list[Tensor]


def refuse_coupled_loss(passes: Passes, samples: Tree, whole: TrainingPass, by_halves: Sequence[TrainingPass]) -> None:
    """Raise PlanError for a person's own loss that is no sum over samples; one that draws at random is not tried.

    Args: whole, by_halves: passes in training; their losses are compared where what the model gives cannot be cut in halves, and it has no norms.
    """
    if type(passes.task).__module__.startswith("largebatch."):
        return
    apart = _apart(passes, samples)
    if apart is None:
        if not passes.has_norms and passes.training(samples, seed=1).probe == whole.probe:
            apart = _relative(whole.probe, sum(half.probe for half in by_halves))
            _refuse(apart, passes.rounding, passes, samples)
        return
    # A tensor that the samples share may have as many rows as there are samples, by chance: not of two numbers of them.
    if apart > _rounding(passes):
        apart = min(apart, _apart(passes, rows(samples, 0, num_samples(samples) - 2)) or 0.0)
        _refuse(apart, _rounding(passes), passes, samples)


def _broadcast_in_words(passes: Passes, samples: Tree) -> str:
    """What the model gives as (n, 1) where the samples hold (n,), or the other way round, of which torch makes (n, n); empty for no such pair."""
    size, given = num_samples(samples), list[Tensor]()

    def seen(tensor: Tensor) -> Tensor:
        given.append(tensor)
        return tensor

    for output in passes.given(samples):
        map_tensors(seen, output)
    shapes = {tuple(tensor.shape) for tensor in given}, {tuple(leaf.shape) for leaf in leaves(samples)}
    for one, other in (((size, 1), (size,)), ((size,), (size, 1))):
        if one in shapes[0] and other in shapes[1]:
            return (
                f" The model gives {one} and the samples hold {other}: one beside the other they broadcast to {(size, size)}, so give both one shape."
            )
    return ""


def _refuse(apart: float, most: float, passes: Passes, samples: Tree) -> None:
    if apart > most:
        raise PlanError(
            "task",
            f"its loss is no sum over samples: with the same outputs of the model, that of all and that of their halves are {100 * apart:.3g}% apart;"
            f" micro-batches and workers would change the result.{_broadcast_in_words(passes, samples)}",
            "Let each sample add what follows from its own outputs: nothing of the batch's mean, and nothing once for each call.",
        )


def _relative(one: float, other: float) -> float:
    """|a - b| over the larger; 0 where one is not finite, which training will say."""
    apart = abs(one - other) / max(abs(one), abs(other), 1e-30)
    return apart if math.isfinite(apart) else 0.0


def _rounding(passes: Passes) -> float:
    """What may be TF32 in the task's own products is as coarse in another number of rows."""
    return ROUNDING if torch.get_float32_matmul_precision() == "highest" or passes.rounding < ROUNDING else passes.rounding


def _apart(passes: Passes, samples: Tree) -> float | None:
    """How far the loss of the whole is from that of its halves, or its gradient, over the larger of the two.

    Returns: None where what the model gives cannot be cut; 0 for a loss that draws at random.
    """
    outputs, size = passes.given(samples), num_samples(samples)
    parts = [(0, size), (0, size // 2), (size // 2, size)]
    try:
        whole, first, second = (_loss_of_rows(passes.task, samples, outputs, start, stop, seed=0) for start, stop in parts)
        again = _loss_of_rows(passes.task, samples, outputs, 0, size, seed=1)
    except ANYTHING as error:  # outputs that have their samples elsewhere than in dimension 0
        if ran_out_of_memory(error):
            raise
        return None
    if again.value != whole.value:
        return 0.0  # it draws at random
    together = [torch.cat(pieces) for pieces in zip(first.gradients, second.gradients, strict=True)]
    return max(_relative(whole.value, first.value + second.value), difference(whole.gradients, together))


def _loss_of_rows(task: Task, samples: Tree, outputs: Sequence[Any], start: int, stop: int, seed: int) -> _Loss:
    """The task's number of some of the samples, with what the model gave for them among all. Raises: whatever the task raises."""
    taken: list[Tensor] = []
    forward = rows_of_outputs(outputs, num_samples(samples), start, stop, lambda part: taken.append(part.requires_grad_()))
    seed_draws(key("coupled loss", seed), leaves(samples)[0].device)
    loss = task.probe(forward, map_leaves(Tensor.clone, rows(samples, start, stop)))
    gradients = torch.autograd.grad(loss, taken, allow_unused=True, materialize_grads=True) if loss.requires_grad and taken else ()
    return _Loss(float(loss.detach()), [gradient.detach() for gradient in gradients])


def rows_of_outputs(
    outputs: Sequence[Any], size: int, start: int, stop: int, look: Callable[[Tensor], object] = lambda part: None
) -> Callable[..., Any]:
    """What stands in for a model: it gives, call by call, what the model gave for some of `size` samples.

    Args: look: gets each part of real numbers.
    Raises: ValueError, when it is called, for outputs with several rows for each sample.
    """
    given = iter(outputs)

    def row_by_row(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if tensor.shape[:1] != (size,):
            if tensor.ndim and tensor.shape[0] % size == 0 and tensor.shape[0]:
                raise ValueError("several rows for each sample, in an order that nobody tells")
            return tensor.clone()
        part = tensor[start:stop].clone()
        if part.is_floating_point():
            look(part)
        return part

    def forward(*inputs: Any, **named: Any) -> Any:
        return map_tensors(row_by_row, next(given))

    return forward
