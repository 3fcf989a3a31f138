"""SIGTERM in a Ray worker process: a machine that goes away gives its workers a moment to save.

Python sets signal handlers in a process's main thread only, and Ray Train trains in another one; but what a backend
does as a group starts runs in the main thread, so that is where the handler is set (a job's setup hook comes too
early: Ray sets its own handler after it).
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_training = threading.Event()
"""Set while this process trains; only then is there something to save."""
terminated = threading.Event()
"""Set when this process was told to end while training."""


def listen() -> None:
    """From now on a SIGTERM in the middle of training asks it to save and end; at any other time Ray's own handler acts."""
    previous = signal.getsignal(signal.SIGTERM)

    def ask(number: int, frame: FrameType | None) -> None:
        if _training.is_set():
            terminated.set()
        elif callable(previous):
            previous(number, frame)

    signal.signal(signal.SIGTERM, ask)
    _unblock()


@contextmanager
def heard_while_training() -> Iterator[None]:
    """While this is open a SIGTERM is a request to save and end."""
    _unblock()
    terminated.clear()
    _training.set()
    try:
        yield
    finally:
        _training.clear()


def _unblock() -> None:
    """Let SIGTERM reach this thread, and what it starts; a command's own Ray keeps it from all that it starts."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
