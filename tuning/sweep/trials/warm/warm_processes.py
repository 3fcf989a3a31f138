"""WarmProcesses: processes of this machine that have imported what trains, and fork a child for each run of a sweep.

A child is as a fresh process would be: no run finds what another left (memory, settings, a person's modules), and it costs some hundredths
of a second instead of an interpreter, torch and a Ray (docs/decisions/053). Where a child dies, the next run has another.
"""

import time
from contextlib import AbstractContextManager
from queue import Empty, SimpleQueue

from largebatch.jobs.run.leashed_process import LeashedProcess
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.sweep.trials.processes import Lost, News
from largebatch.tuning.sweep.trials.resources import TrialOptions
from largebatch.tuning.sweep.trials.warm.lines import READY, Answer, Begin, read_news

PATIENCE_S = 5.0
"""How long a process that is let go of may take to end."""


class WarmProcesses(AbstractContextManager["WarmProcesses"]):
    """See `Processes`. A context manager: with it they end, and so do their children, which read the leash too."""

    def __init__(self) -> None:
        self._told: SimpleQueue[tuple[LeashedProcess, str | None]] = SimpleQueue()
        self._all: set[LeashedProcess] = set()
        self._starting: set[LeashedProcess] = set()
        self._free: list[LeashedProcess] = []

    def __exit__(self, *_: object) -> None:
        for process in [*self._all]:
            self._end(process)

    def provide(self, number: int) -> None:
        """See `Processes`."""
        while len(self._free) + len(self._starting) < number:
            process = LeashedProcess("largebatch.tuning.sweep.trials.warm.main", lambda *told: self._told.put(told))
            self._all.add(process)
            self._starting.add(process)

    def get_ready(self, seconds: float) -> None:
        """Wait until those that were begun are ready: their start would disturb a clock. Args: seconds: how long at most."""
        ends_at_s = time.monotonic() + seconds
        while self._starting and (left_s := ends_at_s - time.monotonic()) > 0:
            self.wait(left_s)

    def take(self) -> LeashedProcess | None:
        """See `Processes`."""
        return self._free.pop() if self._free else None

    def begin(self, process: object, spec: TrainSpec, options: TrialOptions, run_id: str) -> None:
        """See `Processes`."""
        assert isinstance(process, LeashedProcess)
        process.tell(Begin(spec=spec, options=options, run_id=run_id).model_dump_json())

    def go_on(self, process: object, ends_early: bool) -> None:
        """See `Processes`."""
        assert isinstance(process, LeashedProcess)
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
        assert isinstance(process, LeashedProcess)
        self._free.append(process)

    def _end(self, process: LeashedProcess) -> None:
        if process in self._starting:
            process.popen.kill()  # it holds nothing yet, and would read the end of its leash only when it has imported everything
        self._all.discard(process)
        self._starting.discard(process)
        if process in self._free:
            self._free.remove(process)
        process.ends_within(PATIENCE_S)
