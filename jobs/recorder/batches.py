"""How many samples the batches and the steps of another program's loop have."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from largebatch.jobs.errors import InputError


class BatchSamples:
    """How many samples batches have: as a person's function says, else the length of their first tensor, held against the loader's own batch.

    Args: num_samples: the person's; size: the loader's batch, None where it has none; begins_whole: whether the first batch has as many.
    """

    def __init__(self, num_samples: Callable[[Any], int] | None, size: int | None, begins_whole: bool) -> None:
        self._num_samples, self._size, self._is_exact = num_samples, size, begins_whole

    def of(self, batch: Any) -> int:
        """The samples of the next batch. Raises: InputError where the first tensor has other rows than samples."""
        if self._num_samples is not None:
            return self._num_samples(batch)
        number, is_exact, self._is_exact = num_samples_of(batch), self._is_exact, False
        if self._size is not None and (number > self._size or (is_exact and number < self._size)):
            problem = f"of a batch would be {number}, the length of its first tensor, and the loader's batches are of {self._size}."
            raise InputError("num_samples", problem, "Give the callback num_samples, a function from a batch to a number.")
        return number


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


def begins_whole(loader: Any) -> bool:
    """Whether the first of a loader's batches is as large as any: of a data set that is read by index, and of several batches."""
    return _length(getattr(loader, "sampler", None)) is not None and (_length(loader) or 0) > 1


def largest_share(loader: Any, size: int, num_micro_batches: int, world_size: int) -> int:
    """A rank's samples of a step, of which the epoch may have fewer than `num_micro_batches` micro-batches of `size`."""
    in_epoch, num_batches = _length(getattr(loader, "sampler", None)), _length(loader)
    whole = size * min(num_micro_batches, num_batches or num_micro_batches)
    if in_epoch is None:
        return whole
    if in_epoch == _length(getattr(loader, "dataset", None)):  # of all ranks
        in_epoch = math.ceil(in_epoch / world_size)
    return min(whole, in_epoch or whole)


def _length(sized: Any) -> int | None:
    try:
        return len(sized)
    except (AttributeError, NotImplementedError, TypeError):  # an endless one's sampler has none
        return None
