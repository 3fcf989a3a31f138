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
        if numbers.ndim > 1:
            problem = f"the weight of {kind} sample {first} has the shape {tuple(numbers.shape[1:])}."
            raise DataError(field, problem, "Give one number for each sample, such as weights.squeeze(1).")
        is_wrong = ~((numbers >= 0) & numbers.isfinite())
        if bool(is_wrong.any()):
            place = tuple(is_wrong.nonzero()[0].tolist())
            problem = f"{kind} sample {first + place[0]} weighs {float(numbers[place]):g}; weights must be finite, and at least 0."
            raise DataError(field, problem, "A sample of weight 0 does not count.")


class CountRange(NamedTuple):
    """What one tensor of each sample may hold: counts, whole numbers of at least 0."""

    path: str
    """Which tensor: see `named_leaves`."""
    meaning: str
    """Of what."""

    def refuse_others(self, numbers: "Tensor", first: int, field: str, kind: str) -> None:
        """Raise DataError for the first sample that is out of range. Args: see `NumberRange.refuse_others`."""
        is_wrong = (numbers < 0) | (numbers != numbers.floor()) if numbers.is_floating_point() else numbers < 0
        if bool(is_wrong.any()):
            place = tuple(is_wrong.nonzero()[0].tolist())
            problem = (
                f"{kind} sample {first + place[0]} has {numbers[place].item():g} in {self.path}, which is {self.meaning}: whole numbers from 0 on."
            )
            raise DataError(field, problem, "Leave that tensor out where they are not known.")


class TargetsOf(NamedTuple):
    """What targets (n, T) that count must be of the tokens (n, T) beside them: the very same, or the next ones, which are not all the same."""

    are_same: bool
    tokens: str = "0"
    path: str = "1"

    def refuse_others(self, targets: "Tensor", tokens: "Tensor", first: int, field: str, kind: str) -> None:
        """Raise DataError for the first sample whose targets are others; samples of other shapes are passed by.

        Args: targets, tokens: of consecutive samples; the others: see `NumberRange.refuse_others`.
        """
        if targets.ndim != 2 or targets.shape != tokens.shape:
            return
        counts_NT = targets != IGNORED
        is_other_NT = counts_NT & (targets != tokens)
        if self.are_same:
            if bool(is_other_NT.any()):
                row, column = is_other_NT.nonzero()[0].tolist()
                problem = f"{kind} sample {first + row} has the token {int(tokens[row, column])} where its target is {int(targets[row, column])}"
                hint = f"Give the tokens as they are, as their own targets too, and {IGNORED} where nothing is to be hidden."
                raise DataError(field, f"{problem}, and the task hides tokens itself.", hint)
            return
        # Where two neighbours both count and are their own targets, the second is the first's target, too, and so the same token.
        differ_N = (counts_NT[:, 1:] & counts_NT[:, :-1] & (targets[:, 1:] != targets[:, :-1])).any(1)
        are_tokens_N = differ_N & ~is_other_NT.any(1)
        if bool(are_tokens_N.any()):
            problem = (
                f"the targets of {kind} sample {first + int(are_tokens_N.nonzero()[0])} are its tokens, not the next ones: a model would copy them."
            )
            raise DataError(field, problem, "Of a sequence give sequence[:-1] as tokens and sequence[1:] as targets; nothing shifts them later.")


AnyRange: TypeAlias = NumberRange | ShareRange | WeightRange | CountRange | TargetsOf


def token_ranges(for_model: Mapping[str, int], *, shift: int) -> tuple[AnyRange, ...]:
    """Of samples (tokens, targets), maybe (..., bytes). Args: shift: 1 where a target is the next token, 0 where it is the token itself."""
    others = (TargetsOf(are_same=shift == 0), CountRange("2", "the bytes of text of each target"))
    stop = for_model.get("vocabulary_size")
    if stop is None:
        return others
    return NumberRange("0", stop, "vocabulary_size"), NumberRange("1", stop, "vocabulary_size", may_be_ignored=True), *others
