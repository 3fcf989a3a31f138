"""The process that answers what needs torch or scipy, so that the service itself stays small.

It starts with the first question and is kept warm; one that takes too long at a question, or dies of it, is replaced.
"""

import importlib
import multiprocessing
import os
import resource
import signal
import threading
from concurrent.futures import TimeoutError
from typing import Any

from pebble import ProcessExpired, ProcessPool

from largebatch.jobs.errors import FaultError, InputError, LargebatchError

TIMEOUT_S = 60.0
MOST_AT_ONCE = 4
"""Questions under way; each keeps one of the service's threads waiting."""
LARGEST_BYTES = 16 << 30


class AnalysisWorker:
    """One warm process. Args: questions: the module whose functions are the questions; it is imported in the process alone."""

    def __init__(self, questions: str = "largebatch.service.api.analysis", timeout_s: float = TIMEOUT_S) -> None:
        self._questions, self._timeout_s = questions, timeout_s
        self._pool = ProcessPool(1, initializer=_prepare, context=multiprocessing.get_context("spawn"))
        self._turns = threading.BoundedSemaphore(MOST_AT_ONCE)

    def ask(self, question: str, *arguments: Any) -> Any:
        """The answer. Raises: what the question raises; FaultError if it takes too long or its process dies."""
        if not self._turns.acquire(blocking=False):
            raise FaultError("", "many such questions are being answered.", "Ask again in a moment.")
        future = self._pool.schedule(_answer, (self._questions, question, *arguments))
        try:
            return future.result(self._timeout_s)
        except LargebatchError:
            raise
        except (TimeoutError, ProcessExpired) as error:
            future.cancel()  # ends the process, if it is at this question
            problem = f"took more than {self._timeout_s:g} s" if isinstance(error, TimeoutError) else "could not be computed"
            raise FaultError("", f"the answer {problem}.", "Use the command on the machine itself.") from error
        except Exception as error:
            raise InputError("", f"it cannot be worked out: {type(error).__name__}: {str(error)[:300]}.", "Look at the arguments.") from error
        finally:
            self._turns.release()

    def close(self) -> None:
        """End the process."""
        self._pool.stop()
        self._pool.join()


def _prepare() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    resource.setrlimit(resource.RLIMIT_DATA, (LARGEST_BYTES, LARGEST_BYTES))
    os.nice(10)  # whoever trains on these cores goes first
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _answer(questions: str, question: str, *arguments: Any) -> Any:
    return getattr(importlib.import_module(questions), question)(*arguments)
