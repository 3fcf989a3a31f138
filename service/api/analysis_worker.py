"""The process that answers what needs torch or scipy, so that the service itself stays small.

It starts with the first question and is kept warm; one that takes too long at a question, or dies of it, is replaced. It answers one question at a
time, and askers take turns.
"""

import importlib
import itertools
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
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
TURN_S = 75.0
"""How long a question waits for its turn: longer than one answer may take, so that nobody who asks heavy things keeps out those who ask little."""
HALF_LIFE_S = 300.0
"""In which half of the time that an asker's answers took is forgotten."""
LEAST_S = 1e-6
"""Of an asker's time, what is kept in mind: so few askers are."""
MOST_OF_ONE = 4
MOST_AT_ONCE = 20
"""Questions of one asker, and of all, that are answered or wait; each keeps one of the service's threads waiting."""
MEMORY_PART = 0.6
"""Of what this machine or container has, the most that an answer may take: the service itself goes on beside it."""
LARGEST_BYTES = 16 * GIB


class Turns:
    """Lets one question at a time be answered: the next is the earliest of the asker whose answers took the least time of late.

    So whoever has asked nothing yet waits for the answer that is being worked out, and for no second one of anybody's.
    """

    def __init__(self, most_of_one: int, most: int, patience_s: float) -> None:
        self._most_of_one, self._most, self._patience_s = most_of_one, most, patience_s
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._waiting: dict[str, deque[int]] = {}
        """The questions of each asker that wait, numbered as they came."""
        self._taken_s: dict[str, float] = {}
        """The time that each asker's answers took, half forgotten after HALF_LIFE_S."""
        self._counted_s = time.monotonic()
        self._answered: str | None = None
        """Whose question is being answered."""

    @property
    def num_waiting(self) -> int:
        """Questions whose turn has not come."""
        with self._changed:
            return sum(map(len, self._waiting.values()))

    def num_before(self, asker: str) -> int:
        """Questions that come before an asker's next one as things stand, the one being answered among them; 0: none of theirs waits."""
        with self._changed:
            if asker not in self._waiting:
                return 0
            return (self._answered is not None) + sum(self._place(other) < self._place(asker) for other in self._waiting)

    @contextmanager
    def turn(self, asker: str) -> Iterator[None]:
        """A context that is entered when this question's turn has come. Raises: FaultError."""
        with self._changed:
            self._wait(asker)
            self._answered = asker
        began_s = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                self._count(asker, began_s)
                self._answered = None
                self._changed.notify_all()

    def _wait(self, asker: str) -> None:
        counts = {name: len(questions) for name, questions in self._waiting.items()}
        if self._answered is not None:
            counts[self._answered] = counts.get(self._answered, 0) + 1
        if counts.get(asker, 0) >= self._most_of_one:
            raise FaultError("", f"{self._most_of_one} questions of yours are being answered.", "Ask again when one of them is.")
        # Half of the places are for those who have none: a few askers do not fill them all.
        if sum(counts.values()) >= (self._most / 2 if asker in counts else self._most):
            raise FaultError("", "many such questions are being answered.", "Ask again in a moment.")
        question = next(self._numbers)
        own = self._waiting.setdefault(asker, deque())
        own.append(question)
        try:
            is_next = self._changed.wait_for(lambda: self._answered is None and min(map(self._place, self._waiting))[1] == question, self._patience_s)
            if not is_next:
                raise FaultError("", f"its turn has not come within {self._patience_s:g} s: others' questions are being answered.", "Ask again.")
        finally:
            own.remove(question)
            if not own:
                del self._waiting[asker]
            self._changed.notify_all()

    def _place(self, asker: str) -> tuple[float, int]:
        """What the turn goes by, the least first, and the earliest question of an asker who has one that waits."""
        return self._taken_s.get(asker, 0.0), self._waiting[asker][0]

    def _count(self, asker: str, began_s: float) -> None:
        """Add the time since then to an asker's, after what is forgotten of everybody's."""
        now_s = time.monotonic()
        kept = 0.5 ** ((now_s - self._counted_s) / HALF_LIFE_S)
        self._counted_s = now_s
        self._taken_s = {name: taken_s * kept for name, taken_s in self._taken_s.items() if taken_s * kept > LEAST_S}
        self._taken_s[asker] = self._taken_s.get(asker, 0.0) + now_s - began_s


def most_of(num_bytes: int) -> int:
    """The most bytes that an answer may take where there is so much memory in all."""
    return min(int(MEMORY_PART * num_bytes), LARGEST_BYTES)


class AnalysisWorker:
    """One warm process.

    Args:
        questions: the module whose functions are the questions; it is imported in the process alone.
        most_bytes: of memory that an answer may take; None: what `most_of` says of the memory that there is.
    """

    def __init__(
        self,
        questions: str = "largebatch.service.api.analysis",
        timeout_s: float = TIMEOUT_S,
        most_bytes: int | None = None,
    ) -> None:
        self._questions, self._timeout_s = questions, timeout_s
        self._most_bytes = most_bytes or most_of(memory_bytes())
        self._pool = ProcessPool(1, initializer=_prepare, initargs=(self._most_bytes,), context=multiprocessing.get_context("spawn"))
        self._turns = Turns(MOST_OF_ONE, MOST_AT_ONCE, TURN_S)

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

    def wait_in_words(self, asker: str) -> str:
        """What an asker's question waits for, and for how long at most, for a person who looks at it."""
        answered = f"{self._timeout_s:g} s at most"
        if num := self._turns.num_before(asker):
            others = "1 other question is" if num == 1 else f"{num} other questions are"
            return f"Waits for its turn: {others} before it. The turn comes within {TURN_S:g} s, or it is given up; then it takes {answered}."
        return f"Being worked out: {answered}."

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
