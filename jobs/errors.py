"""One family of errors that are meant for people: field, problem, hint; and the hint for a name that is not known.

LargebatchError
|-- InputError            a person's input is wrong           exit 2, never retried
|   |-- SpecError         the description itself
|   |-- PlanError         the description against the data, the model or the machine
|   |-- DataError         the data set's files
|   `-- CheckpointError   a checkpoint that does not fit, or none that can be read
|-- CodeError             a person's own code failed midway  exit 1, never retried
|-- DivergedError         the loss or gradient is not finite  exit 3, never retried
`-- FaultError            the machine failed us               exit 1, may be retried
    `-- StorageError      a folder or disk that refuses
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar


class LargebatchError(Exception):
    """What is wrong, in one sentence, with the nearest thing that works.

    Args:
        field: dotted name of the spec's field, or of what the person gave ("--device").
        problem: what is wrong with it, with the numbers.
        hint: what to do instead; empty where there is nothing to say.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, field: str, problem: str, hint: str = "") -> None:
        # Libraries' messages, quoted in ours, can span lines; every door shows one.
        problem, hint = " ".join(problem.split()), " ".join(hint.split())
        super().__init__(field, problem, hint)
        self.field = field
        self.problem = problem
        self.hint = hint
        self.is_agreed = False
        """Whether every rank of the run has raised this; otherwise the others still wait for this one."""

    def __str__(self) -> str:
        sentence = f"{self.field}: {self.problem}" if self.field else self.problem
        return " ".join(f"{sentence} {self.hint}".split())  # a field, too, is what somebody wrote


class InputError(LargebatchError, ValueError):
    """Something a person gave cannot be used; running it again would fail again."""

    exit_code = 2
    others: "Sequence[InputError]" = ()
    """What else was found wrong at the same time, each with a field of its own; a sentence tells of the first alone, a form of all."""


class SpecError(InputError):
    """A spec that does not say what it must, or says what it cannot."""


class PlanError(InputError):
    """A spec that is well formed but cannot be kept on this data, model or machine."""


class DataError(InputError):
    """A data set whose files are missing, cut short or not what they should be."""


class CheckpointError(InputError):
    """A checkpoint of something else, or no checkpoint that can be read."""


class CodeError(LargebatchError):
    """A person's own model or data set raised something in the middle of a run; the last checkpoint is whole.

    Args: trace: the whole traceback, for those who mend it.
    """

    def __init__(self, field: str, problem: str, hint: str = "", trace: str = "") -> None:
        super().__init__(field, problem, hint)
        self.trace = trace


class DivergedError(LargebatchError):
    """The loss or the gradient stopped being finite; nothing was updated with it."""

    exit_code = 3


class FaultError(LargebatchError, RuntimeError):
    """The machine, not the person, is at fault; the same run may succeed later."""


class StorageError(FaultError):
    """A folder that cannot be written or a disk that is full."""


def nearest(word: str, known: Iterable[str], listed: Iterable[str] = ()) -> str:
    """A hint with the names most like `word`: "Did you mean ...?", or the whole list (or `listed`, where that is too long)."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    close = [name for name in close if _likeness(name, word) > _likeness(close[0], word) - 0.3]
    return f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join([*listed] or names)}."


def _likeness(name: str, word: str) -> float:
    return difflib.SequenceMatcher(None, name, word).ratio()
