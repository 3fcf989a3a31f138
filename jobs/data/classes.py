"""Finds the number of classes of a person's training set: as the set says itself, or as its labels show."""

import operator
from typing import Any

from torch.utils.data import ConcatDataset, Subset, TensorDataset

from largebatch.jobs.entry_points import ANYTHING, described
from largebatch.jobs.errors import DataError


def num_classes_of(part: Any, field: str) -> int | None:
    """The number of classes that a set, or the set that it is taken from, tells; None where neither does.

    torch's own TensorDataset needs to say nothing: its highest label does.
    Raises: DataError for a num_classes or classes of another kind.
    """
    number = _attribute(part, "num_classes", field)
    if number is not None:
        return _count(number, field)
    classes = _attribute(part, "classes", field)
    if classes is not None:
        if isinstance(classes, str) or not hasattr(classes, "__len__"):
            raise DataError(field, f"classes of the training set is {_in_words(classes)}, not a list of names.", "Give it num_classes, a number.")
        return _count(len(classes), field)
    if isinstance(part, Subset):
        return num_classes_of(part.dataset, field)
    if isinstance(part, ConcatDataset):
        numbers = {num_classes_of(inner, field) for inner in part.datasets}
        return numbers.pop() if len(numbers) == 1 else None
    if is_plain(part, TensorDataset) and len(part.tensors) == 2 and len(part):
        labels = part.tensors[1]
        return None if labels.is_floating_point() or labels.is_complex() or labels.ndim != 1 else int(labels.max()) + 1
    return None


def is_plain(part: Any, kind: type) -> bool:
    """Whether a set is torch's own `kind`, or of a class of it that gives samples in no way of its own."""
    ways = ("__getitem__", "__getitems__", "__len__")
    return isinstance(part, kind) and all(getattr(type(part), way, None) is getattr(kind, way, None) for way in ways)


def _attribute(part: Any, name: str, field: str) -> Any:
    try:
        return getattr(part, name, None)
    except ANYTHING as error:  # a property, maybe
        raise DataError(field, f"{name} of the training set cannot be read: {described(error)}.", "Mend it.") from error


def _count(number: Any, field: str) -> int:
    try:
        count = None if isinstance(number, bool) else operator.index(number)
    except TypeError:
        count = None
    if count is None or count < 1:
        hint = "Make it a property, or set it in __init__." if callable(number) else "Labels are 0 ... num_classes - 1."
        raise DataError(field, f"num_classes of the training set is {_in_words(number)}; it must be a whole number above 0.", hint)
    return count


def _in_words(value: Any) -> str:
    return "a method" if callable(value) else repr(value)[:80]
