"""Which figures there are, and what each shows."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from largebatch.jobs.run import run_folder
from largebatch.tuning.report.charts import Chart, Heat, Series, to_plotly, write_png
from largebatch.tuning.results.analysis.configurations import Configuration
from largebatch.tuning.results.analysis.line_point import LinePoint
from largebatch.tuning.results.analysis.regimes import edges
from largebatch.tuning.results.analysis.settings import differences_in_words, settings_of
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.answers import Spread
from largebatch.tuning.results.collect import collect
from largebatch.tuning.results.findings import Findings
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.results.wording import momentum_name

SECONDS = "training seconds"
MOST_CURVES = 12
"""Runs that have a line of their own in a legend."""
BATCH = "global batch size"


def accuracy_curves(results: Sequence[RunResult]) -> Chart:
    """Test accuracy against training seconds, one curve per run; of many runs one colour per batch."""
    devices = ", ".join(dict.fromkeys(result.device for result in results))
    unlike = on_unlike_footing(results)
    targets = dict.fromkeys(result.summary.target_accuracy for result in results if result.summary.target_accuracy is not None)
    return Chart(
        "accuracy-curves",
        f"Accuracy against training time, {devices}",
        SECONDS,
        "test accuracy",
        _one_each(results) if len(results) <= MOST_CURVES else _one_for_each_batch(results),
        caption=f"{_conditions(results)}{f'; {unlike}' if unlike else ''}",
        levels=[(target, f"target {target:g}") for target in targets],
    )


def _one_each(results: Sequence[RunResult]) -> list[Series]:
    return [Series(label(result), [s for s, _ in result.curve], [a for _, a in result.curve]) for result in results]


def _one_for_each_batch(results: Sequence[RunResult]) -> list[Series]:
    """More runs than a legend holds: those of one batch are one broken line."""
    groups: dict[int, list[RunResult]] = {}
    for result in results:
        groups.setdefault(result.summary.global_batch_size, []).append(result)
    made = []
    for batch, members in sorted(groups.items()):
        points = [point for member in members for point in (*member.curve, (math.nan, math.nan))]
        made.append(Series(f"batch {batch:,}, {len(members)} runs", [s for s, _ in points], [a for _, a in points]))
    return made


def on_unlike_footing(results: Sequence[RunResult]) -> str:
    """What must be said of runs that differ in data, model, device, workers or other fields than those compared; empty where they do not."""
    settings = settings_of(results)
    if len(settings) < 2:
        differing = differences_in_words(results)
        return f"on one footing but for {differing}" if differing else ""
    counts = "; ".join(f"{setting} ({len(members)})" for setting, members in settings.items())
    return f"not on one footing, so not to be ranked: {counts}"


def label(result: RunResult) -> str:
    """A run in the legend."""
    return f"{result.name}: batch {result.summary.global_batch_size:,}, {result.optimizer}, seed {result.seed}"


def time_to_target(findings: Findings, predicted: Sequence[tuple[float, float]] = ()) -> Chart:
    """Training seconds to the target against the batch: which are on the frontier, the critical batch, and what was predicted before."""
    reached = [one for one in findings.best if one.seconds.median is not None]
    series = [_measured("measured", reached, [one.seconds for one in reached]), *_missed(findings, lambda run: run.summary.training_seconds, "s")]
    if predicted:
        series.append(Series("predicted before the sweep", [b for b, _ in predicted], [s for _, s in predicted], dash=True, colour=1))
    kept = {choice.global_batch_size for choice in findings.cost_frontier}
    standing = [(one.global_batch_size, one.seconds.median) for one in reached if one.seconds.median is not None and one.global_batch_size in kept]
    if len(reached) > 1:
        series.append(Series("no other is sooner with as few samples", [b for b, _ in standing], [s for _, s in standing], draws="marks", colour=2))
    chart = _of_batch(findings, "time-to-target", f"Time to {findings.target:g} test accuracy", "training seconds", series, log_y=True)
    return _with_critical_batch(chart, findings)


def steps_and_samples(findings: Findings) -> list[Chart]:
    """Steps, and samples, to the target against the batch, with the fitted curve and the three regimes."""
    reached = [one for one in findings.best if one.seconds.median is not None]
    charts = []
    critical = findings.critical_batch
    spent: dict[str, Callable[[RunResult], float]] = {"steps": lambda run: run.summary.steps, "samples": lambda run: run.summary.samples_seen}
    for what, spreads in (("steps", [one.steps for one in reached]), ("samples", [one.samples for one in reached])):
        series = [_measured("measured", reached, spreads), *_missed(findings, spent[what], what)]
        if critical is not None and reached:
            batches = np.geomspace(reached[0].global_batch_size, reached[-1].global_batch_size, 80)
            fitted = [critical.steps_to_target(b) if what == "steps" else critical.samples_to_target(b) for b in batches]
            series.append(Series("fit", list(batches), fitted, draws="line", dash=True, colour=1))
        chart = _of_batch(findings, f"{what}-to-target", f"{what.capitalize()} to {findings.target:g} test accuracy", what, series, log_y=True)
        charts.append(_with_regimes(chart, findings))
    return charts


def _with_critical_batch(chart: Chart, findings: Findings) -> Chart:
    critical, first, last = findings.critical_batch, findings.best[0].global_batch_size, findings.best[-1].global_batch_size
    if critical is None or not first <= critical.critical_batch_size <= last:
        return chart
    return replace(chart, marks=[(critical.critical_batch_size, "critical batch")])


def _with_regimes(chart: Chart, findings: Findings) -> Chart:
    critical = findings.critical_batch
    if critical is None:
        return chart
    shown = findings.best[0].global_batch_size, findings.best[-1].global_batch_size
    perfect, maximal = edges(critical.critical_batch_size)
    marks = [(perfect, "perfect scaling ends"), (critical.critical_batch_size, "critical batch"), (maximal, "maximal data parallelism")]
    inside = [(place, words) for place, words in marks if shown[0] <= place <= shown[1]]
    zone = (max(critical.low, shown[0]), shown[1] if critical.high is None else min(critical.high, shown[1]))
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
        caption=_caption(findings), log_x=True, levels=[(findings.target, f"target {findings.target:g}")],
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
        caption=_with(_caption(findings), f"{_missed_in_words(findings)}, so not shown" if _misses(findings) else ""),
        log_x=True, log_y=True,
    )  # fmt: skip
    return [accuracy, cost]


def accuracy_of_batch(findings: Findings) -> Chart:
    """Train and test accuracy against the batch; where runs end at the target this shows their stopping rule, and the caption says so."""
    runs = [run for one in findings.best for run in one.runs]
    ended = sum(run.summary.steps_to_accuracy == run.summary.steps for run in runs)
    stopped = f"{ended} of these {len(runs)} runs ended when they met their target, so they show where that is set, not how far a batch comes"
    series = [
        _measured(name, findings.best, [getattr(one, field) for one in findings.best])
        for name, field in (("test, best", "best_accuracy"), ("train, at the end", "train_accuracy"))
        if all(getattr(one, field).median is not None for one in findings.best)
    ]
    chart = _of_batch(findings, "accuracy-of-batch", "Train and test accuracy against the batch", "accuracy", series)
    return replace(chart, caption=_with(chart.caption, stopped if ended else ""))


def momentum_map(findings: Findings) -> Chart | None:
    """Seconds to the target over batch and momentum, or beta1; None where only one was tried."""
    cells: dict[tuple[int, float], Configuration] = {}
    for one in findings.configurations:
        if one.first.momentum is not None:
            place = (one.global_batch_size, one.first.momentum)
            if place not in cells or one.standing < cells[place].standing:
                cells[place] = one
    batches, momenta = sorted({batch for batch, _ in cells}), sorted({momentum for _, momentum in cells})
    if len(momenta) < 2:
        return None
    name = momentum_name(one.first.optimizer for one in cells.values())
    grid = [[cells.get((batch, momentum)) for batch in batches] for momentum in momenta]
    heat = Heat(
        [f"{batch:,}" for batch in batches], [f"{momentum:g}" for momentum in momenta],
        [[one.seconds.median if one else None for one in row] for row in grid],
        [[_cell(one) for one in row] for row in grid], "training seconds to target",
    )  # fmt: skip
    return Chart(
        "momentum-map", f"Seconds to {findings.target:g} over batch and {name}, learning rate tuned in each cell", BATCH, name,
        heat=heat, caption=_caption(findings),
    )  # fmt: skip


def _cell(one: Configuration | None) -> str:
    if one is None:
        return ""
    return "missed" if one.seconds.median is None else f"{one.seconds.median:.3g}"


def profile_charts(profile: Profile) -> list[Chart]:
    """The textbook's pair: the time of one update, and of one epoch, against the batch."""
    batches = [point.global_batch_size for point in profile.points]
    measured = [Series("measured", batches, [p.seconds_per_step for p in profile.points])]
    marks = []
    if profile.has_model:
        model, places = profile.model, list(np.geomspace(batches[0], batches[-1], 80))
        measured.append(Series("overhead + batch / rate", places, [model.seconds_per_step(b) for b in places], draws="line", dash=True))
        marks = [(model.flat_until, "the flat part ends")] if batches[0] <= model.flat_until <= batches[-1] else []
    seed = "seed not kept" if profile.seed is None else f"seed {profile.seed}"
    caption = f"{profile.recipe}, {seed}; {profile.device}; training clock, the median of a few steps at each batch"
    update = Chart(
        "time-of-update", "Time of one update", BATCH, "seconds", measured, caption=caption, log_x=True, log_y=True, marks=marks, x_ticks=batches,
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


def line_conditions(setting: str, seeds: Sequence[int], num_samples: int) -> str:
    """The caption of `line_chart`: what was trained where, and what is measured.

    Args: setting: model, data set and device in words; seeds: of the two solutions; num_samples: training images that were looked at.
    """
    return (
        f"{setting}; seeds {' and '.join(map(str, seeds))}; the first {num_samples:,} training images and the whole test set, batch-norm "
        "statistics taken anew at each place; no clock, for nothing is timed"
    )


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
    arrows = "an arrow: the interval is open there, for it reaches into runs that missed" if any(one.open_ends for one in series) else ""
    caption = _with(_caption(findings), arrows)
    return Chart(name, title, BATCH, y_title, series, caption=caption, log_x=True, log_y=log_y, x_ticks=batches)


def _caption(findings: Findings) -> str:
    return _with(_conditions(findings.runs), f"differing in {findings.differences}" if findings.differences else "")


def _misses(findings: Findings) -> list[Configuration]:
    return [one for one in findings.best if one.seconds.median is None]


def _missed_in_words(findings: Findings) -> str:
    return f"missed the target: batch {', '.join(f'{one.global_batch_size:,}' for one in _misses(findings))}"


def _missed(findings: Findings, spent: Callable[[RunResult], float], unit: str) -> list[Series]:
    """The batches that missed, each at what its runs had used up; no series where none did."""
    misses = _misses(findings)
    used = [median(spent(run) for run in one.runs) for one in misses]
    notes = [
        f"batch {one.global_batch_size:,}: {one.seconds.text}, ended after {amount:,.4g} {unit}" for one, amount in zip(misses, used, strict=True)
    ]
    series = Series("missed, where its runs ended", [one.global_batch_size for one in misses], used, draws="marks", symbol="x", colour=6, notes=notes)
    return [series] if misses else []


def _with(caption: str, *more: str) -> str:
    return "; ".join([caption, *filter(None, more)])


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
