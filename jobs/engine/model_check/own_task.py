"""Tries whether a person's own task belongs to its samples, whatever the model is: what it prepares, weighs and measures.

A batch is prepared, weighed and measured piece by piece, and the pieces are added up. So samples that are prepared together must be those that
are prepared apart, and the weight and the sums of some samples must be those of their parts together, with the very same outputs of the model.
"""

import math

import torch
from torch import Tensor

from largebatch.jobs.engine.evaluation.evaluate import numbers_of, scores_of
from largebatch.jobs.engine.evaluation.forward import WEIGHT, sums_of
from largebatch.jobs.engine.model_check.coupled_loss import rows_of_outputs
from largebatch.jobs.engine.model_check.passes import Passes, difference, refuse_no_sum
from largebatch.jobs.engine.model_errors import errors_in_words
from largebatch.jobs.engine.out_of_memory import ran_out_of_memory
from largebatch.jobs.entry_points import ANYTHING, described
from largebatch.jobs.errors import CodeError, LargebatchError, PlanError
from largebatch.jobs.samples.keyed_random import key, seed_draws
from largebatch.jobs.samples.sample_draws import EVALUATION
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import Tree, map_leaves, named_leaves, num_samples, rows
from largebatch.jobs.tasks.base import Task
from largebatch.jobs.tasks.contrastive import CoupledTask, Embeddings
from largebatch.jobs.tasks.metric import LOSS

ROUNDING = 1e-5
"""Of what is prepared, and of a weight: a hundred times what another order of a few additions makes of them in float32."""
ROUNDING_OF_SUMS = 1e-3
"""Of a metric's sum, whose terms of either sign may cancel."""
CANCELLED = 1e-6
"""Of the largest of the sums: what is smaller may be the rounding of terms that cancel."""


def refuse_coupled_preparation(task: Task, samples: Tree, seed: int, device: torch.device) -> None:
    """Prepare some samples, as they are read, at once and in two parts. Raises: PlanError where that makes a difference, in either mode."""
    size = num_samples(samples)
    for epoch, mode in ((0, "training"), (EVALUATION, "evaluation")):
        whole, again, first, second = (
            dict(named_leaves(task.prepared(map_leaves(Tensor.clone, rows(samples, start, stop)), seed, Slice(epoch, start, stop), device)))
            for start, stop in ((0, size), (0, size), (0, size // 2), (size // 2, size))
        )
        for name, leaf in whole.items():
            where = f"{name} " if name else ""
            if _are_apart(leaf, again[name]):
                raise PlanError(
                    "task",
                    f"its prepare gives another {where}when it prepares the same {size} samples once more in {mode}: it draws random numbers itself,"
                    " which micro-batches, workers and a resume would change.",
                    "Draw by its argument, such as draws.uniform('noise') or draws.normal('noise', *shape): these numbers belong to the samples.",
                )
            if size > 1 and _are_apart(leaf, torch.cat([first[name], second[name]])):
                raise PlanError(
                    "task",
                    f"its prepare makes of a sample's {where}what depends on the others that it prepares with it in {mode} ({size} at once, or in two"
                    " halves): micro-batches and workers would change the result.",
                    "Let each sample follow from its own numbers and draws: no mean over the batch, no mixing of its samples.",
                )


def _are_apart(leaf: Tensor, other: Tensor) -> bool:
    if leaf.dtype != other.dtype or leaf.shape != other.shape:
        return True
    return not torch.equal(leaf, other) and difference([leaf.double()], [other.double()]) > ROUNDING


def refuse_odd_weights(task: Task, batch: Tree) -> None:
    """Raise PlanError for weights of a person's own task that no mean can be taken with, by the sample's number, and that are no sum over samples."""
    size = num_samples(batch)
    weights = [_weight(task, batch, number, number + 1) for number in range(size)]
    for number, weight in enumerate(weights):
        if not 0 <= weight < math.inf:
            problem = f"training sample {number} weighs {weight:g} by its weight; weights must be finite, and at least 0."
            raise PlanError("task", problem, "A sample of weight 0 does not count.")
    together = _weight(task, batch, 0, size)
    if not math.isclose(together, sum(weights), rel_tol=ROUNDING):
        raise PlanError(
            "task",
            f"its weight is no sum over samples: {size} samples weigh {together:g} together and {sum(weights):g} one by one; micro-batches and"
            " workers would change the result.",
            "Return the sum of what each sample weighs, never a mean.",
        )


def _weight(task: Task, batch: Tree, start: int, stop: int) -> float:
    try:
        weight = task.weight(rows(batch, start, stop))
        if isinstance(weight, Tensor) and weight.numel() != 1:
            problem = f"its weight over a batch is {tuple(weight.shape)}; it must be one number, the sum over the samples."
            raise PlanError("task", problem, "End it with .sum().")
        return float(weight)
    except LargebatchError:
        raise
    except ANYTHING as error:
        which = f"training sample {start}" if stop == start + 1 else f"{stop - start} training samples"
        raise PlanError("task", f"its weight failed on {which}: {described(error)}.", "Give one number, the sum.") from error


def refuse_no_scores(passes: Passes, batch: Tree) -> None:
    """Raise PlanError for a person's own metrics that are no numbers; what a few samples leave undefined is a number later."""
    task, size = passes.task, num_samples(batch)
    try:
        sums = passes.metric_sums(batch)
    except ANYTHING as error:
        if isinstance(error, LargebatchError) or ran_out_of_memory(error):
            raise
        raise PlanError("task", f"its metric_sums failed on {size} samples: {described(error)}.", "Mend it.") from error
    for name, total in sums.items():
        if math.isnan(total) and not math.isnan(sums.get(LOSS.name, 0.0)):
            problem = f"its metric_sums give nan as {name} of {size} samples: no sum over more of them would be a number."
            raise PlanError("task", problem, "Let a sample for which it is not defined add 0, and count those for which it is.")
    if (weight := sums.pop(WEIGHT)) > 0:
        try:
            scores = scores_of(task, sums, weight, "before training")
        except CodeError as error:
            raise PlanError("task", error.problem, "Mend its metrics.") from error
        _refuse_kept_scores(passes, batch, sums, weight, scores)


def _refuse_kept_scores(passes: Passes, batch: Tree, sums: dict[str, float], weight: float, scores: dict[str, float]) -> None:
    """Raise PlanError for scores that are others of the same sums once other samples were measured: `metric_sums` keeps something in the task."""
    task = passes.task
    for size in (0, num_samples(batch) // 2):
        if size:
            passes.metric_sums(rows(batch, 0, size))
        try:
            again = scores_of(task, sums, weight, "before training")
        except LargebatchError:  # nothing is kept any more, most often
            again = {}
        for name, score in sorted(scores.items(), key=lambda named: named[0] == LOSS.name):
            if not (again.get(name) == score or (math.isnan(score) and math.isnan(again.get(name, 0.0)))):
                raise PlanError(
                    "task",
                    f"its {name} is made of more than the sums that its metrics are given: of the same sums it is {score:g}, and"
                    f" {f'{again[name]:g}' if name in again else 'none'} after other samples were measured. What metric_sums keeps in the task is"
                    " neither added up over workers nor empty when an evaluation begins.",
                    "Make scores of the sums alone: counts by score, say, for a ranking, or sums and squares for a correlation.",
                )


def refuse_no_sums(passes: Passes, batch: Tree) -> None:
    """Raise PlanError for a person's own metrics that are no sums: of some samples another number than of two parts of them together.

    Those that draw at random are not tried, nor those of more samples than these.
    """
    size, outputs = num_samples(batch), passes.given_in_evaluation(batch)

    def sums(start: int, stop: int, seed: int = 0) -> dict[str, float]:
        seed_draws(key("sums", seed), passes.device)
        forward = rows_of_outputs(outputs, size, start, stop)
        return numbers_of(sums_of(passes.task, forward, map_leaves(Tensor.clone, rows(batch, start, stop)), passes.device))

    for middle in {size // 2, size // 2 - 1} - {0, -1}:
        try:
            with torch.no_grad():
                whole, again, first, second = sums(0, size), sums(0, size, seed=1), sums(0, middle), sums(middle, size)
        except ANYTHING as error:  # outputs that cannot be cut, too
            if ran_out_of_memory(error):
                raise
            return
        least = CANCELLED * max(map(abs, whole.values()))
        for name, total in whole.items():
            parts = first.get(name, 0.0), second.get(name, 0.0)
            apart, largest = abs(total - sum(parts)), max(abs(total), *map(abs, parts))
            if again.get(name) == total and math.isfinite(apart) and apart > max(ROUNDING_OF_SUMS * largest, least):
                raise PlanError(
                    "task",
                    f"its {name} is no sum over samples: with the same outputs of the model, {size} samples give {total:g}, and {middle} and"
                    f" {size - middle} of them {parts[0]:g} and {parts[1]:g}; how many are evaluated at once would change the score.",
                    "Return sums and counts by metric_sums, and make of them what is no mean, such as F1, in metrics(sums, weight).",
                )


def refuse_odd_blocks(task: CoupledTask, passes: Passes, batch: Tree) -> None:
    """Raise PlanError for a loss of a person's own that couples samples, where its blocks are no numbers with a gradient, or follow their split."""
    size, given = num_samples(batch), passes.embeddings(task, batch)
    embeddings = Embeddings(*(tensor.detach().clone().requires_grad_() for tensor in given))

    def loss_of(start: int, stop: int) -> float:
        total = 0.0
        with errors_in_words(batch, "training", passes.model, task), torch.enable_grad():
            for piece in task.loss_blocks(embeddings, start, stop):
                refuse_no_sum(piece)
                if not piece.requires_grad:
                    raise PlanError("task", "its loss_blocks give a piece without a gradient.", "Leave out torch.no_grad(), .detach() and .item().")
                total += float(piece.detach())
        return total

    whole, halves = loss_of(0, size), loss_of(0, size // 2) + loss_of(size // 2, size)
    if math.isfinite(whole) and abs(whole - halves) > ROUNDING_OF_SUMS * max(abs(whole), abs(halves)):
        raise PlanError(
            "task",
            f"its loss_blocks of {size} rows give {whole:g} at once, and {halves:g} in two halves: workers, which have rows of their own, would"
            " change the loss.",
            "Let the pieces of any rows add up to the loss summed over the batch: no mean over the rows, and nothing drawn at random.",
        )
