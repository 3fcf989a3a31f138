"""Ctrl-C and SIGTERM as wishes, not as ends."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requests(ask: Callable[[signal.Signals, bool], None]) -> Iterator[None]:
    """Call `ask` for each SIGINT and SIGTERM in the block; the handlers before are put back after it.

    Only a main thread may set handlers; a caller in another thread has handlers of its own, and none are set.

    Args: ask: told the signal, and whether it is a further Ctrl-C: that one means leaving at once.
    """
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        is_impatient = asked and number == signal.SIGINT
        asked = True
        ask(signal.Signals(number), is_impatient)

    is_main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM) if is_main}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def sigterm_kept_from_children() -> Iterator[None]:
    """Processes that are started inside do not see SIGTERM, as Ray's own do not see Ctrl-C: one to the whole group must leave them to the saving."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
