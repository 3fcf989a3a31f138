"""A process of ours that ends with this one, and what it says."""

import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress

from largebatch.jobs.import_paths import environment, python

READER_S = 5.0
"""How long the rest of what a process said is waited for: a child that it leaves behind may hold the other end."""


class LeashedProcess:
    """A process of a module of ours, and a thread that passes on what it says.

    Its standard input is a leash: when this process ends, in whatever way, it reads the end.

    Args: module: what it runs; heard: told each line that it says, with the process, and None once it says nothing more.
    """

    def __init__(self, module: str, heard: "Callable[[LeashedProcess, str | None], None]") -> None:
        self.popen = subprocess.Popen(
            python("-m", module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Out of a terminal's Ctrl-C, but in this session: Linux gives every session an equal share of the cores
            # (autogroup), and within another one the lowest priority is low among itself alone.
            process_group=0,
            env=environment(),
        )
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self._stdin, self._stdout, self._heard = self.popen.stdin, self.popen.stdout, heard
        self._reader = threading.Thread(target=self._pass_on, daemon=True)
        self._reader.start()

    def tell(self, line: str) -> None:
        """Write one line to it; one that is gone hears nothing, and `heard` tells of it."""
        with suppress(OSError):
            self._stdin.write(f"{line}\n")
            self._stdin.flush()

    def _pass_on(self) -> None:
        for line in self._stdout:
            self._heard(self, line)
        self._heard(self, None)

    def ends_within(self, seconds: float) -> bool:
        """Let go of the leash and wait; returns whether it has ended by itself: one that has not is killed."""
        with suppress(OSError):  # closing sends what one that died has not taken
            self._stdin.close()
        try:
            self.popen.wait(seconds)
            has_ended = True
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            has_ended = False
        self._reader.join(READER_S)
        if not self._reader.is_alive():
            self._stdout.close()
        return has_ended
