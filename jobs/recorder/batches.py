"""How many samples a batch of another program's loop has."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from largebatch.jobs.errors import InputError


def num_samples_of(batch: Any) -> int:
    """The length of the first tensor in a batch: a tensor, or a tuple, list or mapping of what has one. Raises: InputError where there is none."""
    tensor = _first_tensor(batch)
    if tensor is None or tensor.ndim == 0:
        problem = f"of a batch that is a {type(batch).__name__} is not known: no tensor in it has a first dimension."
        raise InputError("num_samples", problem, "Give the callback num_samples, a function from a batch to a number.")
    return int(tensor.shape[0])


def _first_tensor(batch: Any) -> Tensor | None:
    if isinstance(batch, Tensor):
        return batch
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return next((tensor for part in parts if (tensor := _first_tensor(part)) is not None), None)


def samples_of_epoch(loader: Any, given: int | None) -> int:
    """The length of a loader's data set, or what a person said. Raises: InputError where neither is known."""
    if given is not None:
        return given
    try:
        return len(loader.dataset)
    except (AttributeError, TypeError):
        hint = "Give the callback num_train_samples, what an epoch is counted in."
        raise InputError("num_train_samples", "is not known: the training data have no length.", hint) from None
