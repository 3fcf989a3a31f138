"""Turns SIGINT, SIGTERM and SIGHUP, which a terminal that closes sends, into a request to stop after the current step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType

SAID_WITHIN_S = 5.0
"""So long the end of a block waits for what is being said."""


@contextmanager
def stop_requests(ask: Callable[[signal.Signals, bool], str | None], say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Call `ask` for each SIGINT, SIGTERM and SIGHUP in the block; the handlers before are put back after it.

    A signal may come while a line is being printed, and whoever prints within that print is told by Python that it is one too many: `ask` must
    print nothing, and what it returns is said from a thread beside.

    Only a main thread may set handlers; a caller in another thread has handlers of its own, and none are set.

    Args: ask: told the signal, and whether it is a further Ctrl-C: that one means leaving at once. It returns what a person should be told.
    """
    is_repeated, texts = False, SimpleQueue[str | None]()

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal is_repeated
        is_impatient = is_repeated and number == signal.SIGINT
        is_repeated = True
        texts.put(ask(signal.Signals(number), is_impatient) or "")  # a queue that a handler may use, whatever it interrupts

    def tell() -> None:
        while (text := texts.get()) is not None:
            if text:
                say(text)

    is_main = threading.current_thread() is threading.main_thread()
    teller = threading.Thread(target=tell, name="signals", daemon=True)
    teller.start()
    previous = {number: signal.signal(number, handle) for number in stop_signals() if is_main}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        texts.put(None)
        teller.join(SAID_WITHIN_S)


def stop_signals() -> list[signal.Signals]:
    """What asks a run to stop. A SIGHUP that is ignored stays so: that is what `nohup` is for."""
    hears_hang_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hears_hang_up else [])]


@contextmanager
def stops_kept_from_children() -> Iterator[None]:
    """Processes that are started inside see neither SIGTERM nor SIGHUP, as Ray's own do not see Ctrl-C.

    One to the whole group must leave them to the saving.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
