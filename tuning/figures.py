"""Which figures there are, and what each shows."""

import html
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jobs import run_folder
from tuning.analysis.configurations import Configuration, settings_of
from tuning.analysis.intervals import Spread
from tuning.analysis.line_point import LinePoint
from tuning.analysis.regimes import edges
from tuning.analysis.step_time import Profile
from tuning.charts import Chart, Heat, Series, to_plotly, write_png
from tuning.collect import RunResult, collect
from tuning.findings import Findings

SECONDS = "training seconds"
BATCH = "global batch size"


def accuracy_curves(results: Sequence[RunResult]) -> Chart:
    """Test accuracy against training seconds, one curve per run."""
    devices = ", ".join(dict.fromkeys(result.device for result in results))
    unlike = on_unlike_footing(results)
    targets = dict.fromkeys(result.summary.target_accuracy for result in results if result.summary.target_accuracy is not None)
    return Chart(
        "accuracy-curves",
        f"Accuracy against training time, {devices}",
        SECONDS,
        "test accuracy",
        [Series(label(result), [s for s, _ in result.curve], [a for _, a in result.curve]) for result in results],
        caption=f"{_conditions(results)}{f'; {unlike}' if unlike else ''}",
        levels=[(target, f"target {target:g}") for target in targets],
    )


def on_unlike_footing(results: Sequence[RunResult]) -> str:
    """What must be said of runs that differ in data, model, device or workers; empty where they do not."""
    settings = settings_of(results)
    if len(settings) < 2:
        return ""
    counts = "; ".join(f"{setting} ({len(members)})" for setting, members in settings.items())
    return f"not on one footing, so not to be ranked: {counts}"


def label(result: RunResult) -> str:
    """A run in the legend."""
    return f"{result.name}: batch {result.summary.global_batch_size:,}, {result.optimizer}, seed {result.seed}"


def time_to_target(findings: Findings, predicted: Sequence[tuple[float, float]] = ()) -> Chart:
    """Training seconds to the target against the batch, and what was predicted before."""
    reached = [one for one in findings.best if one.seconds.median is not None]
    series = [_measured("measured", reached, [one.seconds for one in reached])]
    if predicted:
        series.append(Series("predicted before the sweep", [b for b, _ in predicted], [s for _, s in predicted], draws="both", dash=True))
    return _of_batch(findings, "time-to-target", f"Time to {findings.target:g} test accuracy", "training seconds", series, log_y=True)


def steps_and_samples(findings: Findings) -> list[Chart]:
    """Steps, and samples, to the target against the batch, with the fitted curve and the three regimes."""
    reached = [one for one in findings.best if one.seconds.median is not None]
    charts = []
    critical = findings.critical_batch
    for what, spreads in (("steps", [one.steps for one in reached]), ("samples", [one.samples for one in reached])):
        series = [_measured("measured", reached, spreads)]
        if critical is not None and reached:
            batches = np.geomspace(reached[0].global_batch_size, reached[-1].global_batch_size, 80)
            fitted = [critical.steps_to_target(b) if what == "steps" else critical.samples_to_target(b) for b in batches]
            series.append(Series("fit", list(batches), fitted, draws="line", dash=True))
        chart = _of_batch(findings, f"{what}-to-target", f"{what.capitalize()} to {findings.target:g} test accuracy", what, series, log_y=True)
        charts.append(_with_regimes(chart, findings))
    return charts


def _with_regimes(chart: Chart, findings: Findings) -> Chart:
    from dataclasses import replace

    critical = findings.critical_batch
    if critical is None:
        return chart
    shown = findings.best[0].global_batch_size, findings.best[-1].global_batch_size
    perfect, maximal = edges(critical.critical_batch_size)
    marks = [(perfect, "perfect scaling ends"), (critical.critical_batch_size, "critical batch"), (maximal, "maximal data parallelism")]
    inside = [(place, words) for place, words in marks if shown[0] <= place <= shown[1]]
    zone = (max(critical.low, shown[0]), min(critical.high, shown[1]))
    return replace(chart, marks=inside, zone=zone if zone[0] < zone[1] else None)


def frontiers(findings: Findings) -> list[Chart]:
    """Time against accuracy over all runs, and time against samples to the target over batch sizes."""
    points = findings.accuracy_frontier
    every = [(at.training_seconds, at.test_accuracy) for run in findings.runs for at in run.evaluations]
    standing = Series(
        "frontier", [p.seconds for p in points], [p.accuracy for p in points], colour=1,
        notes=[f"batch {p.global_batch_size:,}: {p.accuracy:.4f} after {p.seconds:.3g} s" for p in points],
    )  # fmt: skip
    accuracy = Chart(
        "accuracy-frontier", "The most accurate by each moment", SECONDS, "test accuracy",
        [Series("every evaluation", [s for s, _ in every], [a for _, a in every], draws="marks", colour=6), standing],
        caption=_conditions(findings.runs), log_x=True, levels=[(findings.target, f"target {findings.target:g}")],
    )  # fmt: skip
    kept = findings.cost_frontier
    cost = Chart(
        "cost-frontier", f"Time against samples, to {findings.target:g} test accuracy", SECONDS, "samples to target",
        [
            Series("every batch size", [c.seconds for c in findings.choices], [c.samples for c in findings.choices], draws="marks", colour=6,
                   notes=[f"batch {c.global_batch_size:,}" for c in findings.choices]),
            Series("frontier", [c.seconds for c in kept], [c.samples for c in kept], colour=1,
                   notes=[f"batch {c.global_batch_size:,}" for c in kept]),
        ],
        caption=_conditions(findings.runs), log_x=True, log_y=True,
    )  # fmt: skip
    return [accuracy, cost]


def accuracy_of_batch(findings: Findings) -> Chart:
    """Train and test accuracy against the batch."""
    series = [
        _measured(name, findings.best, [getattr(one, field) for one in findings.best])
        for name, field in (("test, best", "best_accuracy"), ("train, at the end", "train_accuracy"))
        if all(getattr(one, field).median is not None for one in findings.best)
    ]
    return _of_batch(findings, "accuracy-of-batch", "Train and test accuracy against the batch", "accuracy", series)


def momentum_map(findings: Findings) -> Chart | None:
    """Seconds to the target over batch and momentum; None where only one momentum was tried."""
    cells: dict[tuple[int, float], Configuration] = {}
    for one in findings.configurations:
        if one.first.momentum is not None:
            place = (one.global_batch_size, one.first.momentum)
            if place not in cells or one.standing < cells[place].standing:
                cells[place] = one
    batches, momenta = sorted({batch for batch, _ in cells}), sorted({momentum for _, momentum in cells})
    if len(momenta) < 2:
        return None
    grid = [[cells.get((batch, momentum)) for batch in batches] for momentum in momenta]
    heat = Heat(
        [f"{batch:,}" for batch in batches], [f"{momentum:g}" for momentum in momenta],
        [[one.seconds.median if one else None for one in row] for row in grid],
        [[_cell(one) for one in row] for row in grid], "training seconds to target",
    )  # fmt: skip
    return Chart(
        "momentum-map", f"Seconds to {findings.target:g}, learning rate tuned in each cell", BATCH, "momentum",
        heat=heat, caption=_conditions(findings.runs),
    )  # fmt: skip


def _cell(one: Configuration | None) -> str:
    if one is None:
        return ""
    return "missed" if one.seconds.median is None else f"{one.seconds.median:.3g}"


def profile_charts(profile: Profile) -> list[Chart]:
    """The textbook's pair: the time of one update, and of one epoch, against the batch."""
    batches = [point.global_batch_size for point in profile.points]
    model = profile.model
    places = list(np.geomspace(batches[0], batches[-1], 80)) if len(batches) > 1 else [float(batches[0])]
    marks = [(model.flat_until, "the flat part ends")] if batches[0] <= model.flat_until <= batches[-1] else []
    caption = f"{profile.recipe}, {profile.device}; median of a few steps at each batch, training clock"
    update = Chart(
        "time-of-update", "Time of one update", BATCH, "seconds",
        [Series("measured", batches, [p.seconds_per_step for p in profile.points]),
         Series("overhead + batch / rate", places, [model.seconds_per_step(b) for b in places], draws="line", dash=True)],
        caption=caption, log_x=True, log_y=True, marks=marks, x_ticks=batches,
    )  # fmt: skip
    epoch = Chart(
        "time-of-epoch", "Time of one epoch", BATCH, "seconds", [Series("measured", batches, [p.seconds_per_epoch for p in profile.points])],
        caption=caption, log_x=True, log_y=True, marks=marks, x_ticks=batches,
    )  # fmt: skip
    return [update, epoch]


def line_chart(name: str, points: Sequence[LinePoint], small: str, large: str, caption: str) -> Chart:
    """Loss and accuracy on the way from one solution to the other."""
    at = [point.at for point in points]
    return Chart(
        f"line-{name}", f"Along the {name} line between two solutions", f"0: {small}; 1: {large}", "loss, and error (1 - accuracy)",
        [Series("train loss", at, [p.train_loss for p in points]), Series("test loss", at, [p.test_loss for p in points]),
         Series("train error", at, [1 - p.train_accuracy for p in points], dash=True, colour=0),
         Series("test error", at, [1 - p.test_accuracy for p in points], dash=True, colour=1)],
        caption=caption, marks=[(0.0, small), (1.0, large)],
    )  # fmt: skip


def _measured(name: str, of: Sequence[Configuration], spreads: Sequence[Spread]) -> Series:
    return Series(
        name,
        [one.global_batch_size for one in of],
        [spread.median if spread.median is not None else math.nan for spread in spreads],
        [spread.low for spread in spreads],
        [spread.high for spread in spreads],
        notes=[f"batch {one.global_batch_size:,}, learning rate {one.first.learning_rate:.4g}: {spread.text}"
               for one, spread in zip(of, spreads, strict=True)],
    )  # fmt: skip


def _of_batch(findings: Findings, name: str, title: str, y_title: str, series: Sequence[Series], log_y: bool = False) -> Chart:
    batches = [one.global_batch_size for one in findings.best]
    return Chart(name, title, BATCH, y_title, series, caption=_conditions(findings.runs), log_x=True, log_y=log_y, x_ticks=batches)


def _conditions(runs: Sequence[RunResult]) -> str:
    seeds = sorted({run.seed for run in runs})
    devices = ", ".join(dict.fromkeys(run.device for run in runs))
    return f"seeds {', '.join(map(str, seeds))}; {devices}; training clock: evaluation, checkpoints and kernel warm-up not counted"


def write_page(chart: Chart, path: Path) -> None:
    """One self-contained page with one figure, and under it its conditions."""
    figure = to_plotly(chart)
    figure.update_layout(template="plotly_white", hovermode="x unified")
    drawn = figure.to_html(full_html=False, include_plotlyjs=True, default_height="85vh", config={"responsive": True})
    path.write_text(_PAGE.format(title=html.escape(chart.title), figure=drawn, caption=html.escape(chart.caption)))


_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title></head>
<body style="font-family: system-ui, sans-serif">{figure}<p style="color: #555">{caption}</p></body>
</html>
"""


def draw_run(run_dir: Path) -> None:
    """One run's own figure, into its folder."""
    write_png(accuracy_curves(collect([run_dir])), run_dir / run_folder.FIGURE)
