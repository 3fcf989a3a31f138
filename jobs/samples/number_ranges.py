"""The numbers that a task's samples may hold; others are refused by the sample's number, before an embedding or a loss meets them.

Imported with the specs, so without torch.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from largebatch.jobs.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""A target that does not count: padding, a prompt, a position that was not masked. torch's and the field's number."""

MOST_SHOWN = 8


class NumberRange(NamedTuple):
    """What one tensor of each sample may hold: whole numbers 0 ... stop - 1."""

    path: str
    """Which tensor: see `named_leaves`."""
    stop: int
    said_by: str
    """The training set's attribute that says so."""
    may_be_ignored: bool = False
    """Whether -100 may stand there, too."""

    def refuse_others(self, numbers: "Tensor", first: int, field: str, kind: str) -> None:
        """Raise DataError for the first number that is out of range.

        Args:
            numbers: whole ones of consecutive samples, (n, ...).
            first: the number of the first of them.
            field, kind: for the sentence.
        """
        is_wrong = (numbers < 0) | (numbers >= self.stop)
        if self.may_be_ignored:
            is_wrong &= numbers != IGNORED
        if not bool(is_wrong.any()):
            return
        place = tuple(is_wrong.nonzero()[0].tolist())
        allowed = f"0 ... {self.stop - 1}" + (f", or {IGNORED} for what does not count" if self.may_be_ignored else "")
        problem = f"{kind} sample {first + place[0]} has {int(numbers[place])} in {self.path}, which is not in {allowed}."
        raise DataError(field, problem, f"{self.said_by} of the training set says how many there are.")


class ShareRange(NamedTuple):
    """What one tensor of each sample may hold: numbers between 0 and 1, one for each class."""

    path: str
    """Which tensor: see `named_leaves`."""
    adds_to_one: bool
    """Whether a sample's numbers are shares of one whole; within 1 %, for they may come in half precision."""

    def refuse_others(self, numbers: "Tensor", first: int, field: str, kind: str) -> None:
        """Raise DataError for the first sample that is out of range. Args: see `NumberRange.refuse_others`."""
        rows = numbers.reshape(len(numbers), -1)
        is_wrong_N = ~((rows.amin(1) >= 0) & (rows.amax(1) <= 1))  # NaN is wrong, too
        if self.adds_to_one:
            is_wrong_N |= (rows.sum(1) - 1).abs() > 0.01
        if not bool(is_wrong_N.any()):
            return
        place = int(is_wrong_N.nonzero()[0])
        allowed = "shares between 0 and 1 that add up to 1" if self.adds_to_one else "0, 1, or shares between"
        found = ", ".join(f"{number:g}" for number in rows[place, :MOST_SHOWN].tolist()) + (", ..." if rows.shape[1] > MOST_SHOWN else "")
        raise DataError(field, f"the labels of {kind} sample {first + place} are {found}; they must be {allowed}.", "Give one number for each class.")


class WeightRange(NamedTuple):
    """What one tensor of each sample may hold: finite numbers of at least 0."""

    path: str
    """Which tensor: see `named_leaves`."""

    def refuse_others(self, numbers: "Tensor", first: int, field: str, kind: str) -> None:
        """Raise DataError for the first sample that is out of range. Args: see `NumberRange.refuse_others`."""
        is_wrong = ~((numbers >= 0) & numbers.isfinite())
        if bool(is_wrong.any()):
            place = tuple(is_wrong.nonzero()[0].tolist())
            problem = f"{kind} sample {first + place[0]} weighs {float(numbers[place]):g}; weights must be finite, and at least 0."
            raise DataError(field, problem, "A sample of weight 0 does not count.")


AnyRange: TypeAlias = NumberRange | ShareRange | WeightRange


def token_ranges(for_model: Mapping[str, int]) -> tuple[NumberRange, ...]:
    """Of samples (tokens, targets)."""
    stop = for_model.get("vocabulary_size")
    return () if stop is None else (NumberRange("0", stop, "vocabulary_size"), NumberRange("1", stop, "vocabulary_size", may_be_ignored=True))
