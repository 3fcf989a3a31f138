"""Shows a run while it trains: a progress line on a terminal, plain lines when piped."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.status import Status

from largebatch.jobs.run.records import EvalRecord, Record, StartRecord, StepRecord
from largebatch.jobs.tasks.metric import ACCURACY
from largebatch.tuning.results.unit import SAMPLES, unit_of

PLAIN_EVERY_S = 5.0
REFRESH_S = 0.2
TIMES_WIDTH = 28
"""What a line on a terminal has beside its words: the spinner, `100:00 left`, `1:00:00` and the gaps, with some room."""


def time_left(seconds: float | None) -> str:
    """Minutes and seconds in words; None: not known yet."""
    return "--:-- left" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d} left"


def print_plain(console: Console, text: str) -> None:
    """A line that stays, beside whatever is drawn, with no mark-up and no breaks of its own."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def teller(console: Console, status: Status, told_at_s: float = -math.inf) -> Callable[[str], None]:
    """A function whose text stands beside a spinner, or without a terminal is a line now and then. Args: told_at_s: of the last such line."""

    def tell(text: str) -> None:
        nonlocal told_at_s
        status.update(text)
        if not console.is_terminal and time.monotonic() - told_at_s > PLAIN_EVERY_S:
            print_plain(console, text)
            told_at_s = time.monotonic()

    return tell


@contextmanager
def told_while_working() -> Iterator[Callable[[str], None]]:
    """Context of a long measurement, with the function that shows what is under way: see `teller`."""
    console = Console(stderr=True)
    with console.status("") as status:
        yield teller(console, status)


class TrainingView:
    """Follows one run's records. Args: clock: seconds, by which what is shown is held back."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._total_steps, self._total_progress = 0, 0.0
        self._live = console.is_terminal
        self._shown_at_s = 0.0
        self._score, self._metric = "", ACCURACY
        self._first: StepRecord | None = None
        self._last: StepRecord | None = None
        self._unit = SAMPLES
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("[cyan]{task.fields[left]}"), TimeElapsedColumn())
        self.progress = Progress(*columns, console=console, transient=True, disable=not self._live)
        """The line that moves, on a terminal; a context manager."""
        self._task: Any = self.progress.add_task("preparing", total=None, left=time_left(None))

    def expect(self, total_steps: int, total_progress: float) -> None:
        """Know how many steps and samples the plan has."""
        self._total_steps, self._total_progress = total_steps, total_progress

    def started(self, run_dir: Path) -> None:
        """Say where the results go."""
        self.notice(f"Run folder: {run_dir}")

    def ending(self) -> None:
        """Say what is done after the last step: figure and MLflow's copy take seconds, the score on large training sets minutes."""
        if self._live:
            self.progress.update(self._task, description="training is over; keeping scores, figure and records", left="")
        else:
            self.notice("Training is over; its scores, figure and records are kept.")

    def notice(self, text: str) -> None:
        """A line that stays."""
        print_plain(self._console, text)

    def record(self, record: Record) -> None:
        """Show what is new, a few times a second at most."""
        if isinstance(record, StartRecord):
            self._metric, self._unit = record.headline.metric, unit_of([record.tokens_per_sample])
            classes = "" if record.num_classes is None else f", {record.num_classes:,} classes"
            held_out = "" if record.num_validation_samples is None else f"{record.num_validation_samples:,} validation samples, "
            self.notice(f"{record.num_train_samples:,} training samples, {held_out}{record.num_test_samples:,} test samples{classes}")
            self.progress.update(self._task, description="before the first step")
        elif isinstance(record, EvalRecord):
            self._score = f"  {self._metric.in_words(record.score)}"
            if not self._live:
                self.notice(f"step {record.step}  epoch {record.epoch:.2f}{self._score}  training {record.training_seconds:.1f} s")
            if self._last is not None:
                self.progress.update(self._task, description=self._line(self._last))
        elif isinstance(record, StepRecord):
            self._first, self._last = self._first or record, record
            now = self._clock()
            if now - self._shown_at_s >= (REFRESH_S if self._live else PLAIN_EVERY_S):
                if self._live:
                    remaining_s = self._remaining_s(record)
                    self.progress.update(self._task, description=self._line(record), remaining_s=remaining_s, left=time_left(remaining_s))
                elif self._shown_at_s:
                    self.notice(self._line(record))
                self._shown_at_s = now

    def _rate(self, record: StepRecord) -> float:
        first = self._first or record
        seconds = record.training_seconds - first.training_seconds
        return (record.samples_seen - first.samples_seen) / seconds if seconds > 0 else 0.0

    def _remaining_s(self, record: StepRecord) -> float | None:
        """By the pace of the schedules, whose end is the run's: under AdaScale they run ahead of the samples."""
        first = self._first or record
        done = record.progress - first.progress
        return (self._total_progress - record.progress) * (record.training_seconds - first.training_seconds) / done if done > 0 else None

    def _line(self, record: StepRecord) -> str:
        parts = {
            "step": f"step {record.step}/{self._total_steps}",
            "rate": f"  {self._unit.words(self._rate(record))}/s",
            "loss": f"  loss {record.loss:.4f}",
            "lr": f"  lr {record.learning_rate:.4g}",
            "score": self._score,
        }
        for least in ("lr", "rate", "score"):
            if not self._live or sum(map(len, parts.values())) <= self._console.width - TIMES_WIDTH:
                break
            del parts[least]
        return "".join(parts.values())
