"""WarmProcesses: processes of this machine that have imported what trains, and fork a child for each run of a sweep.

A child is as a fresh process would be: no run finds what another left (memory, settings, a person's modules), and it costs some hundredths
of a second instead of an interpreter, torch and a Ray (docs/decisions/053). Where a child dies, the next run has another.
"""

import contextlib
import subprocess
import threading
import time
from queue import Empty, SimpleQueue
from typing import Self

from largebatch.jobs.import_paths import environment, python
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.sweep.trials.processes import Lost, News
from largebatch.tuning.sweep.trials.resources import TrialOptions
from largebatch.tuning.sweep.trials.warm.lines import READY, Answer, Begin, read_news

PATIENCE_S = 5.0
"""How long a process that is let go of may take to end."""


class WarmProcess:
    """One of them; its standard input is a leash: when this process ends, in whatever way, it and its child read the end.

    Args: told: gets what it tells, with itself: a line, or None once it is gone.
    """

    def __init__(self, told: "SimpleQueue[tuple[WarmProcess, str | None]]") -> None:
        self.popen = subprocess.Popen(
            python("-m", "largebatch.tuning.sweep.trials.warm.main"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # out of a terminal's Ctrl-C, and in this session: see the mirror's process
            env=environment(),
        )
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self._stdin, self._stdout, self._told = self.popen.stdin, self.popen.stdout, told
        self._reader = threading.Thread(target=self._pass_on, daemon=True)
        self._reader.start()

    def tell(self, line: str) -> None:
        """Write one line to it; where it is gone, that is told."""
        with contextlib.suppress(OSError):
            self._stdin.write(f"{line}\n")
            self._stdin.flush()

    def _pass_on(self) -> None:
        for line in self._stdout:
            self._told.put((self, line))
        self._told.put((self, None))

    def end(self) -> None:
        """Let go of the leash, and wait for the end."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            self.popen.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self._reader.join(PATIENCE_S)  # a child that was orphaned holds the other end until it reads the leash's
        if not self._reader.is_alive():
            self._stdout.close()


class WarmProcesses:
    """See `Processes`. A context manager: with it they end."""

    def __init__(self) -> None:
        self._told: SimpleQueue[tuple[WarmProcess, str | None]] = SimpleQueue()
        self._all: set[WarmProcess] = set()
        self._starting: set[WarmProcess] = set()
        self._free: list[WarmProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in [*self._all]:
            self._end(process)

    def provide(self, number: int) -> None:
        """See `Processes`."""
        while len(self._free) + len(self._starting) < number:
            process = WarmProcess(self._told)
            self._all.add(process)
            self._starting.add(process)

    def get_ready(self, seconds: float) -> None:
        """Wait until those that were begun are ready: their start would disturb a clock. Args: seconds: how long at most."""
        ends_at_s = time.monotonic() + seconds
        while self._starting and (left_s := ends_at_s - time.monotonic()) > 0:
            self.wait(left_s)

    def take(self) -> WarmProcess | None:
        """See `Processes`."""
        return self._free.pop() if self._free else None

    def begin(self, process: object, spec: TrainSpec, options: TrialOptions, run_id: str) -> None:
        """See `Processes`."""
        assert isinstance(process, WarmProcess)
        process.tell(Begin(spec=spec, options=options, run_id=run_id).model_dump_json())

    def go_on(self, process: object, ends_early: bool) -> None:
        """See `Processes`."""
        assert isinstance(process, WarmProcess)
        process.tell(Answer(ends_early=ends_early).model_dump_json())

    def wait(self, seconds: float) -> list[News]:
        """See `Processes`."""
        try:
            process, line = self._told.get(timeout=seconds)
        except Empty:
            return []
        if line is None:
            was_free, was_starting = process in self._free, process in self._starting
            self._end(process)
            return [] if was_free else [News(None if was_starting else process, Lost())]
        if line == READY:
            self._starting.discard(process)
            self._free.append(process)
            return []
        news = read_news(line)
        if isinstance(news, Lost):
            self._free.append(process)  # its child died; it can have another
        return [News(process, news)]

    def release(self, process: object) -> None:
        """See `Processes`."""
        assert isinstance(process, WarmProcess)
        self._free.append(process)

    def _end(self, process: WarmProcess) -> None:
        if process in self._starting:
            process.popen.kill()  # it holds nothing yet, and would read the end of its leash only when it has imported everything
        self._all.discard(process)
        self._starting.discard(process)
        if process in self._free:
            self._free.remove(process)
        process.end()
