"""The process that answers what needs torch or scipy, so that the service itself stays small.

It starts with the first question and is kept warm; one that takes too long at a question, or dies of it, is replaced. It answers one question at a
time, and askers take turns.
"""

import importlib
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import TimeoutError
from contextlib import contextmanager
from typing import Any

from pebble import ProcessExpired, ProcessPool

from largebatch.jobs.errors import FaultError, InputError, LargebatchError
from largebatch.service.api.errors import TooHeavyError
from largebatch.service.memory import GIB, memory_bytes

TIMEOUT_S = 60.0
"""For an answer, from when its turn has come."""
TURN_S = 30.0
"""How long a question waits for its turn."""
MOST_OF_ONE = 4
MOST_AT_ONCE = 20
"""Questions of one asker, and of all, that are answered or wait; each keeps one of the service's threads waiting."""
MEMORY_PART = 0.6
"""Of what this machine or container has, the most that an answer may take: the service itself goes on beside it."""
LARGEST_BYTES = 16 * GIB


class Turns:
    """Lets one question at a time be answered: the next is that of the asker who has waited longest since an answer, and of theirs the earliest."""

    def __init__(self, most_of_one: int, most: int, patience_s: float) -> None:
        self._most_of_one, self._most, self._patience_s = most_of_one, most, patience_s
        self._changed = threading.Condition()
        self._waiting: dict[str, deque[object]] = {}
        """Askers in the order in which their turn comes, each with the questions that wait."""
        self._answered: str | None = None
        """Whose question is being answered."""

    @property
    def num_waiting(self) -> int:
        """Questions whose turn has not come."""
        with self._changed:
            return sum(map(len, self._waiting.values()))

    @contextmanager
    def turn(self, asker: str) -> Iterator[None]:
        """A context that is entered when this question's turn has come. Raises: FaultError."""
        with self._changed:
            self._wait(asker)
            self._answered = asker
        try:
            yield
        finally:
            with self._changed:
                self._answered = None
                self._changed.notify_all()

    def _wait(self, asker: str) -> None:
        counts = {name: len(questions) for name, questions in self._waiting.items()}
        if self._answered is not None:
            counts[self._answered] = counts.get(self._answered, 0) + 1
        if counts.get(asker, 0) >= self._most_of_one:
            raise FaultError("", f"{self._most_of_one} questions of yours are being answered.", "Ask again when one of them is.")
        if sum(counts.values()) >= self._most:
            raise FaultError("", "many such questions are being answered.", "Ask again in a moment.")
        question = object()
        own = self._waiting.setdefault(asker, deque())
        own.append(question)
        try:
            is_next = self._changed.wait_for(
                lambda: self._answered is None and next(iter(self._waiting)) == asker and own[0] is question, self._patience_s
            )
            if not is_next:
                raise FaultError("", f"its turn has not come within {self._patience_s:g} s: others' questions are being answered.", "Ask again.")
        finally:
            own.remove(question)
            del self._waiting[asker]
            if own:  # behind all others
                self._waiting[asker] = own
            self._changed.notify_all()


class AnalysisWorker:
    """One warm process.

    Args:
        questions: the module whose functions are the questions; it is imported in the process alone.
        most_bytes: of memory that an answer may take.
    """

    def __init__(
        self,
        questions: str = "largebatch.service.api.analysis",
        timeout_s: float = TIMEOUT_S,
        turn_s: float = TURN_S,
        most_bytes: int | None = None,
    ) -> None:
        self._questions, self._timeout_s = questions, timeout_s
        self._most_bytes = most_bytes or min(int(MEMORY_PART * memory_bytes()), LARGEST_BYTES)
        self._pool = ProcessPool(1, initializer=_prepare, initargs=(self._most_bytes,), context=multiprocessing.get_context("spawn"))
        self._turns = Turns(MOST_OF_ONE, MOST_AT_ONCE, turn_s)

    def ask(self, question: str, *arguments: Any, asker: str = "") -> Any:
        """The answer. Raises: what the question raises; TooHeavyError if it takes too long or too much, or its process dies; FaultError."""
        with self._turns.turn(asker):
            future = self._pool.schedule(_answer, (self._questions, question, *arguments))
            try:
                return future.result(self._timeout_s)
            except MemoryError as error:
                problem = f"the answer needs more than {self._most_bytes / GIB:.1f} GiB, the most that this service gives to one."
                raise TooHeavyError("", problem, "Use the command on a machine with more memory.") from error
            except LargebatchError:
                raise
            except (TimeoutError, ProcessExpired) as error:
                future.cancel()  # ends the process, if it is at this question
                problem = f"took more than {self._timeout_s:g} s" if isinstance(error, TimeoutError) else "could not be computed"
                raise TooHeavyError("", f"the answer {problem}.", "Use the command on the machine itself.") from error
            except Exception as error:
                raise InputError("", f"it cannot be worked out: {type(error).__name__}: {str(error)[:300]}.", "Look at the arguments.") from error

    def close(self) -> None:
        """End the process."""
        self._pool.stop()
        self._pool.join()


def _prepare(most_bytes: int) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))
    os.nice(10)  # whoever trains on these cores goes first
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _answer(questions: str, question: str, *arguments: Any) -> Any:
    try:
        return getattr(importlib.import_module(questions), question)(*arguments)
    except Exception as error:
        if "torch" not in sys.modules:  # whose import takes seconds: what has not imported it has no error of its kind
            raise
        # Torch has no error of its own for that; its words, and ours around them, tell.
        ran_out_of_memory = importlib.import_module("largebatch.jobs.engine.out_of_memory").ran_out_of_memory
        if ran_out_of_memory(error) or (error.__cause__ is not None and ran_out_of_memory(error.__cause__)):
            raise MemoryError from error
        raise
