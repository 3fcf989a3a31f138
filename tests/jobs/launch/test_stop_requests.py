"""Signals that come at the worst moment: while a line is being written."""

import io
import os
import signal
import threading
from typing import Any

import pytest

from largebatch.jobs.launch.signals import stop_requests


class Signalling(io.RawIOBase):
    """Asks this process to stop while it writes, once."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number: int | None = number
        self.written = b""

    def writable(self) -> bool:
        return True

    def write(self, content: Any, /) -> int:
        number, self._number = self._number, None
        if number is not None:
            os.kill(os.getpid(), number)
            for _ in range(1000):  # the handler runs between two of these
                pass
        self.written += bytes(content)
        return len(content)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_said_of_a_signal_waits_for_the_line_that_it_came_into(number: signal.Signals) -> None:
    """Python refuses a write within a write of the same thread."""
    raw = Signalling(number)
    stream = io.TextIOWrapper(io.BufferedWriter(raw), write_through=True)
    asked = []

    def ask(heard: signal.Signals, is_impatient: bool) -> str:
        asked.append((heard, is_impatient))
        return f"{heard.name} is heard"

    with stop_requests(ask, lambda text: print(text, file=stream, flush=True)):
        print("step 1", file=stream, flush=True)
        stream.flush()
    stream.flush()
    assert asked == [(number, False)]
    assert raw.written.decode().split("\n") == ["step 1", f"{number.name} is heard", ""]


def test_a_second_ctrl_c_leaves_at_once_and_handlers_are_put_back() -> None:
    before, heard = signal.getsignal(signal.SIGINT), []

    def ask(number: signal.Signals, is_impatient: bool) -> None:
        heard.append(is_impatient)
        if is_impatient:
            raise KeyboardInterrupt

    with stop_requests(ask):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert heard == [False, True]
    assert signal.getsignal(signal.SIGINT) is before
    assert "signals" not in {thread.name for thread in threading.enumerate()}
