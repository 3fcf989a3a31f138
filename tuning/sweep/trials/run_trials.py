"""TrialRunner: gives the runs that `Search` decides on to processes of Ray, and takes down how each ended.

    Search --next trial--> TrialRunner --begin, go_on--> TrialProcess (a Ray actor) --> run folder
       ^----- ended -----------' ^---------- TrialReport ----------'

Ray's part is where and when a process runs. What was decided and how it ended is in the ledger and the run folders, so a sweep that was
killed goes on by being asked what is left (docs/decisions/009).
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from largebatch.jobs.run.records import Headline
from largebatch.tuning.sweep.ledger import Ending, Trial
from largebatch.tuning.sweep.search import Search
from largebatch.tuning.sweep.trials.early_stop import EarlyStopping
from largebatch.tuning.sweep.trials.process import TrialProcess
from largebatch.tuning.sweep.trials.resources import TrialOptions, TrialReport

MAX_FAILURES = 3
"""How often a run whose process died goes on from its checkpoint; a process that went with a preempted machine does not count."""
POLL_S, LOOK_EVERY_S, GONE_AFTER_S = 0.5, 5.0, 30.0
"""How often to look whether the sweep was asked to stop, and whether Ray has a machine left; how long it may have none."""
TRIAL_MEMORY = 2**20
"""What the process of a run on several workers asks Ray for: something, but no core, or such processes would keep
the cores that their own workers wait for."""


@dataclass(frozen=True)
class SweepListener:
    """Called in the sweep's own process."""

    on_begin: Callable[[Trial], None] = lambda trial: None
    on_report: Callable[[Trial, TrialReport], None] = lambda trial, report: None
    """At each evaluation."""
    on_end: Callable[[Trial, str], None] = lambda trial, how: None
    """how: the run's outcome, or pruned, failed, faulted, stopped (it goes on with the sweep)."""
    on_notice: Callable[[str], None] = lambda text: None


@dataclass
class _Run:
    """A trial that waits for a process, or has one."""

    trial: Trial
    process: Any = None
    num_failures: int = 0
    best: TrialReport | None = None
    samples_seen: int = 0
    ends_early: bool = False


class TrialRunner:
    """Runs what is left of a sweep. Args: stop: set when the sweep was asked to stop."""

    def __init__(self, search: Search, early_stopping: EarlyStopping, listener: SweepListener, options: TrialOptions, stop: threading.Event) -> None:
        self._search, self._early_stopping, self._listener, self._options, self._stop = search, early_stopping, listener, options, stop
        self._ledger, shares = search.ledger, options.shares
        if shares.workers == 1:
            resources: dict[str, Any] = {"num_cpus": shares.cpus_per_worker, "num_gpus": shares.gpus_per_worker}
        else:
            resources = {"num_cpus": 0, "memory": TRIAL_MEMORY}
        self._actor_class: Any = ray.remote(TrialProcess).options(**resources)
        self._waiting: deque[_Run] = deque()
        self._running: dict[Any, _Run] = {}
        """By the reference to the run's next report."""
        self._starting: dict[Any, Any] = {}
        """Processes by the reference that resolves when they are ready."""
        self._idle: list[Any] = []
        self._look_at_s = self._alive_at_s = time.monotonic()

    def run(self) -> None:
        """Until nothing is left to begin, and nothing is under way. Raises: RayError or RuntimeError where Ray is gone."""
        self._begin_trials()
        while self._waiting or self._running:
            ready, _ = ray.wait([*self._running, *self._starting], timeout=POLL_S)
            for reference in ready:
                self._take_process(reference) if reference in self._starting else self._take_report(reference)
            self._refuse_empty_cluster()
            self._begin_trials()

    def _begin_trials(self) -> None:
        """Take what `Search` decides, as many as go at a time, and give it to processes that are free."""
        while not self._stop.is_set() and len(self._waiting) + len(self._running) < self._options.shares.num_concurrent:
            trial = self._search.next_trial()
            if not isinstance(trial, Trial):
                break
            self._listener.on_begin(trial)
            self._waiting.append(_Run(trial))
        while self._waiting and self._stop.is_set():
            self._listener.on_end(self._waiting.popleft().trial, "stopped")
        while self._waiting and self._idle:
            run = self._waiting.popleft()
            run.process = self._idle.pop()
            self._running[run.process.begin.remote(run.trial.spec(self._search.base), run.trial.run_id)] = run
        while len(self._starting) < len(self._waiting):
            process = self._actor_class.remote(self._options)
            self._starting[process.get_ready.remote()] = process

    def _take_process(self, reference: Any) -> None:
        """A process is ready, or died before it was."""
        process = self._starting.pop(reference)
        try:
            ray.get(reference)
            self._idle.append(process)
        except RayError as error:
            if self._waiting:
                self._retry(self._waiting.popleft(), error)

    def _take_report(self, reference: Any) -> None:
        """A run was evaluated, is over, or lost its process."""
        run = self._running.pop(reference)
        try:
            report: TrialReport = ray.get(reference)
        except RayError as error:
            ray.kill(run.process)
            self._retry(run, error)
            return
        if report.is_over:
            self._idle.append(run.process)
            if report.error is None and not run.ends_early:
                self._early_stopping.falls_behind(run.trial, report)  # what comes after it is compared with its end as well
            self._end(run, report)
            return
        run.best = report if run.best is None or report.goodness > run.best.goodness else run.best
        run.samples_seen = report.samples_seen
        self._listener.on_report(run.trial, report)
        run.ends_early = not self._stop.is_set() and self._early_stopping.falls_behind(run.trial, report)
        self._running[run.process.go_on.remote(run.ends_early or self._stop.is_set())] = run

    def _retry(self, run: _Run, error: RayError) -> None:
        run.num_failures += not (isinstance(error, RayActorError) and error.preempted)
        if run.num_failures > MAX_FAILURES:
            self._end(run, TrialReport(is_over=True, error="its process died, again and again", is_fault=True))
        else:
            self._waiting.appendleft(run)

    def _end(self, run: _Run, report: TrialReport) -> None:
        """Write down how a run ended, and let the search learn from it; a run that was stopped is left for the next time."""
        trial, how = run.trial, "stopped"
        if (report.error is None or run.ends_early) and self._ledger.summary(trial) is not None:
            how = "ended"
        elif run.ends_early or report.error is not None:
            how = "pruned" if run.ends_early else "faulted" if report.is_fault else "failed"
            ending = {"why": report.error or "", "samples_seen": run.samples_seen}
            if run.best is not None:
                ending |= {"score": run.best.score, "headline": Headline.of(run.best.metric)}
            self._ledger.add(Ending.model_validate({"number": trial.number, "how": how, **ending}))
        self._ledger.spend()
        if how != "stopped":
            self._search.ended(trial)
        summary = self._ledger.summary(trial)
        self._listener.on_end(trial, summary.outcome.value if how == "ended" and summary else how)

    def _refuse_empty_cluster(self) -> None:
        """Raise RuntimeError where no machine is left for long: Ray would wait for one for ever."""
        now = time.monotonic()
        if now < self._look_at_s:
            return
        self._look_at_s = now + LOOK_EVERY_S
        nodes: Any = ray.nodes  # without types
        if any(node["Alive"] for node in nodes()):
            self._alive_at_s = now
        elif now - self._alive_at_s > GONE_AFTER_S:
            raise RuntimeError("Ray has no machine left")
