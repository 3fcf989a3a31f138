"""What a set of runs says, whole: the tables, the frontiers, the critical batch, the advice, and the words for them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.table import Table

from largebatch.jobs.errors import InputError
from largebatch.jobs.run.records import Outcome
from largebatch.tuning.results.analysis.advice import Advice, Choice, Partial, advise
from largebatch.tuning.results.analysis.configurations import (
    Configuration,
    Setting,
    best_of_each_batch,
    common_target,
    configurations,
    differences_in_words,
    settings_of,
)
from largebatch.tuning.results.analysis.critical_batch import CriticalBatch, fit_critical_batch
from largebatch.tuning.results.analysis.frontier import frontier
from largebatch.tuning.results.analysis.intervals import spread
from largebatch.tuning.results.analysis.regimes import regime
from largebatch.tuning.results.collect import Evaluation, RunResult, collect
from largebatch.tuning.results.run_folders import failures_in_words, runs_in
from largebatch.tuning.results.same_data import told_apart
from largebatch.tuning.results.wording import critical_batch_in_words, disturbance_in_words, momentum_name, sentences


class NothingEndedError(InputError):
    """No run has ended."""

    missing: tuple[str, ...] = ()
    """What is known of those that have not, in sentences."""

    @classmethod
    def beside(cls, missing: Sequence[str]) -> "NothingEndedError":
        """The error, where so much is known."""
        hint = "" if missing else "Wait for one, or run `largebatch sweep`."
        nothing = cls("runs", " ".join(["there is no run that has ended.", *missing]), hint)
        nothing.missing = tuple(missing)
        return nothing


class FrontierPoint(NamedTuple):
    """The best accuracy that anything had by then."""

    seconds: float
    accuracy: float
    global_batch_size: int


@dataclass(frozen=True)
class Findings:
    """Runs of one setting, analysed. Build with `find`."""

    setting: Setting
    target: float
    target_is_chosen: bool
    """Nobody gave it: it is what every batch size reached."""
    runs: tuple[RunResult, ...]
    other_settings: dict[Setting, int]
    """Runs that may not be put on the same axes, and how many."""
    deadline_s: float | None = None
    max_samples: float | None = None
    missing: list[str] = field(default_factory=list)

    @cached_property
    def configurations(self) -> list[Configuration]:
        """Every choice of hyper-parameters, by rising batch."""
        return configurations(self.runs, self.target)

    @cached_property
    def best(self) -> list[Configuration]:
        """The best of each batch size."""
        return best_of_each_batch(self.configurations)

    @cached_property
    def choices(self) -> list[Choice]:
        """The best of each batch size that reached the target."""
        return [_choice(one) for one in self.best if one.seconds.median is not None]

    @cached_property
    def critical_batch(self) -> CriticalBatch | None:
        """Fitted to the runs that reached the target, of the batches whose median did; None for fewer than three such batches."""
        points = [(one.global_batch_size, costs.samples) for one in self._fitted for run in one.runs if (costs := run.costs_to(self.target))]
        return fit_critical_batch([batch for batch, _ in points], [samples for _, samples in points])

    @property
    def _fitted(self) -> list[Configuration]:
        """Where half of the runs miss, those that hit are the lucky ones, and no place on the curve."""
        return [one for one in self.best if one.samples.median is not None]

    @cached_property
    def noise_scale(self) -> float | None:
        """Median over the batches that measured it, in samples."""
        found = [one.noise_scale for one in self.best if one.noise_scale is not None]
        return median(found) if found else None

    @cached_property
    def advice(self) -> list[Advice]:
        """Soonest, cheapest, knee, and within the limits that were given."""
        deadline_s, max_samples = self.deadline_s, self.max_samples
        by_deadline = None if deadline_s is None else self._by(lambda at: at.training_seconds <= deadline_s)
        by_samples = None if max_samples is None else self._by(lambda at: at.samples <= max_samples)
        return advise(self.choices, deadline_s, max_samples, by_deadline=by_deadline, by_samples=by_samples)

    def _by(self, is_within: Callable[[Evaluation], bool]) -> list[Partial]:
        """How accurate each batch had become within a limit: its most accurate configuration, of those with the most seeds."""
        best: dict[int, tuple[int, float, Partial]] = {}
        for one in self.configurations:
            partial = _partial(one, is_within)
            if partial is not None:
                standing = (-len(one.runs), -partial.accuracy)
                other = best.get(one.global_batch_size)
                if other is None or standing < other[:2]:
                    best[one.global_batch_size] = (*standing, partial)
        return [partial for _, _, partial in best.values()]

    @cached_property
    def accuracy_frontier(self) -> list[FrontierPoint]:
        """Time against accuracy: at each point no run of any batch had been as accurate sooner."""
        points = [(at.training_seconds, at.test_accuracy, run) for run in self.runs for at in run.evaluations]
        return [FrontierPoint(points[n][0], points[n][1], points[n][2].summary.global_batch_size) for n in frontier([(s, -a) for s, a, _ in points])]

    @cached_property
    def cost_frontier(self) -> list[Choice]:
        """Time against samples to the target."""
        return [self.choices[number] for number in frontier([(one.seconds, one.samples) for one in self.choices])]

    @property
    def what_is_sought(self) -> str:
        """The target, and where it comes from."""
        return f"test accuracy {self.target:g}" + (" (what every batch size reached; none was given)" if self.target_is_chosen else "")

    @cached_property
    def differences(self) -> str:
        """In which fields the runs differ, beside those that are compared; empty where they do not."""
        return differences_in_words(self.runs)

    def words(self) -> list[str]:
        """Three sentences that answer the question, and what must be said beside them."""
        said = [f"{self.setting}: {len(self.runs)} runs of {len(self.best)} batch sizes, to {self.what_is_sought}."]
        said += sentences([one for one in self.advice if one.question in {"soonest", "cheapest"}])
        if self.critical_batch is not None:
            others = [one.global_batch_size for one in self.best if one not in self._fitted]
            said.append(critical_batch_in_words(self.critical_batch, self.noise_scale, self._fitted, others))
        said += sentences([one for one in self.advice if one.question not in {"soonest", "cheapest"}])
        if not self.choices:
            best = max((one.best_accuracy.median or 0.0) for one in self.best) if self.best else 0.0
            said.append(f"No batch size reached the target in half of its runs; the best median accuracy is {best:.4f}.")
        if self.critical_batch is None:
            needed = "For a critical batch size at least three batch sizes must reach the target in half of their runs"
            said.append(f"{needed}; {len(self._fitted)} of {len(self.best)} did.")
        if self.differences:
            said.append(f"The runs differ in more than what is compared: {self.differences}.")
        diverged = sum(one.num_diverged for one in self.configurations)
        if diverged:
            said.append(f"{diverged} of {len(self.runs)} runs diverged; they count as misses.")
        if disturbance := disturbance_in_words(self.runs):
            said.append(disturbance)
        for other, count in self.other_settings.items():
            said.append(f"Left out: {count} runs of {other}; their times cannot stand on the same axis.")
        return [*said, *self.missing]

    def table(self) -> Table:
        """One line per batch size."""
        table = Table(box=None, padding=(0, 2, 0, 0))
        rows = self.rows()
        for column in rows[0] if rows else ():
            table.add_column(column, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*row.values())
        return table

    def rows(self) -> list[dict[str, str]]:
        """The best of each batch size, in words."""
        momentum = momentum_name(one.first.optimizer for one in self.best)
        return [
            {
                "batch": f"{one.global_batch_size:,}",
                "optimizer": one.first.optimizer,
                "learning rate": f"{one.first.learning_rate:.4g}",
                momentum: "-" if one.first.momentum is None else f"{one.first.momentum:g}",
                "s to target": one.seconds.text,
                "steps": "-" if one.steps.median is None else f"{one.steps.median:,.0f}",
                "samples": "-" if one.samples.median is None else f"{one.samples.median:,.0f}",
                "best accuracy": "-" if one.best_accuracy.median is None else f"{one.best_accuracy.median:.4f}",
                "noise scale": "-" if one.noise_scale is None else f"{one.noise_scale:,.0f}",
                "regime": "-" if self.critical_batch is None else regime(one.global_batch_size, self.critical_batch.critical_batch_size).value,
            }
            for one in self.best
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for `--json` and `report.json`."""
        critical = self.critical_batch
        return {
            "setting": self.setting._asdict(),
            "target_accuracy": self.target,
            "target_is_chosen": self.target_is_chosen,
            "num_runs": len(self.runs),
            "seeds": sorted({run.seed for run in self.runs}),
            "clock": "training seconds; evaluation, checkpoints and kernel warm-up are not counted",
            "words": self.words(),
            "batches": [
                {
                    "global_batch_size": one.global_batch_size,
                    "optimizer": one.first.optimizer,
                    "learning_rate": one.first.learning_rate,
                    "momentum": one.first.momentum,
                    "seconds_to_target": one.seconds._asdict(),
                    "steps_to_target": one.steps._asdict(),
                    "samples_to_target": one.samples._asdict(),
                    "best_test_accuracy": one.best_accuracy._asdict(),
                    "gradient_noise_scale": one.noise_scale,
                }
                for one in self.best
            ],
            "critical_batch": None if critical is None else {name: _finite(value) for name, value in critical._asdict().items()},
            "gradient_noise_scale": self.noise_scale,
            "accuracy_frontier": [point._asdict() for point in self.accuracy_frontier],
            "cost_frontier": [one._asdict() for one in self.cost_frontier],
            "advice": [
                {"question": one.question, "choice": one.choice._asdict() if one.choice else None, "reason": one.reason} for one in self.advice
            ],
            "left_out": {str(other): count for other, count in self.other_settings.items()},
        }


def find(
    runs: Sequence[RunResult],
    target: float | None = None,
    *,
    deadline_s: float | None = None,
    max_samples: float | None = None,
    missing: Sequence[str] = (),
) -> Findings:
    """Analyse runs: those of the setting that has most; the others are named, never mixed in.

    Args:
        target: test accuracy; default the one that most runs were given, else what every batch size reached.
        missing: what is known not to be there, in sentences.
    Raises: NothingEndedError if there is nothing to analyse.
    """
    whole = [run for run in runs if run.summary.outcome.is_result]
    num_failed = sum(run.summary.outcome is Outcome.FAILED for run in runs)
    num_stopped = len(runs) - len(whole) - num_failed
    left_out = [f"Left out: {num_stopped} {'run that was' if num_stopped == 1 else 'runs that were'} ended early."] if num_stopped else []
    if num_failed:
        left_out.append(f"Left out: {num_failed} runs that failed.")
    if not whole:
        raise NothingEndedError.beside([*left_out, *missing])
    by_setting = settings_of(whole)
    setting, chosen = next(iter(by_setting.items()))
    others = {other: len(members) for other, members in by_setting.items() if other != setting}
    wanted = target if target is not None else common_target(chosen)
    is_chosen = wanted is None
    if wanted is None:
        wanted = _reached_by_all(chosen)
    return Findings(setting, wanted, is_chosen, tuple(chosen), others, deadline_s, max_samples, [*left_out, *missing])


def find_in(folder: Path, target: float | None = None) -> Findings:
    """Analyse a sweep's folder: its ended runs, and a word on those that failed. Raises: NothingEndedError."""
    return find(told_apart(collect(runs_in(folder))), target, missing=failures_in_words(folder))


def _reached_by_all(runs: Sequence[RunResult]) -> float:
    """The highest accuracy that some run of every batch size reached, rounded down."""
    best: dict[int, float] = {}
    for run in runs:
        batch = run.summary.global_batch_size
        best[batch] = max(best.get(batch, 0.0), run.summary.best_test_accuracy or 0.0)
    return math.floor(min(best.values()) * 1000) / 1000


def _choice(one: Configuration) -> Choice:
    seconds, samples = one.seconds.median, one.samples.median
    assert seconds is not None
    assert samples is not None
    return Choice(one.global_batch_size, seconds, samples, one.first.learning_rate, one.first.momentum, one.first.optimizer, len(one.runs))


def _partial(one: Configuration, is_within: Callable[[Evaluation], bool]) -> Partial | None:
    """How far a configuration had come; None where half of its runs had not been evaluated by then, which ranks below the others."""
    tops = [max((at for at in run.evaluations if is_within(at)), key=lambda at: at.test_accuracy, default=None) for run in one.runs]
    accuracy = spread([None if top is None else -top.test_accuracy for top in tops]).negated.median
    if accuracy is None:
        return None
    there = [top for top in tops if top is not None]
    seconds, samples = median(top.training_seconds for top in there), median(top.samples for top in there)
    first = one.first
    choice = Choice(one.global_batch_size, seconds, samples, first.learning_rate, first.momentum, first.optimizer, len(one.runs))
    return Partial(choice, accuracy)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
