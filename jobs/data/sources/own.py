"""Loads a person's own data set, two or three parts by one entry point; what would be read wrongly is refused by name."""

import math
import operator
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from largebatch.jobs.data.read_again import read_again
from largebatch.jobs.data.read_sample import SampleForm, in_words, read_sample, refuse_other_form, refuse_out_of_range, refuse_unusual_tensor
from largebatch.jobs.entry_points import ANYTHING, call_entry_point, described
from largebatch.jobs.errors import DataError
from largebatch.jobs.samples.dataset import Dataset, Images, Tensors, are_channels_last, refuse_bad_labels
from largebatch.jobs.samples.trees import leaves, named_leaves
from largebatch.jobs.spec.model_and_data import DatasetSpec
from largebatch.jobs.tasks.registry import TaskConfig

FIELD = "dataset.entry_point"
KINDS = {2: ("training", "test"), 3: ("training", "validation", "test")}
"""What the parts are, by how many there are."""
MAP_STYLE = "Make it map-style: __len__, and __getitem__(index) that gives (input tensor, label)."
FOR_MODEL = ("num_outputs", "vocabulary_size", "sequence_length")
"""What a training set without classes may say of itself, for the model."""
CHUNK_ELEMENTS = 2**24
"""Numbers that are looked at for NaN at a time: what that takes in memory is a byte each."""


def load_own(spec: DatasetSpec, task: TaskConfig) -> Dataset:
    """The data set that a person's entry point returns, as a task reads it: (input tensor, number of a class), or any tree of tensors.

    Raises: SpecError, DataError.
    """
    name = spec.entry_point or ""
    parts = _parts(name, call_entry_point(FIELD, name, spec.arguments))
    hold = _labelled if task.takes_classes else _tensors
    by_kind = {kind: hold(part, kind) if _is_tensor_dataset(part) else part for kind, part in parts.items()}
    if any(len(part) == 0 for part in by_kind.values()):
        words = [f"{len(part)} {kind}" for kind, part in by_kind.items()]
        every = "both" if len(words) == 2 else "all"
        raise DataError(FIELD, f"returned {', '.join(words[:-1])} and {words[-1]} samples; {every} must have some.")
    if task.takes_classes:
        dataset = _with_classes(name, parts["training"], by_kind)
    else:
        _refuse_other_parts(by_kind["training"], task)
        dataset = _without_classes(name, parts["training"], by_kind, are_weighted="weight" in task.sample_parts)
    dataset = replace(dataset, number_ranges=task.number_ranges(dataset.for_model))
    for kind, part in by_kind.items():
        _refuse_bad_ends(part, kind, dataset)
    notices = (*_shared_in_words(parts), *_images_in_words(dataset), *_samples_in_words(dataset))
    return replace(dataset, notices=tuple(filter(None, notices)))


def _with_classes(name: str, given: Any, by_kind: dict[str, Any]) -> Dataset:
    """A data set of (input, label). Args: given: the training set as it was returned; by_kind: the parts as they are read."""
    first, *others = (part.inputs[0] if isinstance(part, Images) else read_sample(part, 0, FIELD, kind, True)[0] for kind, part in by_kind.items())
    for kind, other in zip([*by_kind][1:], others, strict=True):
        if (first.shape, first.dtype) != (other.shape, other.dtype):
            forms = " and ".join(f"{tuple(sample.shape)} {sample.dtype}" for sample in (first, other))
            raise DataError(FIELD, f"training and {kind} samples differ in shape or type: {forms}.", "Prepare both the same way.")
    num_classes = _num_classes_of(given)
    if num_classes is None:
        raise DataError(FIELD, "the number of classes is not known.", "Give the training set an attribute num_classes.")
    train, test, held_out = by_kind["training"], by_kind["test"], by_kind.get("validation")
    dataset = Dataset(name, train, test, num_classes, tuple(first.shape), input_dtype=first.dtype, validation=held_out)
    if dataset.normalises:
        if first.ndim != 3:
            problem = f"uint8 samples are taken for images (channels, height, width), and these are {tuple(first.shape)}."
            raise DataError(FIELD, problem, "Reshape them, or convert them to float32.")
        dataset = replace(dataset, input_dtype=torch.float32)
    return dataset


def _without_classes(name: str, given: Any, by_kind: dict[str, Any], *, are_weighted: bool) -> Dataset:
    """A data set of any tensors; nothing is normalised. Args: see `_with_classes`; are_weighted: samples are (input, target, weight)."""
    samples = [part.row(0) if isinstance(part, Tensors) else read_sample(part, 0, FIELD, kind, False) for kind, part in by_kind.items()]
    forms = [tuple((path, tuple(leaf.shape), leaf.dtype) for path, leaf in named_leaves(sample)) for sample in samples]
    for kind, form in zip([*by_kind][1:], forms[1:], strict=True):
        if form != forms[0]:
            words = " and ".join(", ".join(f"{path}: {shape} {dtype}" for path, shape, dtype in each) for each in (forms[0], form))
            raise DataError(FIELD, f"training and {kind} samples differ in shape or type: {words}.", "Prepare both the same way.")
    told = {option: _attribute(given, option) for option in FOR_MODEL}
    for_model = {option: _count(number, option) for option, number in told.items() if number is not None}
    if (num_classes := _num_classes_of(given, 3 if are_weighted else 2)) is not None:
        for_model = {"num_outputs": num_classes, "num_classes": num_classes, **for_model}
    _, shape, dtype = forms[0][-2 if are_weighted else -1]
    num_parts = len({path.partition(".")[0] for path, _, _ in forms[0]})
    if "num_outputs" not in for_model and num_parts == (3 if are_weighted else 2) and dtype.is_floating_point:  # of more, which is the target?
        for_model["num_outputs"] = max(math.prod(shape), 1)
    train, test, held_out = by_kind["training"], by_kind["test"], by_kind.get("validation")
    shape, dtype = forms[0][0][1:]
    padding_token = _token(_attribute(given, "padding_token"))
    return Dataset(name, train, test, None, shape, input_dtype=dtype, sample_leaves=forms[0], for_model=for_model, validation=held_out,
                   padding_token=padding_token)  # fmt: skip


def _refuse_other_parts(part: Any, task: TaskConfig) -> None:
    """Raise DataError where a training sample is no tuple of what a task of ours reads: a row of a tensor, or what no part stands for."""
    sample = part.row(0) if isinstance(part, Tensors) else read_sample(part, 0, FIELD, "training", False)
    needed = [name for name in task.sample_parts if not name.startswith("[")]
    if task.sample_parts and not (isinstance(sample, tuple) and len(needed) <= len(sample) <= len(task.sample_parts)):
        problem = f"training sample 0 is {in_words(sample)}, and {task.name} reads ({', '.join(task.sample_parts)})."
        raise DataError(FIELD, problem, "Give a tuple, in this order.")


def _parts(reference: str, returned: Any) -> dict[str, Any]:
    """The parts that were returned, by what they are called."""
    if not (isinstance(returned, tuple) or type(returned) is list) or len(returned) not in KINDS:
        inner = f" of {', '.join(type(part).__name__ for part in returned)}" if isinstance(returned, tuple) else ""
        hint = "Three sets are (training set, validation set, test set)." if isinstance(returned, (tuple, list)) else ""
        raise DataError(FIELD, f"{reference} must return (training set, test set); it returned a {type(returned).__name__}{inner}.", hint)
    parts = dict(zip(KINDS[len(returned)], returned, strict=True))
    for kind, part in parts.items():
        _refuse_other_than_map_style(part, f"the {kind} set")
        _refuse_batches_of_its_own(part, f"the {kind} set")
    return parts


def _refuse_other_than_map_style(part: Any, name: str) -> None:
    kind = type(part).__name__
    if isinstance(part, DataLoader):
        raise DataError(FIELD, f"{name} is a DataLoader.", "Return its .dataset: batches are made as batch.global_batch_size says.")
    if isinstance(part, IterableDataset) or not hasattr(part, "__getitem__") or type(part).__getitem__ is TorchDataset.__getitem__:
        reason = "is an IterableDataset" if isinstance(part, IterableDataset) else "has no __getitem__"
        raise DataError(FIELD, f"{name} ({kind}) {reason}, and samples are read by their number, in an order that the seed draws.", MAP_STYLE)
    if not hasattr(part, "__len__"):
        raise DataError(FIELD, f"{name} ({kind}) has no __len__.", MAP_STYLE)
    try:
        len(part)
    except ANYTHING as error:  # a person's own code may raise anything
        raise DataError(FIELD, f"the length of {name} ({kind}) cannot be read: {described(error)}.", "Mend its __len__.") from error


def _refuse_batches_of_its_own(part: Any, name: str) -> None:
    """Samples are read one by one; a class that changes what is read in batches alone would be passed by."""
    for ancestor in type(part).__mro__:
        if "__getitem__" in vars(ancestor):
            break
        if "__getitems__" in vars(ancestor):
            problem = f"{name} ({ancestor.__name__}) has a __getitems__ of its own and no __getitem__ beside it, by which samples are read."
            raise DataError(FIELD, problem, "Give the class a __getitem__(index) that gives the same samples.")
    for inner in (part.dataset,) if isinstance(part, Subset) else part.datasets if isinstance(part, ConcatDataset) else ():
        _refuse_batches_of_its_own(inner, f"what {name} is made of")


def _tensors(part: TensorDataset, kind: str) -> Tensors:
    """All tensors of torch's own TensorDataset."""
    for number, tensor in enumerate(part.tensors):
        refuse_unusual_tensor(tensor, FIELD, f"tensor {number} of the {kind} set")
    return Tensors(tuple(part.tensors))


def _labelled(part: TensorDataset, kind: str) -> Any:
    """(inputs, labels) of torch's own TensorDataset; one of other than two tensors as it is."""
    if len(part.tensors) != 2:
        return part
    inputs, labels = part.tensors
    refuse_unusual_tensor(inputs, FIELD, f"the tensor of {kind} inputs")
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        is_one_hot = labels.ndim == 2 and labels.shape[1] > 1
        hint = (
            "Of one-hot labels give labels.argmax(1); shares of classes need task.soft_labels: true."
            if is_one_hot
            else "Labels are the numbers of classes, 0, 1, ..."
        )
        raise DataError(FIELD, f"{kind} labels are {tuple(labels.shape)} {labels.dtype}; they must be one whole number per sample.", hint)
    return Images(inputs, labels.to(torch.int64))


def _refuse_bad_ends(part: Any, kind: str, dataset: Dataset) -> None:
    """Look at all labels where that costs nothing, else at the first and the last sample: what is wrong with all shows there."""
    if isinstance(part, Images) and dataset.num_classes is not None:
        hint = "Labels count from 0; num_classes of the training set says how many there are."
        refuse_bad_labels(part.labels, dataset.num_classes, FIELD, hint, kind)
        return
    if isinstance(part, Tensors):
        refuse_out_of_range(part.batch, 0, dataset.number_ranges, FIELD, kind)
        return
    for index in (0, len(part) - 1):
        try:
            sample = read_sample(part, index, FIELD, kind, dataset.num_classes is not None)
        except DataError as error:
            if index == 0:
                raise
            raise DataError(error.field, error.problem, f"The {kind} set's __len__ is {len(part)}; it must be the number of its samples.") from error
        refuse_other_form(sample, index, SampleForm.of(dataset), FIELD, kind)


def _shared_in_words(parts: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on samples of one part that are another's, too, where that shows without reading them: scores are too good then."""
    for (kind, part), (other_kind, other) in combinations(parts.items(), 2):
        number = len(part) if part is other else 0
        if isinstance(part, Subset) and isinstance(other, Subset) and part.dataset is other.dataset:
            number = len({*map(int, part.indices)} & {*map(int, other.indices)})
        elif part is not other and _is_tensor_dataset(part) and _is_tensor_dataset(other):
            number = _num_shared_rows(part.tensors[0], other.tensors[0])
        if number:
            yield f"Data: {number} of the {len(other)} {other_kind} samples are {kind} samples, too."


def _num_shared_rows(tensor: Tensor, other: Tensor) -> int:
    """How many rows of two tensors lie in the same place in memory, of slices such as `numbers[:800]` and `numbers[700:]`."""
    row_bytes = tensor[:1].nbytes
    if not row_bytes or tensor.dtype != other.dtype or tensor.shape[1:] != other.shape[1:] or not (tensor.is_contiguous() and other.is_contiguous()):
        return 0
    start, stop = max(tensor.data_ptr(), other.data_ptr()), min(tensor.data_ptr() + tensor.nbytes, other.data_ptr() + other.nbytes)
    return max(stop - start, 0) // row_bytes


def _images_in_words(dataset: Dataset) -> Iterator[str]:
    """Sentences on uint8 samples of three dimensions that may not be read as they are meant."""
    if dataset.normalises and are_channels_last(dataset.input_shape):
        channels, height, width = dataset.input_shape
        yield (
            f"Data: samples {dataset.input_shape} are taken for {channels} channels of {height} x {width} pixels. Of channels that come last give "
            "images.permute(0, 3, 1, 2)."
        )
    if dataset.num_classes is None and isinstance(dataset.train, Tensors) and dataset.input_dtype == torch.uint8 and len(dataset.input_shape) == 3:
        yield "Data: uint8 samples reach the model as they are; they are normalised where they are (image, number of a class) alone."


def _samples_in_words(dataset: Dataset) -> Iterator[str | None]:
    """Sentences on samples that are not finite, or are others each time. Raises: DataError for those that are overwritten."""
    for kind, part in dataset.parts.items():
        if isinstance(part, Tensors):
            yield from (_non_finite_in_words(leaf, kind) for leaf in leaves(part.batch))
        else:
            yield read_again(part, FIELD, kind, dataset.num_classes is not None)


def _non_finite_in_words(inputs: Tensor, kind: str) -> str | None:
    """A sentence on samples that hold NaN or infinity: a model may be made for them. None where there are none."""
    # A sum costs one pass and no memory; it may overflow where every number is finite, so what it says is looked at again.
    if not inputs.is_floating_point() or bool(inputs.sum(dtype=torch.float32 if inputs.dtype.itemsize < 4 else None).isfinite()):
        return None
    chunk = max(1, CHUNK_ELEMENTS // max(1, inputs[0].numel()))
    pieces = (inputs[start : start + chunk] for start in range(0, len(inputs), chunk))
    is_finite = torch.cat([piece.reshape(len(piece), -1).isfinite().all(dim=1) for piece in pieces])
    numbers = torch.nonzero(~is_finite).flatten()
    if not len(numbers):
        return None
    return f"Data: {len(numbers)} of {len(inputs)} {kind} samples with NaN or infinity; the first is sample {int(numbers[0])}."


def _num_classes_of(part: Any, num_tensors: int = 2) -> int | None:
    """The number of classes that a set, or the set that it is taken from, tells; None where neither does.

    torch's own TensorDataset needs to say nothing: its highest label does. Args: num_tensors: that it has then, of which the second are labels.
    Raises: DataError for a num_classes or classes of another kind.
    """
    number = _attribute(part, "num_classes")
    if number is not None:
        return _count(number, "num_classes")
    classes = _attribute(part, "classes")
    if classes is not None:
        if isinstance(classes, str) or not hasattr(classes, "__len__"):
            raise DataError(FIELD, f"classes of the training set is {_in_words(classes)}, not a list of names.", "Give it num_classes, a number.")
        return _count(len(classes), "num_classes")
    if isinstance(part, Subset):
        return _num_classes_of(part.dataset, num_tensors)
    if isinstance(part, ConcatDataset):
        numbers = {_num_classes_of(inner, num_tensors) for inner in part.datasets}
        return numbers.pop() if len(numbers) == 1 else None
    if _is_tensor_dataset(part) and len(part.tensors) == num_tensors and len(part):
        labels = part.tensors[1]
        return None if labels.is_floating_point() or labels.is_complex() or labels.ndim != 1 else int(labels.max()) + 1
    return None


def _is_tensor_dataset(part: Any) -> bool:
    """Whether a set is torch's own TensorDataset, or of a class of it that gives samples in no way of its own."""
    ways = ("__getitem__", "__getitems__", "__len__")
    return isinstance(part, TensorDataset) and all(getattr(type(part), way, None) is getattr(TensorDataset, way, None) for way in ways)


def _attribute(part: Any, name: str) -> Any:
    try:
        return getattr(part, name, None)
    except ANYTHING as error:  # a property, maybe
        raise DataError(FIELD, f"{name} of the training set cannot be read: {described(error)}.", "Mend it.") from error


def _token(number: Any) -> int | None:
    if number is None or (isinstance(number, int) and not isinstance(number, bool) and number >= 0):
        return number
    problem = f"padding_token of the training set is {_in_words(number)}; it must be the number of a token, or None."
    raise DataError(FIELD, problem, "It is what fills up shorter sequences, where targets are -100.")


def _count(number: Any, name: str) -> int:
    with suppress(TypeError):
        if not isinstance(number, bool) and (count := operator.index(number)) > 0:
            return count
    hint = "Make it a property, or set it in __init__." if callable(number) else "Labels are 0 ... num_classes - 1."
    raise DataError(FIELD, f"{name} of the training set is {_in_words(number)}; it must be a whole number above 0.", hint)


def _in_words(value: Any) -> str:
    return "a method" if callable(value) else repr(value)[:80]
