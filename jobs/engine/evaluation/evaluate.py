"""Evaluation on a whole part of a data set: the task's sums over all samples on all ranks, divided once."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from largebatch.jobs.data.batches import Batches
from largebatch.jobs.engine.evaluation.forward import (
    WEIGHT,
    Seen,
    evaluation_share,
    evaluation_weights,
    halve,
    samples_at_once,
    seen_if_it_fits,
    whole_groups,
)
from largebatch.jobs.engine.evaluation.norms_at_average import settle_norms
from largebatch.jobs.engine.gradient.two_pass import gathered
from largebatch.jobs.engine.non_finite import FiniteBatches, non_finite_error
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.entry_points import ANYTHING, failed
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.norms.ghost_batch_norm import evaluation_unit
from largebatch.jobs.tasks.base import Task
from largebatch.jobs.tasks.contrastive import CoupledTask, Embeddings
from largebatch.jobs.tasks.nearest_neighbours import Labelled

Scores = dict[str, float]
"""Each metric's value by its name; "loss" is always one, without label smoothing."""
ROUNDING = 1e-3
"""Of a fraction, a ratio of two sums: it may come out a little beyond 0 or 1."""


@torch.no_grad()
def evaluate(
    state: TrainState,
    batches: Batches,
    num_samples: int,
    precision: str,
    notify: Callable[[str], Any] = lambda text: None,
) -> Scores:
    """The scores on samples 0 ... num_samples - 1, every one once, each rank counting its share; the references, where there are some, too.

    Args:
        precision: "float32" or "bfloat16".
        notify: told in words when memory ran out and fewer samples are passed forward at once.
    Raises: LargebatchError, the same on every rank, for a sample that cannot be read or where not even one fits.
    """
    settle_norms(state, precision, notify)
    unit = evaluation_unit(state.model)

    def seen_of(batches: Batches, num_samples: int) -> list[Any]:
        share = evaluation_share(num_samples, state.ranks, unit)
        kept: list[Any] = []
        start = share.start
        while start < share.stop:
            size = samples_at_once(state.micro_batch_size, state.evaluation_batch_size)
            samples = whole_groups(share, start, size, unit)
            seen = seen_if_it_fits(state, batches, samples, precision)
            if seen is None:
                halve(state, samples.size, unit, notify)
                continue
            _keep(seen, kept)
            start = samples.stop
        return kept

    references = state.references
    with evaluation_weights(state):
        seen = state.ranks.agreed(lambda: seen_of(batches, num_samples))
        seen_references = state.ranks.agreed(lambda: seen_of(references.batches, references.num_samples)) if references else []
    state.buffers.forward_pass.forget()
    if isinstance(state.task, CoupledTask):
        embeddings, labelled, partners = _everyones(state.ranks, seen, num_samples, unit)
        compared = _everyones(state.ranks, seen_references, references.num_samples, unit)[1] if references else None
        known = {} if partners is None else {"partners": partners}
        return coupled_scores(state.task, embeddings, labelled, compared, known, f"after step {state.progress.step}")
    return _scores(state, numbers_of(seen[0]) if seen else {})


def _keep(seen: Any, kept: list[Any]) -> None:
    """Take note of what some samples gave: sums are added up at once."""
    if isinstance(seen, dict) and kept:
        kept[0] |= {name: kept[0][name] + value if name in kept[0] else value for name, value in seen.items()}
    else:
        kept.append(seen)


def _everyones(ranks: Ranks, own: list[Seen], num_samples: int, unit: int) -> Seen:
    """What all ranks' samples gave, in the samples' order."""
    sizes = [evaluation_share(num_samples, ranks, unit, rank).size for rank in range(ranks.world_size)]
    pieces = [(*seen.embeddings, *(() if seen.partners is None else (seen.partners,)), *(seen.labelled or ())) for seen in own]
    tensors = gathered(ranks, pieces, sizes)
    embeddings, others = tensors[: len(Embeddings._fields)], tensors[len(Embeddings._fields) :]
    partners = others.pop(0) if len(others) % len(Labelled._fields) else None
    return Seen(Embeddings(*embeddings), Labelled(*others) if others else None, partners)


def _scores(state: TrainState, own: dict[str, float]) -> Scores:
    """The metrics of all ranks' sums; a rank without samples has none. Raises: PlanError, on every rank, where they are no numbers."""
    names = list(dict.fromkeys(name for names in state.ranks.gathered(list(own)) for name in names))
    sums = dict(zip(names, state.ranks.sum_numbers(*(own.get(name, 0.0) for name in names)), strict=True))
    weight = sums.pop(WEIGHT)
    if not 0 < weight < math.inf:
        hint = "Give some of them a weight." if weight == 0 else "Weights must be finite, and at least 0."
        raise PlanError("task", f"the samples of an evaluation weigh {weight:g} together, and a mean divides by that.", hint)
    return scores_of(state.task, sums, weight, f"after step {state.progress.step}")


def scores_of(task: Task, sums: dict[str, float], weight: float, when: str) -> Scores:
    """The task's metrics of sums over samples. Raises: PlanError where they are no numbers; InputError or CodeError for what they raise."""
    try:
        scores = {"loss": sums["loss"] / weight, **task.metrics(dict(sums), weight)}
    except ANYTHING as error:  # a person's own code may raise anything
        raise failed("task", error, f"{when}, making scores of {', '.join(sums)}") from error
    return _as_numbers(task, scores, when)


def coupled_scores(
    task: CoupledTask, embeddings: Embeddings, labelled: Labelled | None, references: Labelled | None, known: dict[str, Tensor], when: str
) -> Scores:
    """The task's metrics of all samples' embeddings. Raises: as `scores_of`. Args: known: what else it is given."""
    try:
        scores = dict(task.coupled_metrics(embeddings, labelled, references, **known))
    except ANYTHING as error:
        raise failed("task", error, f"{when}, making scores of {len(embeddings.first)} samples") from error
    return _as_numbers(task, scores, when)


def _as_numbers(task: Task, scores: dict[str, Any], when: str) -> Scores:
    for name in (metric.name for metric in task.all_metrics()):
        if not isinstance(scores.get(name), (int, float)):
            given = f"its metric {name} is a {type(scores[name]).__name__}" if name in scores else f"its metrics give no number for {name}"
            raise PlanError("task", f"{given}; they give {', '.join(scores)}.", "Return a number for each metric that it names.")
    for name in (metric.name for metric in task.all_metrics() if metric.is_fraction):
        if not -ROUNDING <= scores[name] <= 1 + ROUNDING and math.isfinite(scores[name]):
            problem = f"its metric {name} is {scores[name]:g} {when}, and it was declared a fraction."
            raise PlanError("task", problem, "Divide it by what it is a share of, or declare it without is_fraction.")
    numbers: Scores = {}
    for name, score in scores.items():  # further ones, too
        try:
            numbers[name] = float(score)
        except (TypeError, ValueError, RuntimeError) as error:
            problem = f"its metrics give {name}, which none of its metrics is called, and it is a {type(score).__name__}."
            raise PlanError("task", problem, "Return numbers alone.") from error
    return numbers


def numbers_of(sums: dict[str, Tensor]) -> dict[str, float]:
    """Sums on the host; of several in one tensor each by its place: "targets.0", "targets.1" and so on."""
    numbers: dict[str, float] = {}
    for name, total in sums.items():
        numbers |= {f"{name}.{place}": number for place, number in enumerate(total.tolist())} if total.ndim else {name: float(total)}
    return numbers


def refuse_non_finite_samples(state: TrainState, batches: Batches, num_samples: int, precision: str, kind: str = "test") -> None:
    """Raise DataError, the same on every rank, if the loss on the samples of a part is finite but for those that hold NaN or infinity.

    Args: kind: the part's name, for the sentence.
    """
    finite = FiniteBatches(batches)
    if math.isfinite(evaluate(state, finite, num_samples, precision)["loss"]):
        num_read = evaluation_share(num_samples, state.ranks).size
        state.ranks.raise_first(non_finite_error(kind, finite.replaced, num_read, f"the {kind} loss"))
