"""Shows a sweep while it runs: a live table of its groups on a terminal, a line per run when piped."""

import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from largebatch.jobs.run.records import RunSummary
from largebatch.service.cli.console import time_left
from largebatch.tuning.sweep.ledger import Ledger, Trial
from largebatch.tuning.sweep.search import score
from largebatch.tuning.sweep.space import SweepGroup, group_name
from largebatch.tuning.sweep.trials.resources import TrialReport
from largebatch.tuning.sweep.trials.run_trials import SweepListener

REFRESH_PER_S = 4
MOST_ROWS = 24


@dataclass
class _Standing:
    """The standing of one sweep group: its runs so far."""

    name: str
    num_over: int = 0
    num_failed: int = 0
    running: dict[int, float] = field(default_factory=dict)
    """Trial number -> accuracy last reported."""
    best: RunSummary | None = None
    best_fields: dict[str, Any] = field(default_factory=dict)
    num_diverged: int = 0


class SweepView:
    """Follows a sweep; a context manager."""

    def __init__(self, console: Console, sweep_groups: list[SweepGroup], total: int, ledger: Ledger) -> None:
        self._console, self._total, self._ledger = console, total, ledger
        self._standings = [_Standing(group_name(sweep_group)) for sweep_group in sweep_groups]
        self._has_begun, self._began_s, self._num_over_before = False, time.monotonic(), 0
        for trial in ledger.trials:
            if ledger.is_over(trial):
                self._take(trial)
                self._num_over_before += 1
        self._live = Live(console=console, refresh_per_second=REFRESH_PER_S, get_renderable=self._draw) if console.is_terminal else None

    def __enter__(self) -> "SweepView":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def listener(self) -> SweepListener:
        """What to hand to the sweep."""
        return SweepListener(self._begins, self._reports, self._ends, self.notice)

    def notice(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    @property
    def _num_over(self) -> int:
        return sum(standing.num_over for standing in self._standings)

    def _begins(self, trial: Trial) -> None:
        if not self._has_begun:  # what came before, such as the start of processes, comes once
            self._has_begun, self._began_s = True, time.monotonic()
        self._standings[trial.group].running[trial.number] = 0.0

    def _reports(self, trial: Trial, report: TrialReport) -> None:
        self._standings[trial.group].running[trial.number] = report.score or 0.0

    def _ends(self, trial: Trial, how: str) -> None:
        self._standings[trial.group].running.pop(trial.number, None)
        if how == "stopped":
            return
        summary = self._take(trial)
        if not self._live:
            self.notice(f"{self._num_over}/{self._total}  {trial.run_id}  {how}{_result(summary)}  {self._remaining()}")

    def _take(self, trial: Trial) -> RunSummary | None:
        standing, summary = self._standings[trial.group], self._ledger.summary(trial)
        standing.num_over += 1
        ending = self._ledger.ending(trial)
        standing.num_failed += ending is not None and ending.how != "pruned"
        standing.num_diverged += summary is not None and summary.outcome == "diverged"
        if summary is not None and (standing.best is None or score(summary) < score(standing.best)):
            standing.best, standing.best_fields = summary, trial.fields
        return summary

    def _remaining(self) -> str:
        done = self._num_over - self._num_over_before
        return f"about {time_left((time.monotonic() - self._began_s) / done * (self._total - self._num_over))}" if done else time_left(None)

    def _draw(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("group", "runs", "running", "best: learning rate", "s to target", "best score", "diverged", "failed"):
            table.add_column(column, justify="left" if column in {"group", "running"} else "right", no_wrap=True)
        for standing in self._standings[:MOST_ROWS]:
            best, rate = standing.best, standing.best_fields.get("learning_rate.base")
            running = ", ".join(f"{score:.3f}" if score else "begins" for score in [*standing.running.values()])
            seconds = best.time_to_target_seconds if best else None
            reached = "-" if best is None or best.best_score is None else best.headline.metric.format(best.best_score)
            table.add_row(
                standing.name, str(standing.num_over), running, "" if rate is None else f"{rate:.4g}", "-" if seconds is None else f"{seconds:.2f}",
                reached, str(standing.num_diverged or ""), str(standing.num_failed or ""),
            )  # fmt: skip
        if len(self._standings) > MOST_ROWS:
            table.add_row(f"and {len(self._standings) - MOST_ROWS} more", *[""] * 7)
        bar = Table.grid(padding=(0, 2, 0, 0))
        bar.add_row(ProgressBar(self._total, self._num_over, width=40), Text(f"{self._num_over}/{self._total} runs"), Text(self._remaining()))
        return Group(table, bar)


def _result(summary: RunSummary | None) -> str:
    if summary is None:
        return ""
    score = "" if summary.best_score is None else f"  {summary.headline.metric.in_words(summary.best_score)}"
    seconds = "" if summary.time_to_target_seconds is None else f"  {summary.time_to_target_seconds:.2f} s to target"
    return f"{score}{seconds}  training {summary.training_seconds:.2f} s"
