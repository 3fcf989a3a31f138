"""Reads one sample of a data set by its number: a tree of tensors like all others; for classification an input and the number of a class."""

import operator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from largebatch.jobs.entry_points import ANYTHING, described
from largebatch.jobs.errors import DataError, LargebatchError
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.samples.number_ranges import AnyRange, NumberRange, TargetsOf
from largebatch.jobs.samples.trees import Tree, is_whole, map_leaves, named_leaves


class SampleForm(NamedTuple):
    """What all samples of a data set have in common."""

    leaves: tuple[tuple[str, tuple[int, ...], torch.dtype], ...]
    """Path, shape and type of each tensor; for classification of the input alone."""
    num_classes: int | None
    """None where samples have no labels."""
    ranges: tuple[AnyRange, ...] = ()
    """What numbers may be in some of the tensors."""

    @classmethod
    def of(cls, dataset: Dataset) -> "SampleForm":
        """The form of the samples of both parts."""
        if dataset.num_classes is None:
            return cls(dataset.sample_leaves, None, dataset.number_ranges)
        dtype = torch.uint8 if dataset.normalises else dataset.input_dtype  # before samples are made ready for the model
        return cls((("0", dataset.input_shape, dtype),), dataset.num_classes)


def read_sample(part: Any, index: int, field: str, kind: str, has_label: bool) -> Tree:
    """One sample as a tree of tensors on the CPU, plain numbers and arrays made tensors; with a label (input, class as 0-d int64).

    Args: kind: "training" or "test", for the sentence.
    Raises: DataError for a sample that cannot be read, or is something else.
    """
    try:
        sample = part[index]
    except LargebatchError:
        raise
    except ANYTHING as error:  # a person's own code may raise anything
        raise DataError(field, f"{kind} sample {index} cannot be read: {described(error)}.", "Mend or leave out that sample.") from error
    name = f"{kind} sample {index}"
    if not has_label:
        tree = _as_tensors(sample)
        if tree is None:
            hint = "torch.as_tensor makes tensors of arrays, torchvision's to_tensor of pictures."
            raise DataError(field, f"{name} is {in_words(sample)}; it must be a tensor, or a tuple, list or dict of tensors and numbers.", hint)
        for path, tensor in named_leaves(tree):
            _refuse_elsewhere(tensor, field, f"{path or 'the tensor'} of {name}")
        return tree
    if not (isinstance(sample, (tuple, list)) and len(sample) == 2 and isinstance(sample[0], Tensor)):
        hint = "torch.as_tensor makes tensors of arrays, torchvision's to_tensor of pictures."
        raise DataError(field, f"{name} is {in_words(sample)}; it must be (input tensor, label).", hint)
    inputs, label = sample
    _refuse_elsewhere(inputs, field, f"the input of {name}")
    return inputs, torch.tensor(label if type(label) is int else class_number(label, field, name))


def _as_tensors(value: Any) -> Tree | None:
    """A sample with its numbers and arrays made tensors; None where something in it is neither."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (bool, int)):
        return torch.tensor(value)
    if isinstance(value, float):
        return torch.tensor(value, dtype=torch.float32)
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufc":
        return torch.as_tensor(value)
    if isinstance(value, dict):
        inner = {key: _as_tensors(piece) for key, piece in value.items()}
        return None if not inner or any(piece is None for piece in inner.values()) else inner
    if isinstance(value, (tuple, list)):
        pieces = [_as_tensors(piece) for piece in value]
        return None if not pieces or any(piece is None for piece in pieces) else tuple(pieces)
    return None


def _refuse_elsewhere(tensor: Tensor, field: str, name: str) -> None:
    if tensor.requires_grad or tensor.layout != torch.strided or not tensor.is_cpu:
        refuse_unusual_tensor(tensor, field, name)
        raise DataError(field, f"{name} lies on {tensor.device}.", "Leave samples on the CPU; batches are moved for you.")


def in_words(sample: Any) -> str:
    """What kind of thing a sample is."""
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
    with suppress(TypeError, ValueError):
        return operator.index(label)
    if isinstance(label, float):
        hint = "Labels are the numbers of classes, 0, 1, ...; whole ones that came as float need int(label), and scores are not classes."
        raise DataError(field, f"the label of {name} is {label:g}, a floating-point number.", hint)
    if isinstance(label, str):
        raise DataError(field, f"the label of {name} is the text {label!r}.", "Labels are the numbers of classes, 0, 1, ...: number the classes.")
    shape = f" of shape {tuple(label.shape)}" if isinstance(label, (Tensor, np.ndarray)) else ""
    hint = "Give the number of its class: of a one-hot vector int(label.argmax())."
    raise DataError(field, f"the label of {name} is a {type(label).__name__}{shape}; it must be one whole number.", hint)


def refuse_other_form(sample: Tree, index: int, form: SampleForm, field: str, kind: str) -> None:
    """Raise DataError for a sample that does not go into one batch with the others, or belongs to no class."""
    name = f"{kind} sample {index}"
    own = list(named_leaves(sample))
    if form.num_classes is not None:
        (_, label), own = own[1], own[:1]
        if not 0 <= int(label) < form.num_classes:
            hint = "Labels count from 0; num_classes of the training set says how many there are."
            raise DataError(field, f"label {int(label)} of {name} is not in 0 ... {form.num_classes - 1}.", hint)
    if [path for path, _ in own] != [path for path, _, _ in form.leaves]:
        paths = [", ".join(path or "one tensor" for path in side) for side in ([path for path, _ in own], [path for path, _, _ in form.leaves])]
        raise DataError(field, f"{name} has {paths[0]}, where sample 0 has {paths[1]}.", "Give all samples the same parts.")
    for (path, tensor), (_, shape, dtype) in zip(own, form.leaves, strict=True):
        part = f" in {path}" if len(form.leaves) > 1 else ""
        if tensor.shape != shape:
            problem = f"{name} has shape {tuple(tensor.shape)}{part}, where sample 0 has {shape}."
            raise DataError(field, problem, "Bring all samples to one shape.")
        if tensor.dtype != dtype:
            raise DataError(field, f"{name} is {tensor.dtype}{part}, where sample 0 is {dtype}.", "Bring all samples to one type.")
    refuse_out_of_range(map_leaves(lambda leaf: leaf[None], sample), index, form.ranges, field, kind)


def refuse_out_of_range(batch: Tree, first: int, ranges: tuple[AnyRange, ...], field: str, kind: str) -> None:
    """Raise DataError for numbers that the task cannot read, naming the sample.

    Args: batch: consecutive samples; first: the number of the first of them.
    """
    tensors = dict(named_leaves(batch)) if ranges else {}
    for each in ranges:
        if each.path not in tensors or (isinstance(each, NumberRange) and not is_whole(tensors[each.path])):
            continue
        if isinstance(each, TargetsOf):
            each.refuse_others(tensors[each.path], tensors[each.tokens], first, field, kind)
        else:
            each.refuse_others(tensors[each.path], first, field, kind)
