"""Runs a sweep and shows it meanwhile: a live table of its groups on a terminal, a line per run when piped."""

import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from largebatch.jobs.run.records import RunSummary
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tasks.metric import in_places
from largebatch.service.cli.console import print_plain, time_left
from largebatch.tuning.results.analysis.configurations import score_spread, spread
from largebatch.tuning.results.unit import clock_in_words
from largebatch.tuning.sweep.ledger import Ledger, Trial
from largebatch.tuning.sweep.space import SweepGroup, group_name, groups
from largebatch.tuning.sweep.spec import SweepSpec
from largebatch.tuning.sweep.sweep import SweepOptions, SweepProgress, run_sweep
from largebatch.tuning.sweep.trials.resources import TrialReport
from largebatch.tuning.sweep.trials.run_trials import SweepListener

REFRESH_PER_S = 4
MOST_ROWS = 24
BY_WHICH_RULE = "Best so far: by the median of the seeds that did not choose it, if any."


@dataclass
class _Standing:
    """The standing of one sweep group: its runs so far."""

    name: str
    num_over: int = 0
    num_failed: int = 0
    running: dict[int, float] = field(default_factory=dict)
    """Trial number -> score last reported."""
    searched: list[tuple[Trial, RunSummary]] = field(default_factory=list)
    repeated: list[tuple[Trial, RunSummary]] = field(default_factory=list)
    num_diverged: int = 0

    @property
    def best(self) -> tuple[Trial, list[RunSummary]] | None:
        """The best choice so far as an answer would have it, and the runs that count for it: seeds that did not choose it, once there are some."""
        if self.repeated:
            return self.repeated[0][0], [summary for _, summary in self.repeated]
        best = min(self.searched, key=lambda run: _rank(run[1]), default=None)
        return best and (best[0], [best[1]])


class SweepView:
    """Follows a sweep.

    Args: total: its runs, at most; rounds_s: seconds within which it begins rounds that it can do without (`budget.rounds_seconds`); after_s: of
        what a study does afterwards, which is told as left, too; clock: seconds.
    """

    def __init__(
        self,
        console: Console,
        sweep_groups: list[SweepGroup],
        total: int,
        ledger: Ledger,
        rounds_s: float | None = None,
        after_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._after_s = clock, after_s
        self._console, self._total, self._ledger, self._rounds_s = console, total, ledger, rounds_s
        self._standings = [_Standing(group_name(sweep_group)) for sweep_group in sweep_groups]
        self._has_begun, self._began_s, self._num_over_before = False, clock(), 0
        for trial in ledger.trials:
            if ledger.is_over(trial):
                self._take(trial)
                self._num_over_before += 1
        self._notice = partial(print_plain, console)
        is_live = console.is_terminal
        self.live = Live(console=console, refresh_per_second=REFRESH_PER_S, get_renderable=self._draw) if is_live else nullcontext()
        """The context in which a terminal shows it."""

    def listener(self) -> SweepListener:
        """What to hand to the sweep."""
        return SweepListener(self._begins, self._reports, self._ends, self._notice)

    @property
    def _num_over(self) -> int:
        return sum(standing.num_over for standing in self._standings)

    def _begins(self, trial: Trial) -> None:
        if not self._has_begun:  # what came before, such as the start of processes, comes once
            self._has_begun, self._began_s = True, self._clock()
        self._standings[trial.group].running[trial.number] = 0.0

    def _reports(self, trial: Trial, report: TrialReport) -> None:
        self._standings[trial.group].running[trial.number] = report.score or 0.0

    def _ends(self, trial: Trial, how: str) -> None:
        self._standings[trial.group].running.pop(trial.number, None)
        if how == "stopped":
            return
        summary = self._take(trial)
        if not self._console.is_terminal:
            self._notice(f"{self._num_over}/{self._total}  {trial.run_id}  {how}{_result(summary)}  {self._remaining()}")

    def _take(self, trial: Trial) -> RunSummary | None:
        standing, summary = self._standings[trial.group], self._ledger.summary(trial)
        standing.num_over += 1
        ending = self._ledger.ending(trial)
        standing.num_failed += ending is not None and ending.how != "pruned"
        standing.num_diverged += summary is not None and summary.outcome == "diverged"
        if summary is not None:
            (standing.searched if trial.phase == "search" else standing.repeated).append((trial, summary))
        return summary

    def _remaining(self) -> str:
        done = self._num_over - self._num_over_before
        if not done:
            return time_left(None)
        elapsed_s = self._clock() - self._began_s
        left_s = elapsed_s / done * (self._total - self._num_over)
        if self._rounds_s is not None:  # a run that is under way then is not ended
            left_s = min(left_s, max(self._rounds_s - elapsed_s, elapsed_s / done))
        return f"about {time_left(left_s + self._after_s)}{' of all' if self._after_s else ''}"

    def _draw(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0))
        standings = self._standings[:MOST_ROWS]
        mishaps = {"diverged": [of.num_diverged for of in standings], "failed": [of.num_failed for of in standings]}
        shown = {name: counts for name, counts in mishaps.items() if any(counts)}
        for column in ("", "runs", "running", "best rate", "s to target", "score", "seeds", *shown):
            table.add_column(column, justify="left" if column in {"", "running"} else "right", no_wrap=column != "", overflow="fold")
        for row, standing in enumerate(standings):
            table.add_row(
                standing.name, str(standing.num_over), _in_a_word([*standing.running.values()]), *_best(standing.best),
                *(str(counts[row] or "") for counts in shown.values()),
            )  # fmt: skip
        if len(self._standings) > MOST_ROWS:
            table.add_row(f"and {len(self._standings) - MOST_ROWS} more")
        bar = Table.grid(padding=(0, 2, 0, 0))
        runs = f"{self._num_over}/{self._total} runs" if self._rounds_s is None else f"{self._num_over} runs of at most {self._total}"
        bar.add_row(ProgressBar(self._total, self._num_over, width=40), Text(runs), Text(self._remaining()))
        rule = [Text(BY_WHICH_RULE, style="dim")] if any(of.repeated for of in standings) else []
        return Group(table, *rule, bar)


def run_with_view(
    spec: SweepSpec,
    base: TrainSpec,
    num_runs: int,
    options: SweepOptions,
    when_over: Callable[[Path], None],
    console: Console | None = None,
    after_s: float = 0.0,
) -> SweepProgress:
    """Run what is left of a sweep, with a view of it on standard error.

    Args: num_runs: how many it has in all; when_over: what is left to do in its folder once no run is; console: what the caller prints by, too,
        meanwhile: lines of another would be drawn over; after_s: of what a study does afterwards.
    """
    most = "up to " if spec.budget.rounds_seconds is not None else ""
    print(f"Sweep: {options.folder}, {most}{num_runs} runs", file=sys.stderr)
    view = SweepView(console or Console(stderr=True), groups(spec), num_runs, Ledger(options.folder), spec.budget.rounds_seconds, after_s)
    with view.live:
        progress = run_sweep(spec, base, options, view.listener(), when_over)
    for failure in progress.failures:
        print(f"Failed: {failure}", file=sys.stderr)
    if progress.spent:
        print(progress.spent, file=sys.stderr)
    return progress


def _result(summary: RunSummary | None) -> str:
    if summary is None:
        return ""
    score = "" if summary.best_score is None else f"  {summary.headline.metric.in_words(summary.best_score)}"
    seconds = "" if summary.time_to_target_seconds is None else f"  {clock_in_words(summary.time_to_target_seconds)} s to target"
    return f"{score}{seconds}  training {clock_in_words(summary.training_seconds)} s"


def _rank(summary: RunSummary) -> tuple[float, float]:
    """As `Configuration.rank`, of one run."""
    seconds, best = summary.time_to_target_seconds, summary.best_score
    return math.inf if seconds is None else seconds, math.inf if best is None else -summary.headline.metric.goodness(best)


def _best(best: tuple[Trial, list[RunSummary]] | None) -> tuple[str, str, str, str]:
    """Learning rate, seconds to the target, score and number of seeds of a choice."""
    if best is None:
        return "", "", "", ""
    (trial, summaries), metric = best, best[1][0].headline.metric
    seconds = spread([summary.time_to_target_seconds for summary in summaries]).median
    reached = score_spread([summary.best_score for summary in summaries], metric).median
    rate = trial.fields.get("learning_rate.base")
    return (
        "" if rate is None else f"{rate:.4g}",
        "-" if seconds is None else clock_in_words(seconds),
        "-" if reached is None else metric.format(reached),
        str(len(summaries)),
    )


def _in_a_word(scores: list[float]) -> str:
    """The runs under way: the score of the first, and how many more."""
    first = "" if not scores else in_places(scores[0]) if scores[0] else "begins"
    return first + (f" +{len(scores) - 1}" if len(scores) > 1 else "")
