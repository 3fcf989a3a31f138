"""What a report holds beside the runs, what of it could not be made, and the figures that follow; nothing is drawn yet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.tracking.mlflow_store import brief
from largebatch.tuning.report.batch_figures import (
    frontiers,
    in_unit,
    momentum_maps,
    profile_charts,
    score_of_batch,
    steps_and_samples,
    time_to_target,
)
from largebatch.tuning.report.charts import Chart, slug
from largebatch.tuning.report.run_figures import MOST_CURVES, score_curves
from largebatch.tuning.report.schema import FailedPart
from largebatch.tuning.results.analysis.prediction import Miss, Predicted
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.findings import Findings
from largebatch.tuning.results.unit import SAMPLES

Result = TypeVar("Result")


class Attempts:
    """Tries parts of a study or a report that may fail without costing the rest, and keeps the failures in words.

    Args: on_failure: told of each, in a sentence.
    """

    def __init__(self, on_failure: Callable[[str], None] = lambda text: None) -> None:
        self.failed: list[FailedPart] = []
        self._on_failure = on_failure

    def attempt(self, what: str, do: Callable[[], Result]) -> Result | None:
        """What `do` returns, or None where it raises: a person's model, a library or the disk."""
        try:
            return do()
        except Exception as error:
            why = str(error) if isinstance(error, LargebatchError) else f"{type(error).__name__}: {brief(error).rstrip('.')}."
            self.failed.append(FailedPart(what=what, why=why))
            self._on_failure(self.failed[-1].in_words)
            return None


@dataclass(frozen=True)
class Extras:
    """What a report shows beside the runs, as far as it was measured."""

    profile: Profile | None = None
    predicted: Sequence[Predicted] = ()
    misses: Sequence[Miss] = ()
    charts: Sequence[Chart] = ()
    """More figures, such as sharpness."""
    tables: Sequence[tuple[str, Sequence[dict[str, str]]]] = ()
    """More tables: (title, rows)."""
    words: Sequence[str] = ()
    attempts: Attempts = field(default_factory=Attempts)
    """What failed before, and on the way to the report."""
    predicted_with: str = ""
    """The optimizer that was predicted for, where several are compared."""


def _curves(findings: Findings) -> list[Chart]:
    """A run of each batch size; of several optimizers each in a figure of its own."""
    charts = {name: _curves_of(side) for name, side in findings.by_optimizer.items()}
    if not findings.compares_optimizers:
        return [*charts.values()]
    return [replace(chart, name=f"{chart.name}-{slug(name)}", title=f"{name}: {chart.title}") for name, chart in charts.items()]


def _curves_of(findings: Findings) -> Chart:
    """A run of each batch size, by its batch: all else they share."""
    runs = [best.runs[0] for best in findings.best][:MOST_CURVES]
    chart = score_curves(runs)
    unit = findings.unit
    names = [f"batch {unit.of(run.summary.global_batch_size):,.0f}{'' if unit == SAMPLES else f' {unit.name}'}" for run in runs]
    series = [replace(line, name=name) for line, name in zip(chart.series, names, strict=True)]
    return replace(chart, series=series, meaning="One run of each batch size: how its score rose, or fell, while it trained.")


def charts_of(findings: Findings, extras: Extras) -> list[Chart]:
    """Every figure that there is something to show in; one that fails is left out, and named."""
    has_choices = bool(findings.choices)
    predicted = [(prediction.global_batch_size, prediction.seconds) for prediction in extras.predicted]
    parts: list[tuple[str, Callable[[], Sequence[Chart]]]] = [
        ("time to the target", lambda: [time_to_target(findings, predicted, extras.predicted_with)] if has_choices else []),
        ("steps and samples to the target", lambda: steps_and_samples(findings) if has_choices else []),
        ("the frontiers", lambda: frontiers(findings) if has_choices else frontiers(findings)[:1]),
        ("scores against the batch", lambda: [score_of_batch(findings)]),
        ("momentum against the batch", lambda: momentum_maps(findings)),
        ("the profile", lambda: profile_charts(extras.profile) if extras.profile else []),
        ("the solutions", lambda: extras.charts),
        ("scores over time", lambda: _curves(findings)),
    ]
    return [in_unit(chart, findings.unit) for what, draw in parts for chart in extras.attempts.attempt(f"the figure of {what}", draw) or ()]
