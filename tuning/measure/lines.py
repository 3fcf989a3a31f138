"""What lies between two solutions: loss and score along a straight and a curved line (Keskar et al., arXiv:1609.04836),
and the figure of it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from largebatch.jobs.engine.evaluation.evaluate import evaluate
from largebatch.jobs.errors import InputError
from largebatch.jobs.models.norms.ghost_batch_norm import forward_pass_of
from largebatch.jobs.models.snapshot import restored
from largebatch.jobs.preparing.batches import evaluation_batches
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.samples.dataset import EvaluatedOn
from largebatch.jobs.samples.trees import num_samples
from largebatch.jobs.tasks.metric import ACCURACY, Metric
from largebatch.jobs.tracking.params import flat
from largebatch.tuning.measure.solution import CHUNK, Solution
from largebatch.tuning.report.charts import Chart, Series
from largebatch.tuning.results.run_result import part_in_words

LINE_POINTS = 25


class LinePoint(NamedTuple):
    """One place on the way from one solution to another."""

    at: float
    """0: the first; 1: the second."""
    train_loss: float
    train_score: float
    """The headline metric."""
    loss: float
    """On the part that the first solution's run was evaluated on while training."""
    score: float


def refuse_unlike(first: Solution, second: Solution) -> None:
    """Raises: InputError for solutions of two architectures, or trained or evaluated on different data: nothing of them can be compared."""
    of_first, of_second = (part_in_words(flat(one.job.spec.model_dump(mode="json")), "dataset") for one in (first, second))
    if of_first != of_second:
        told = f"{second.name} was trained on {of_second}, {first.name} on {of_first}: losses of different data cannot be compared."
        raise InputError("RUN2", told, "Give two runs on the same data.")
    if (part := first.job.dataset.evaluated_on) != (other := second.job.dataset.evaluated_on):
        told = f"{second.name} was evaluated on its {other} samples, {first.name} on its {part} samples."
        raise InputError("RUN2", told, "Give two runs that were chosen by the same part.")
    if [parameter.shape for parameter in first.parameters] != [parameter.shape for parameter in second.parameters]:
        raise InputError("RUN2", f"{second.name} has other weights than {first.name}: no line joins them.", "Give two runs of one model.")


def line(first: Solution, second: Solution, *, is_curved: bool = False, points: int = LINE_POINTS) -> list[LinePoint]:
    """Losses and scores along f(a x_2 + (1 - a) x_1), or f(sin(a pi/2) x_2 + cos(a pi/2) x_1), for a from -1 to 2.

    Of training samples and of what the runs were evaluated on: where that is a validation part, the test set stays out of sight.
    Running statistics mean nothing between two networks, so batch-norm takes those of the samples at each place.
    Raises: InputError for two architectures, different data, or a model that fails on the way; FaultError.
    """
    refuse_unlike(first, second)
    name, dataset = first.job.metric.name, first.job.dataset
    one, other = first.weights, second.weights
    state = new_state(first.job)
    state.model, state.average = first.model, None
    walked = []
    with restored(first.model):
        for at in np.linspace(-1, 2, points):
            to, of = (math.sin(at * math.pi / 2), math.cos(at * math.pi / 2)) if is_curved else (at, 1 - at)
            first.put(float(to) * other + float(of) * one)
            with first.named("fails on the way"):
                _take_statistics(first)
                train, evaluated = (
                    evaluate(state, evaluation_batches(first.job, part), count, first.job.spec.precision)
                    for part, count in ((first.part, first.num_samples), (dataset.evaluated, len(dataset.evaluated)))
                )
                first.model.eval()  # evaluating leaves it ready to train on
            walked.append(LinePoint(float(at), train["loss"], train[name], evaluated["loss"], evaluated[name]))
    return walked


@torch.no_grad()
def _take_statistics(solution: Solution) -> None:
    """Let every batch-norm average its statistics over the samples."""
    if not solution.moving:
        return
    forward_pass = forward_pass_of(solution.model)
    held = [norm.momentum for norm in solution.moving]
    span, forward_pass.span = forward_pass.span, CHUNK
    for norm in solution.moving:
        norm.train()
    for number, batch in enumerate(solution.chunks(CHUNK), 1):
        for norm in solution.moving:
            norm.momentum = 1 / number  # a plain average; the first takes the place of what was there
        forward_pass.begin(num_samples(batch))
        solution.job.task.probe(solution.model, batch)
    forward_pass.forget()
    forward_pass.span = span
    for norm, momentum in zip(solution.moving, held, strict=True):
        norm.momentum = momentum
        norm.eval()


def line_chart(
    name: str, points: Sequence[LinePoint], small: str, large: str, caption: str, metric: Metric = ACCURACY, evaluated_on: EvaluatedOn = "test"
) -> Chart:
    """Loss and score on the way from one solution to the other; of a fraction that should be large, what it lacks of 1."""
    at, shows_error = [point.at for point in points], metric.is_fraction and metric.better == "higher"
    what = "error" if shows_error else metric.name
    y_title = f"loss, and error (1 - {metric.name})" if shows_error else f"loss, and {metric.name}"
    train, evaluated = (
        [1 - score if shows_error else score for score in side]
        for side in ([point.train_score for point in points], [point.score for point in points])
    )
    return Chart(
        f"line-{name}", f"Along the {name} line between two solutions", f"0: {small}; 1: {large}", y_title,
        [Series("train loss", at, [point.train_loss for point in points]), Series(f"{evaluated_on} loss", at, [point.loss for point in points]),
         Series(f"train {what}", at, train, dash=True, colour=0),
         Series(f"{evaluated_on} {what}", at, evaluated, dash=True, colour=1)],
        caption=caption, marks=[(0.0, small), (1.0, large)],
    )  # fmt: skip


def line_conditions(setting: str, seeds: Sequence[int], num_samples: int, evaluated_on: EvaluatedOn = "test") -> str:
    """The caption of `line_chart`: what was trained where, and what is measured.

    Args: setting: model, data set and device in words; seeds: of the two solutions; num_samples: training samples that were looked at.
    """
    kind = "test set" if evaluated_on == "test" else "validation part"
    return (
        f"{setting}; seeds {' and '.join(map(str, seeds))}; {num_samples:,} training samples and the whole {kind}, batch-norm "
        "statistics taken anew at each place; no clock, for nothing is timed"
    )
