"""What a report holds beside the runs, and the figures that follow from both; nothing is drawn yet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from largebatch.tuning.report.attempts import Attempts
from largebatch.tuning.report.batch_figures import accuracy_of_batch, frontiers, momentum_map, steps_and_samples, time_to_target
from largebatch.tuning.report.charts import Chart
from largebatch.tuning.report.measured_figures import profile_charts
from largebatch.tuning.report.run_figures import MOST_CURVES, accuracy_curves
from largebatch.tuning.results.analysis.prediction import Miss, Predicted
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.findings import Findings


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


def charts_of(findings: Findings, extras: Extras) -> list[Chart]:
    """Every figure that there is something to show in; one that fails is left out, and named."""
    has_choices = bool(findings.choices)
    predicted = [(prediction.global_batch_size, prediction.seconds) for prediction in extras.predicted]
    parts: list[tuple[str, Callable[[], Sequence[Chart]]]] = [
        ("time to the target", lambda: [time_to_target(findings, predicted)] if has_choices else []),
        ("steps and samples to the target", lambda: steps_and_samples(findings) if has_choices else []),
        ("the frontiers", lambda: frontiers(findings) if has_choices else frontiers(findings)[:1]),
        ("accuracy against the batch", lambda: [accuracy_of_batch(findings)]),
        ("momentum against the batch", lambda: [heat] if (heat := momentum_map(findings)) else []),
        ("the profile", lambda: profile_charts(extras.profile) if extras.profile else []),
        ("the solutions", lambda: extras.charts),
        ("accuracy over time", lambda: [accuracy_curves([best.runs[0] for best in findings.best][:MOST_CURVES])]),
    ]
    return [chart for what, draw in parts for chart in extras.attempts.attempt(f"the figure of {what}", draw) or ()]
