"""Chooses training samples: those that are held out, by which a run is judged while it trains, and some that stand for all."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from largebatch.jobs.errors import DataError, SpecError
from largebatch.jobs.samples.dataset import Dataset, EvaluatedOn, Held, Tensors
from largebatch.jobs.samples.keyed_random import key, sample_order

FIELD = "dataset.validation"


def hold_out(dataset: Dataset, amount: int | float) -> Dataset:
    """The data set with a validation part that is taken from its training samples; both keep the file's order.

    Which samples follows from their number alone, never from a run's seed, so all runs of a sweep hold out the same. Of text that is held as
    one stretch of tokens it is the end: its neighbours would tell of a sequence in the middle. Targets of neither part are the other's.

    Args: amount: samples, or a fraction of them between 0 and 1, rounded.
    Raises: SpecError where there is a validation part; DataError for a part without samples, or one that leaves none.
    """
    if dataset.validation is not None:
        raise SpecError(FIELD, f"{dataset.name} gives a validation set of its own.", "Leave dataset.validation out.")
    total = len(dataset.train)
    number = amount if isinstance(amount, int) else round(amount * total)
    if number < 1:
        raise DataError(FIELD, f"{amount:g} of {total} training samples is none.", "Hold out more, or leave dataset.validation out.")
    if number >= total:
        raise DataError(FIELD, f"holding out {number} of {total} training samples leaves none to train on.", "Hold out fewer.")
    if isinstance(dataset.train, Tensors) or not isinstance(dataset.train, Held):
        order = sample_order(0, key("validation split"), total)
        rest, held_out = order[number:].sort().values, order[:number].sort().values
    else:
        rest, held_out = torch.arange(total - number), torch.arange(total - number, total)
    return replace(dataset, train=_selected(dataset.train, rest), validation=_selected(_for_evaluation(dataset.train), held_out))


def evaluated_by(dataset: Dataset, part: EvaluatedOn | None) -> Dataset:
    """The data set with the part that a spec wants evaluated while training. Raises: SpecError where there is no such part."""
    if part == "validation" and dataset.validation is None:
        problem = f"{dataset.name} has no validation part, so there is none to evaluate."
        raise SpecError("evaluation.part", problem, "Hold one out with dataset.validation, or leave evaluation.part out.")
    return replace(dataset, part=part)


def some_samples(part: Any, number: int) -> Any:
    """`number` samples from the whole length of the training part, or all where there are fewer, the same for every run, without random changes.

    The first ones would not do: files have an order, one book after the other, one class after the other.
    """
    if number >= len(part):
        return _for_evaluation(part)
    return _selected(_for_evaluation(part), sample_order(0, key("references"), len(part))[:number].sort().values)


def mixed_samples(part: Any, number: int) -> Any:
    """The same, in an order of chance: samples that follow each other are as unlike as those of a batch in training."""
    return _selected(_for_evaluation(part), sample_order(0, key("references"), len(part))[:number])


def refuse_too_few_left(dataset: Dataset, amount: int | float | None, global_batch_size: int) -> None:
    """Raise DataError where holding out samples leaves fewer than one global batch."""
    left = len(dataset.train)
    if amount is not None and dataset.validation is not None and left < global_batch_size <= left + len(dataset.validation):
        problem = f"holding out {len(dataset.validation)} samples leaves {left} to train on, fewer than batch.global_batch_size {global_batch_size}."
        raise DataError(FIELD, problem, "Hold out fewer, or use a smaller batch.")


def _selected(part: Any, indices: Tensor) -> Any:
    return part.select(indices) if isinstance(part, Held) else Subset(part, indices.tolist())


def _for_evaluation(part: Any) -> Any:
    """A part without random changes where it can be had so: an image folder's; a person's own set changes its samples itself."""
    return part.for_evaluation() if hasattr(part, "for_evaluation") else part
