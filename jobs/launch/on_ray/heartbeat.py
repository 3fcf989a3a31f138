"""A worker that can no longer reach the person's process ends itself.

On a machine whose cable is cut nobody else does: the rest of the cluster gives it up and goes on without it, while its
own Ray waits for minutes, and the worker, in the middle of a sum over all ranks, holds the run's folder.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY_S, ANSWER_S = 10.0, 5.0
"""How often to ask, and how long an answer may take."""
MISSES = 4
"""Answers missed one after the other; not seconds, for a machine that slept for an hour has missed one."""
EXIT_CODE = 75


class Gone(Exception):
    """The other end has died, says somebody who knows: no answer will come any more."""


@contextmanager
def lifeline(ask: Callable[[], object], *, every_s: float = EVERY_S, misses: int = MISSES) -> Iterator[None]:
    """While this is open, the process ends at once when `ask` has raised `misses` times in a row, a minute if nothing answers.

    Args: ask: returns when the other end is there; raises when it does not answer in time, and Gone, which is enough once, when it is dead.
    """
    over = threading.Event()

    def watch() -> None:
        missed = 0
        while missed < misses:
            if over.wait(every_s):
                return
            try:
                ask()
                missed = 0
            except Exception as error:
                missed = misses if isinstance(error, Gone) else missed + 1
                last = f"{type(error).__name__}: {error}"
        # Threads in a hanging operation would not end in any other way.
        print(f"This worker has lost its run ({last}), and ends.", file=sys.stderr, flush=True)
        os._exit(EXIT_CODE)

    thread = threading.Thread(target=watch, name="lifeline", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
