"""TrialRunner: gives the runs that `Search` decides on to processes, and takes down how each ended.

    Search --next trial--> TrialRunner --begin, go_on--> Processes (warm ones of this machine, or Ray's) --> run folder
       ^----- ended -----------' ^---------- TrialReport ----------'

What was decided and how it ended is in the ledger and the run folders, so a sweep that was killed goes on by being asked what is left
(docs/decisions/009).
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from largebatch.jobs.run.records import Headline
from largebatch.tuning.sweep.ledger import Ending, Trial
from largebatch.tuning.sweep.search import Search
from largebatch.tuning.sweep.trials.early_stop import EarlyStopping
from largebatch.tuning.sweep.trials.processes import Lost, News, Processes
from largebatch.tuning.sweep.trials.resources import TrialOptions, TrialReport

MAX_FAILURES = 3
"""How often a run whose process died goes on from its checkpoint; a process that went with a preempted machine does not count."""
POLL_S = 0.5
"""How often to look whether the sweep was asked to stop."""


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
    num_failures: int = 0
    best: TrialReport | None = None
    samples_seen: int = 0
    ends_early: bool = False


class TrialRunner:
    """Runs what is left of a sweep. Args: stop: set when the sweep was asked to stop."""

    def __init__(
        self,
        search: Search,
        early_stopping: EarlyStopping,
        listener: SweepListener,
        options: TrialOptions,
        processes: Processes,
        stop: threading.Event,
    ) -> None:
        self._search, self._early_stopping, self._listener, self._options, self._stop = search, early_stopping, listener, options, stop
        self._ledger, self._processes = search.ledger, processes
        self._waiting: deque[_Run] = deque()
        self._running: dict[object, _Run] = {}
        """By the process that trains it."""

    def run(self) -> None:
        """Until nothing is left to begin, and nothing is under way. Raises: GoneError."""
        self._begin_trials()
        while self._waiting or self._running:
            for news in self._processes.wait(POLL_S):
                self._take(news)
            self._begin_trials()

    def _begin_trials(self) -> None:
        """Take what `Search` decides, as many as go at a time, and give it to processes that are free."""
        while not self._stop.is_set() and len(self._waiting) + len(self._running) < self._most_at_once:
            trial = self._search.next_trial()
            if not isinstance(trial, Trial):
                break
            self._listener.on_begin(trial)
            self._waiting.append(_Run(trial))
        while self._waiting and self._stop.is_set():
            self._listener.on_end(self._waiting.popleft().trial, "stopped")
        while self._waiting and len(self._running) < self._most_at_once and (process := self._processes.take()) is not None:
            run = self._running[process] = self._waiting.popleft()
            self._processes.begin(process, run.trial.spec(self._search.base), self._options, run.trial.run_id)
        self._processes.provide(len(self._waiting))

    @property
    def _most_at_once(self) -> int:
        """How many runs may go at a time: fewer as soon as one of them is a repeat, which reports its seconds."""
        reports = any(run.trial.phase == "repeat" for run in (*self._waiting, *self._running.values()))
        shares = self._options.shares
        return shares.num_concurrent if reports else max(shares.num_concurrent, shares.num_searching)

    def _take(self, news: News) -> None:
        """A run was evaluated, is over, or lost its process; or a process died before it had one."""
        process, report = news
        if process is None:
            if self._waiting and isinstance(report, Lost):
                self._retry(self._waiting.popleft(), report)
            return
        run = self._running[process]
        if isinstance(report, Lost):
            del self._running[process]
            self._retry(run, report)
        elif report.is_over:
            del self._running[process]
            self._processes.release(process)
            if report.error is None and not run.ends_early:
                self._early_stopping.falls_behind(run.trial, report)  # what comes after it is compared with its end as well
            self._end(run, report)
        else:
            run.best = report if run.best is None or report.goodness > run.best.goodness else run.best
            run.samples_seen = report.samples_seen
            self._listener.on_report(run.trial, report)
            run.ends_early = not self._stop.is_set() and self._early_stopping.falls_behind(run.trial, report)
            self._processes.go_on(process, run.ends_early or self._stop.is_set())

    def _retry(self, run: _Run, lost: Lost) -> None:
        run.num_failures += not lost.is_preempted
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
