"""A run's curves for charts: thinned by stride over the whole run, so that they are the same while it goes on and afterwards.

The page goes on from here with what it hears live, by the same rule (`web/static/curves.js`).
"""

import math
from itertools import accumulate
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel

from largebatch.jobs.run.journal import parse_line
from largebatch.jobs.run.json_lines import read_all_lines
from largebatch.jobs.run.records import EndRecord, EvalRecord, Headline, NoticeRecord, Record, StartRecord, StepRecord
from largebatch.jobs.run.run_folder import JOURNAL
from largebatch.service.job import Described

T = TypeVar("T")
PLACES = ("step", "epoch", "samples_seen", "tokens_seen", "training_seconds", "device_seconds")
"""What a chart may be drawn against."""


class Thinned(Generic[T]):
    """At most `most` items of a series that grows: the first, each that is a whole number of strides from it, and the last.

    The stride is 1 while all of them fit, and doubles when they no longer do: which items are kept follows from their number alone.
    """

    def __init__(self, most: int) -> None:
        self._most, self._stride = most, 1
        self.kept: list[T] = []
        self.count = 0
        """How many the series has."""

    def add(self, item: T) -> None:
        """The next item."""
        if (self.count - 1) % self._stride:  # the last so far was kept only for being the last
            self.kept.pop()
        if self.count > self._stride * (self._most - 1):
            self._stride *= 2
            self.kept = self.kept[::2]
        self.count += 1
        self.kept.append(item)


class NoiseSoFar:
    """A noise scale as a run goes on, thinned: at each step that measured it the sums of all estimates until then, and their ratio.

    Args: names: of the ratio, and of the sums of variance and of squared norm.
    """

    def __init__(self, points: int, *names: str) -> None:
        self._names, self._variances, self._norms = names, 0.0, 0.0
        self.thinned: Thinned[dict[str, Any]] = Thinned(points)

    def add(self, variance: float | None, norm: float | None, placed: dict[str, Any]) -> None:
        """A step's estimates; None: it measured nothing. Args: placed: the step, with its `PLACES`."""
        if variance is None or norm is None:
            return
        self._variances += variance
        self._norms += norm
        # Ratio of sums, not mean of ratios: single estimates of the signal can be negative.
        values = (self._variances / self._norms if self._norms > 0 else None, self._variances, self._norms)
        self.thinned.add({**{name: placed[name] for name in PLACES}, **dict(zip(self._names, values, strict=True))})


class Cost(BaseModel):
    """Where the device seconds stood when a process took up the run: from there on each training second costs `world_size` of them."""

    device_seconds: float = 0.0
    training_seconds: float = 0.0
    world_size: int = 1
    headline: Headline = Headline()
    """What the scores are of."""
    tokens_per_sample: int | None = None
    """Of sequences of tokens; null where the task does not count in them."""
    evaluated_on: Literal["test", "validation"] = "test"
    """The part of the data that the evaluations are of."""

    def at(self, training_seconds: float) -> float:
        """Device seconds at this training second."""
        return self.device_seconds + (training_seconds - self.training_seconds) * self.world_size


class Happening(BaseModel):
    """A start, a notice or an end, in words."""

    step: int
    text: str


class Series(Described):
    """A run's curves, without what a later start superseded."""

    steps: list[dict[str, Any]]
    """Evenly spread, the first and the last among them; each with its `device_seconds`."""
    num_steps: int
    """How many there are in all."""
    evaluations: list[dict[str, Any]]
    """All of them, each with its `device_seconds`."""
    noise: list[dict[str, Any]]
    """The gradient noise scale so far, at the steps that measured it, thinned like `steps`: sums of all estimates until then, and their ratio."""
    num_noise: int
    """How many steps measured it."""
    dual_noise: list[dict[str, Any]]
    """The same in the dual of the optimizer's own norm."""
    num_dual_noise: int
    notices: list[dict[str, Any]]
    happened: list[Happening]
    """Starts, notices and ends in the order in which they were written, superseded ones too; last, how many lines are none of ours."""
    start: Cost | None
    """The newest start; null before the first."""
    next_after: int
    """Where the journal's events go on."""


class Curves:
    """Takes a run's records one by one. Its memory does not grow with the number of steps."""

    def __init__(self, points: int) -> None:
        self._steps: Thinned[dict[str, Any]] = Thinned(points)
        self._noise = NoiseSoFar(points, "gradient_noise_scale", "covariance_trace_sum", "gradient_norm_squared_sum")
        self._dual_noise = NoiseSoFar(points, "dual_noise_scale", "dual_variance_sum", "dual_norm_squared_sum")
        self._evaluations: list[dict[str, Any]] = []
        self._notices: list[dict[str, Any]] = []
        self._happened: list[Happening] = []
        self._starts: list[Cost] = []

    def add(self, record: Record, is_superseded: bool) -> None:
        """The next record. Args: is_superseded: a later start went on from before it; then it is told at most."""
        if isinstance(record, StartRecord):
            began = f"Went on from step {record.step}, {record.world_size} worker(s), on" if record.step else "Began on"
            self._happened.append(Happening(step=record.step, text=f"{began} {record.device}"))
            self._add_start(record)
        elif isinstance(record, EndRecord):
            self._happened.append(Happening(step=record.summary.steps, text=f"Ended: {record.summary.outcome}"))
        elif isinstance(record, NoticeRecord):
            self._happened.append(Happening(step=record.step, text=record.text))
            self._notices += [] if is_superseded else [record.model_dump(mode="json", exclude={"kind"})]
        elif isinstance(record, StepRecord | EvalRecord) and not is_superseded:
            placed = {**record.model_dump(exclude={"kind"}), "device_seconds": self._cost(record.training_seconds)}
            if isinstance(record, EvalRecord):
                self._evaluations.append(placed)
            else:
                self._steps.add(placed)
                self._add_noise(record, placed)

    def add_unreadable(self, count: int) -> None:
        """Say how many lines of the journal hold no record."""
        if count:
            lines = "1 line of the journal is" if count == 1 else f"{count:,} lines of the journal are"
            step = self._steps.kept[-1]["step"] if self._steps.kept else 0
            self._happened.append(Happening(step=step, text=f"{lines} left out: cut short by a kill, or written by something else"))

    def series(self, next_after: int) -> Series:
        """All of it."""
        noise, dual_noise = self._noise.thinned, self._dual_noise.thinned
        return Series(
            steps=self._steps.kept, num_steps=self._steps.count, evaluations=self._evaluations, noise=noise.kept, num_noise=noise.count,
            dual_noise=dual_noise.kept, num_dual_noise=dual_noise.count,
            notices=self._notices, happened=self._happened, start=self._starts[-1] if self._starts else None, next_after=next_after,
        )  # fmt: skip

    def _add_start(self, record: StartRecord) -> None:
        while self._starts and self._starts[-1].training_seconds > record.training_seconds:
            self._starts.pop()  # it went on from before that one
        cost = Cost.model_validate(record, from_attributes=True)
        self._starts.append(cost.model_copy(update={"device_seconds": self._cost(record.training_seconds)}))

    def _add_noise(self, record: StepRecord, placed: dict[str, Any]) -> None:
        trace, norm = record.covariance_trace, record.gradient_norm_squared
        if trace is None:  # a run measures the noise of the whole gradient, or of the norms alone
            trace, norm = record.norms_covariance_trace, record.norms_gradient_norm_squared
        self._noise.add(trace, norm, placed)
        self._dual_noise.add(record.dual_variance, record.dual_norm_squared, placed)

    def _cost(self, training_seconds: float) -> float:
        return (self._starts[-1] if self._starts else Cost()).at(training_seconds)


def read_series(folder: Path, points: int) -> Series:
    """A run's curves, from its journal. Args: points: at most so many steps."""
    path = folder / JOURNAL
    starts, end = _starts(path)
    # What was written after so many starts stands up to the lowest step that a later one went on from.
    limits = list(accumulate([math.inf, *reversed(starts)], min))[::-1]
    curves, num_starts, num_unreadable = Curves(points), 0, 0
    for line in read_all_lines(path, end=end):
        record = parse_line(line.content)
        if record is None:
            num_unreadable += bool(line.content)
        else:
            num_starts += isinstance(record, StartRecord)
            curves.add(record, not isinstance(record, StartRecord | EndRecord) and record.step > limits[num_starts])
    curves.add_unreadable(num_unreadable)
    return curves.series(end)


def _starts(path: Path) -> tuple[list[float], int]:
    """The steps that each process of the run went on from, and the byte after the journal's last whole line."""
    starts: list[float] = []
    end = 0
    for line in read_all_lines(path):
        end = line.end
        if b'"kind":"start"' in line.content and isinstance(record := parse_line(line.content), StartRecord):
            starts.append(record.step)
    return starts, end
