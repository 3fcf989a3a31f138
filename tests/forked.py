"""Commands in processes of their own, to be sent signals, killed, or cut short: forked from one that has imported what they import.

Python, torch and the package take a command seconds, far longer than what it does in a test. What a fresh process does before its work and after
it is tested where that is the point: tests/jobs/test_own_processes.py, tests/end_to_end/test_engine_alone.py, tests/test_install.py.
"""

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO

from small_runs import ROOT

COMMANDS = (
    "largebatch.jobs.launch.local", "largebatch.jobs.launch.train", "largebatch.service.cli.main", "largebatch.service.cli.commands.train",
)  # fmt: skip
"""What commands that train import."""


class Forked:
    """A process; of what `subprocess.Popen` has, the same under the same names."""

    def __init__(
        self,
        *words: object,
        folder: Path = ROOT,
        new_session: bool = False,
        file_bytes: int | None = None,
        imports: Sequence[str] = (),
        usual_imports: Sequence[str] = COMMANDS,
        log: IO[bytes] | None = None,
        **environment: str,
    ) -> None:
        """Args: words: after `python`: -m and a module, or -c and code, and arguments; file_bytes: beyond that no file grows, as on a full disk.
        imports: what it imports and other commands do not: it is forked from a process of its own, which has imported that too.
        log: the file that both streams are written to; here they are closed then.
        """
        command = {
            "words": [*map(str, words)], "folder": str(folder), "new_session": new_session, "file_bytes": file_bytes,
            "environment": {**os.environ, "OMP_NUM_THREADS": "1", **environment},
        }  # fmt: skip
        reading, writing = zip(*(os.pipe() for _ in range(3)), strict=True)
        files = writing if log is None else (log.fileno(), log.fileno(), writing[2])
        socket.send_fds(_server(*usual_imports, *imports), [json.dumps(command).encode()], files)
        for file in writing:
            os.close(file)
        self.stdout: IO[str] = os.fdopen(reading[0])
        self.stderr: IO[str] = os.fdopen(reading[1])
        if log is not None:
            self.stdout.close()
            self.stderr.close()
        self._told: IO[str] = os.fdopen(reading[2])
        self.pid = int(self._told.readline())
        self.returncode: int | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        with self._told:
            line = self._told.readline()
        self.returncode = int(line) if line else -signal.SIGKILL
        self._ended.set()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("a forked command", timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it still says on both streams, once it has ended and whoever else held them."""
        said = {"stdout": "", "stderr": ""}

        def read(name: str) -> None:
            stream: IO[str] = getattr(self, name)
            if not stream.closed:
                with stream:
                    said[name] = stream.read()

        readers = [threading.Thread(target=read, args=(name,), daemon=True) for name in said]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return said["stdout"], said["stderr"]


@cache
def _server(*imports: str) -> socket.socket:
    """A way to the one that forks, which ends when this process does. Args: imports: what it imports."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script = Path(__file__).with_name("fork_server.py")
    with its:
        server = subprocess.Popen(
            [sys.executable, script, str(its.fileno()), *imports], pass_fds=[its.fileno()], env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def end() -> None:
        ours.close()
        server.wait(30)

    atexit.register(end)
    return ours
