"""Parts of a study or a report that may fail without costing the rest: each is tried, and a failure is kept in words."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.tracking.mlflow_store import brief

Result = TypeVar("Result")


class Failed(NamedTuple):
    """What is not there, and why."""

    what: str
    why: str

    @property
    def in_words(self) -> str:
        """One sentence."""
        return f"Left out: {self.what}. {self.why}"


class Attempts:
    """Failures so far. Args: on_failure: told of each, in a sentence."""

    def __init__(self, on_failure: Callable[[str], None] = lambda text: None) -> None:
        self.failed: list[Failed] = []
        self._on_failure = on_failure

    def attempt(self, what: str, do: Callable[[], Result]) -> Result | None:
        """What `do` returns, or None where it raises: a person's model, a library or the disk."""
        try:
            return do()
        except Exception as error:
            why = str(error) if isinstance(error, LargebatchError) else f"{type(error).__name__}: {brief(error).rstrip('.')}."
            self.failed.append(Failed(what, why))
            self._on_failure(self.failed[-1].in_words)
            return None
