"""Reads one sample of a data set by its number: an input tensor like all others, and the number of a class."""

import operator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from largebatch.jobs.data.dataset import Dataset
from largebatch.jobs.entry_points import ANYTHING, described
from largebatch.jobs.errors import DataError, LargebatchError


class SampleForm(NamedTuple):
    """The shape, type and number of classes that all samples of a data set have in common."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    num_classes: int

    @classmethod
    def of(cls, dataset: Dataset) -> "SampleForm":
        """The form of the samples of both parts."""
        return cls(dataset.input_shape, dataset.sample_dtype, dataset.num_classes)


def read_sample(part: Any, index: int, field: str, kind: str) -> tuple[Tensor, int]:
    """(input, label) of one sample, as the part gives it.

    Args: kind: "training" or "test", for the sentence.
    Raises: DataError for a sample that cannot be read, or is no input tensor with a whole number.
    """
    try:
        sample = part[index]
    except LargebatchError:
        raise
    except ANYTHING as error:  # a person's own code may raise anything
        raise DataError(field, f"{kind} sample {index} cannot be read: {described(error)}.", "Mend or leave out that sample.") from error
    if not (isinstance(sample, (tuple, list)) and len(sample) == 2 and isinstance(sample[0], Tensor)):
        hint = "torch.as_tensor makes tensors of arrays, torchvision's to_tensor of pictures."
        raise DataError(field, f"{kind} sample {index} is {_in_words(sample)}; it must be (input tensor, label).", hint)
    inputs, label = sample
    if inputs.requires_grad or inputs.layout != torch.strided or not inputs.is_cpu:
        refuse_unusual_tensor(inputs, field, f"the input of {kind} sample {index}")
        raise DataError(field, f"the input of {kind} sample {index} lies on {inputs.device}.", "Leave samples on the CPU; batches are moved for you.")
    return inputs, label if type(label) is int else class_number(label, field, f"{kind} sample {index}")


def _in_words(sample: Any) -> str:
    if sample is None:
        return "None"
    if isinstance(sample, dict):
        return f"a dict with {', '.join(map(str, sample))}"
    inner = f" of {', '.join(type(piece).__name__ for piece in sample)}" if isinstance(sample, (tuple, list)) else ""
    return f"a {type(sample).__name__}{inner}"


def refuse_unusual_tensor(inputs: Tensor, field: str, name: str) -> None:
    """Raise DataError for inputs that training would not take as they are."""
    if inputs.requires_grad:
        raise DataError(field, f"{name} requires a gradient, and inputs are not trained.", "Give .detach() of it, or make it under torch.no_grad().")
    if inputs.layout != torch.strided:
        raise DataError(field, f"{name} is sparse ({str(inputs.layout).removeprefix('torch.')}).", "Give .to_dense() of it.")


def class_number(label: Any, field: str, name: str) -> int:
    """A label as a plain number. Raises: DataError for everything but a whole number: nothing is rounded, cut or parsed."""
    size = label.numel() if isinstance(label, Tensor) else label.size if isinstance(label, (np.ndarray, np.generic)) else None
    if size == 1:
        label = label.item()
    try:
        return operator.index(label)
    except (TypeError, ValueError):
        pass
    if isinstance(label, float):
        hint = "Labels are the numbers of classes, 0, 1, ...; whole ones that came as float need int(label), and scores are not classes."
        raise DataError(field, f"the label of {name} is {label:g}, a floating-point number.", hint)
    if isinstance(label, str):
        raise DataError(field, f"the label of {name} is the text {label!r}.", "Labels are the numbers of classes, 0, 1, ...: number the classes.")
    shape = f" of shape {tuple(label.shape)}" if isinstance(label, (Tensor, np.ndarray)) else ""
    hint = "Give the number of its class: of a one-hot vector int(label.argmax())."
    raise DataError(field, f"the label of {name} is a {type(label).__name__}{shape}; it must be one whole number.", hint)


def refuse_other_form(sample: tuple[Tensor, int], index: int, form: SampleForm, field: str, kind: str) -> None:
    """Raise DataError for a sample that does not go into one batch with the others, or belongs to no class."""
    inputs, label = sample
    if inputs.shape != form.shape:
        problem = f"{kind} sample {index} has shape {tuple(inputs.shape)}, where sample 0 has {form.shape}."
        raise DataError(field, problem, "Bring all samples to one shape.")
    if inputs.dtype != form.dtype:
        raise DataError(field, f"{kind} sample {index} is {inputs.dtype}, where sample 0 is {form.dtype}.", "Bring all samples to one type.")
    if not 0 <= label < form.num_classes:
        hint = "Labels count from 0; num_classes of the training set says how many there are."
        raise DataError(field, f"label {label} of {kind} sample {index} is not in 0 ... {form.num_classes - 1}.", hint)
