"""The heartbeat of a worker: a process that can no longer reach its run ends itself.

On a machine whose cable is cut nobody else does: the rest of the cluster gives it up and goes on without it, while its
own Ray waits for minutes, and the worker, in the middle of a sum over all ranks, holds the run's folder.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

EVERY_S, ANSWER_S = 10.0, 5.0
"""How often to ask, and how long an answer may take."""
MISSES = 4
"""Answers missed one after the other; not seconds, for a machine that slept for an hour has missed one."""
EXIT_CODE = 75


class RunGoneError(Exception):
    """The run has ended for this worker, says somebody who knows: no answer will come any more."""


@contextmanager
def heartbeat(ask: Callable[[], object], *, every_s: float = EVERY_S, misses: int = MISSES) -> Iterator[None]:
    """While this is open, the process ends at once when `ask` has raised `misses` times in a row, a minute if nothing answers.

    Args: ask: returns when the run is there; raises when it does not answer in time, and RunGoneError, which is enough once, when it is gone.
    """
    over = threading.Event()

    def watch() -> None:
        missed = 0
        while not over.wait(every_s):
            try:
                ask()
                missed = 0
            except Exception as error:
                missed += 1
                if missed == misses or isinstance(error, RunGoneError):
                    end_process(error)

    threading.Thread(target=watch, name="heartbeat", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def end_process(error: Exception) -> NoReturn:
    """End this worker at once: threads in a hanging operation would not end in any other way."""
    print(f"This worker has lost its run ({type(error).__name__}: {error}), and ends.", file=sys.stderr, flush=True)
    os._exit(EXIT_CODE)
