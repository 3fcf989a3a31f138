"""Task: the loss that a run minimises and the metrics that it is judged by, written once for step, evaluation and every probe.

A loss is a sum over samples, and each sample has a weight. The engine adds sums over all micro-batches and all ranks, adds
weights likewise, and divides once:

    L = sum_i l_i / sum_i w_i

so that how a batch is split can change nothing. The weight of a sample is 1 unless a task says otherwise: a sequence
weighs the tokens that count, a sample of a rare class what its class weighs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from largebatch.jobs.entry_points import raised_by
from largebatch.jobs.errors import PlanError
from largebatch.jobs.samples.sample_draws import SampleDraws
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import Tree, named_leaves, num_samples
from largebatch.jobs.tasks.metric import LOSS, Metric

Batch = Tree
"""A tree (tuple, list, dict) of tensors that have samples in dimension 0, on the model's device."""
Forward = Callable[..., Any]
"""What is called on a batch's inputs: the model, or its compiled form."""


class Task(ABC):
    """Loss and metrics of one kind of work; a person's own inherits from it, and gives two methods at the least."""

    headline: Metric = LOSS
    """The score that targets, best checkpoints and comparisons are about, unless the run's target names another."""
    others: tuple[Metric, ...] = ()
    """The other metrics; "loss" need not be named."""

    @abstractmethod
    def loss_sum(self, model: Forward, batch: Batch) -> Tensor:
        """The loss in training summed over the samples, each times its weight: 0-d, with a gradient, not divided by anything."""

    @abstractmethod
    def metric_sums(self, model: Forward, batch: Batch) -> dict[str, Tensor]:
        """Sums over the samples in evaluation, 0-d, by name; "loss" is the summed loss."""

    def meet(self, model: nn.Module) -> None:  # noqa: B027
        """Look at the model that the task will be called with, before anything is passed through it in training."""

    def prepare(self, batch: Batch, draws: SampleDraws) -> Batch:
        """Change a batch before the model sees it, in training and in evaluation, by draws that belong to its samples: masks, noise."""
        return batch

    def prepared(self, batch: Batch, seed: int, samples: Slice, device: torch.device) -> Batch:
        """What the engine calls: `prepare` with the draws of these samples. Raises: PlanError where it gives another number of them."""
        if self._is_usual("prepare"):
            return batch
        given = self.prepare(batch, SampleDraws(seed, samples, device))
        _refuse_other_rows(given, samples.size)
        return given

    def _is_usual(self, method: str) -> bool:
        """Whether a method is what every task has: neither of a class of a person's own nor put on this object."""
        return getattr(getattr(self, method), "__func__", None) is getattr(Task, method)

    def probe(self, model: Forward, batch: Batch) -> Tensor:
        """A number that every sample adds its own part to, by what the model makes of it: what a model is tried with before training."""
        return self.loss_sum(model, batch)

    def refuse_output(self, output: Any, batch: Batch, mode: str) -> None:  # noqa: B027
        """Raise PlanError for an output of the model that the task can do nothing with. Args: mode: "training" or "evaluation"."""

    def weight(self, batch: Batch) -> Tensor:
        """What the mean divides by, of a batch: 0-d. By default each sample weighs 1."""
        return torch.tensor(float(num_samples(batch)))

    def metrics(self, sums: dict[str, float], weight: float) -> dict[str, float]:
        """Scores from sums over a whole part of the data. By default each sum over the weight."""
        return {name: total / weight for name, total in sums.items()}

    @property
    def counts_samples(self) -> bool:
        """Whether every sample weighs 1, so that a step's weight is known before its samples are read."""
        return self._is_usual("weight")

    def all_metrics(self) -> tuple[Metric, ...]:
        """Every metric, the headline first; the loss is always one."""
        named = (self.headline, *self.others)
        return named if any(metric.name == LOSS.name for metric in named) else (*named, LOSS)


def _refuse_other_rows(batch: Batch, size: int) -> None:
    """Raise PlanError for a prepared batch whose tensors have not one row for each sample: weights and splits of a batch count these."""
    hint = "Give tensors with the samples in dimension 0, as they came; several views of a sample can stand in another dimension."
    try:
        named = list(named_leaves(batch))
    except TypeError as error:
        raise PlanError("task", f"its prepare gives what is no batch: {error}.", hint) from error
    if not named:
        raise PlanError("task", f"its prepare gives no tensor for {size} sample{'s' if size > 1 else ''}.", hint)
    for name, leaf in named:
        if leaf.shape[:1] != (size,):
            where = f"{tuple(leaf.shape)} in {name}" if name else f"{tuple(leaf.shape)}"
            raise PlanError("task", f"its prepare gives {where} for {size} sample{'s' if size > 1 else ''}.", hint)


def is_of_task(error: BaseException, task: Task, model: object) -> bool:
    """Whether a person's own task raised an error, and not the model that it called; what one of ours raises is the model's or the data's."""
    is_own = not type(task).__module__.startswith("largebatch.")
    return is_own and raised_by(error, task, model) is task
