"""What Ray does beside the training does not interrupt it.

Every idle process of Ray wakes a hundred times a second and more. On cores that are all busy each wake stops a thread that
trains, and with it all threads that wait for it at the end of the operation. Under Linux's batch policy (sched(7)) a thread
has its usual share of the cores, but takes none from a thread that runs: it waits for the scheduler's next tick.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def standing_back() -> Iterator[None]:
    """Processes and threads that are started inside, and all that they start, interrupt nobody."""
    _put("batch", 0)
    try:
        yield
    finally:
        _put("usual", 0)


def train_first() -> None:
    """From now on this thread, and those that it starts, are not interrupted by the others of its process."""
    if sys.platform == "linux":
        for thread in os.listdir("/proc/self/task"):
            _put("batch", int(thread))
    _put("usual", 0)


def _put(policy: str, thread: int) -> None:
    """Args: thread: its number; 0: this one."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # it has ended, or this system forbids it: then all is as it was
            os.sched_setscheduler(thread, os.SCHED_BATCH if policy == "batch" else os.SCHED_OTHER, os.sched_param(0))
