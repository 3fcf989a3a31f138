"""What is shown against the batch size: time, steps and samples to the target, scores, the map over momentum; and the profile of a step."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import median

import numpy as np

from largebatch.tuning.report.charts import Chart, Draws, Heat, Series, slug
from largebatch.tuning.report.run_figures import SECONDS, conditions
from largebatch.tuning.results.analysis.configurations import Configuration, overlaps
from largebatch.tuning.results.analysis.critical_batch import edges
from largebatch.tuning.results.analysis.scaling_model import Scaled
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.answers import Choice
from largebatch.tuning.results.card.saving import AS_IT_WAS
from largebatch.tuning.results.findings import Findings
from largebatch.tuning.results.phrases import momentum_name, seconds_in_words
from largebatch.tuning.results.run_result import differences_in_words
from largebatch.tuning.results.unit import SAMPLES, Unit, in_digits

BATCH = "global batch size"
LIMIT_COLOURS = {"compute": 0, "critical batch": 1, "link inside": 2, "link between": 3, "memory": 4, "evaluation": 5, "start-up": 6}
"""Of what limits a number of workers."""
STEPS = (
    "Below the critical batch a doubled batch takes nearly half the steps (perfect scaling); above it each doubling saves less "
    "(diminishing returns), until it saves next to nothing (maximal data parallelism). At it a run takes twice the least steps."
)
SAMPLES_SPENT = (
    "These are the {unit} that machines must work through, however many they are: flat while a larger batch costs nothing, "
    "twice the least at the critical batch."
)
TIED = "\u2248 "
"""Marks a time that the seeds do not tell from the soonest."""
OWN_COLOUR = 3
"""Of the recipe as it was, which no search chose."""
MISSES_ABOVE = 0.15
"""How far above the dearest choice misses are drawn, as a share of what the axis shows."""
NEXT_TICK = 1.5
"""Numbers of workers closer than this factor would be printed over each other."""


def in_unit(chart: Chart, unit: Unit) -> Chart:
    """The chart with its batches in a unit, if it is one against the batch."""
    if chart.x_title != BATCH or unit == SAMPLES:
        return chart
    return replace(
        chart,
        x_title=f"{BATCH} in {unit.name}",
        series=[replace(line, x=[unit.of(batch) for batch in line.x]) for line in chart.series],
        marks=[(unit.of(batch), words) for batch, words in chart.marks],
        zone=(unit.of(chart.zone[0]), unit.of(chart.zone[1])) if chart.zone else None,
        x_ticks=[unit.of(batch) for batch in chart.x_ticks],
    )


def time_to_target(findings: Findings, predicted: Sequence[tuple[float, float]] = (), predicted_with: str = "") -> Chart:
    """Training seconds to the target against the batch: which are on the frontier, the critical batch, and what was predicted before."""
    reached, series = findings.reached, _costs(findings, "seconds", "training_seconds", "s")
    if predicted:
        name = f"{predicted_with}, predicted before the sweep" if predicted_with else "predicted before the sweep"
        colour = len(findings.by_optimizer)
        series.append(Series(name, [b for b, _ in predicted], [s for _, s in predicted], dash=True, colour=colour))
    if len(reached) > 1:
        standing = sorted(findings.cost_frontier, key=lambda choice: choice.global_batch_size)
        x, y = [choice.global_batch_size for choice in standing], [choice.seconds for choice in standing]
        series.append(Series(f"no other is sooner with as few {findings.unit.name}", x, y, draws="marks", symbol="ring", mark_size=2, colour=6))
    chart = _against_batch(findings, "time-to-target", f"Time to {_judged(findings)} {findings.target:g}", SECONDS, series, log_y=True)
    chart = replace(chart, meaning=f"{_points_in_words(findings)} Lower is sooner.")
    critical, (first, last) = findings.critical_batch, _ends(findings)
    if critical is None or findings.compares_optimizers or not first <= critical.critical_batch_size <= last:
        return chart
    return replace(chart, marks=[(critical.critical_batch_size, "critical batch")])


def _points_in_words(findings: Findings) -> str:
    """What a point of each batch is: a bar only where several seeds have an interval."""
    if all(len(best.runs) == 1 for best in findings.reached):
        return "Each point is one run."
    bars = "each bar their interval" if all(len(best.runs) > 1 for best in findings.reached) else "each bar their interval where there are several"
    return f"Each point is the median of its seeds, {bars}."


def _ends(findings: Findings) -> tuple[int, int]:
    """The smallest and the largest batch."""
    batches = [best.global_batch_size for best in findings.best]
    return min(batches), max(batches)


def steps_and_samples(findings: Findings) -> list[Chart]:
    """Steps, and samples, to the target against the batch, with the fitted curve of each optimizer; where there is one, also the three regimes."""
    charts, unit, (first, last) = list[Chart](), findings.unit, _ends(findings)
    for what, spent, of in (("steps", "steps", SAMPLES), ("samples", "samples_seen", unit)):
        name = what if what == "steps" else unit.name
        series, points = _costs(findings, what, spent, name, of), list[tuple[float, float]]()
        for number, side in enumerate(findings.by_optimizer.values()):
            critical, reached = side.critical_batch, side.fitted_reached
            if critical is not None and reached:
                batches = [*np.geomspace(reached[0].global_batch_size, reached[-1].global_batch_size, 80), critical.critical_batch_size]
                *fitted, at_critical = [
                    critical.steps_to_target(batch) if what == "steps" else of.of(critical.samples_to_target(batch)) for batch in batches
                ]
                points += [(critical.critical_batch_size, at_critical)] if first <= critical.critical_batch_size <= last else []
                colour = number if findings.compares_optimizers else 1
                series.append(Series(_named(findings, side, "fit"), batches[:-1], fitted, draws="line", dash=True, colour=colour))
        if points and findings.compares_optimizers:  # a line for each, with its words, would hide the others
            x, y = [x for x, _ in points], [y for _, y in points]
            series.append(Series("critical batch", x, y, draws="marks", symbol="ring", mark_size=2, colour=6))
        chart = _against_batch(
            findings, f"{what}-to-target", f"{name.capitalize()} to {_judged(findings)} {findings.target:g}", name, series, log_y=True
        )
        if (critical := findings.critical_batch) is not None and not findings.compares_optimizers:
            perfect, maximal = edges(critical.critical_batch_size)
            marks = [(perfect, "perfect scaling ends"), (critical.critical_batch_size, "critical batch"), (maximal, "maximal data parallelism")]
            low, high = max(critical.low, first), last if critical.high is None else min(critical.high, last)
            chart = replace(chart, marks=[mark for mark in marks if first <= mark[0] <= last], zone=(low, high) if low < high else None)
        meaning = STEPS if what == "steps" else SAMPLES_SPENT.format(unit=unit.name)
        chart = replace(chart, meaning=f"{_points_in_words(findings)} {meaning}")
        if any(side.critical_batch for side in findings.by_optimizer.values()):
            chart = replace(chart, caption=f"{chart.caption}; measured at the evaluation that met the target, fitted where the score crossed it")
        charts.append(chart)
    return charts


def frontiers(findings: Findings) -> list[Chart]:
    """Time against score over all runs, and time against samples to the target over batch sizes."""
    points, name = findings.score_frontier, _judged(findings)
    unit, is_several = findings.unit, findings.compares_optimizers
    sides = list(enumerate(findings.by_optimizer.items()))
    every = [_evaluations(optimizer, side, number) for number, (optimizer, side) in sides]
    if not is_several:
        every = [_evaluations("every evaluation", findings, 6)]
    colour = 6 if is_several else 1
    draws: Draws = "line" if is_several else "both"
    standing = Series(
        "frontier", [point.seconds for point in points], [point.score for point in points], draws=draws, colour=colour,
        notes=[f"batch {at.global_batch_size:,} with {at.optimizer}: {findings.metric.format(at.score)} after {seconds_in_words(at.seconds)}"
               for at in points],
    )  # fmt: skip
    of_sweep = (
        " of the sweep, of which neither the recipe as it was nor the runs to the end are" if findings.begun_from and findings.begun_from.run else ""
    )
    best = Chart(
        "score-frontier", f"The best {name} by each moment", SECONDS, name,
        [*every, standing],
        caption=_caption(findings), log_x=True, levels=[(findings.target, f"target {findings.target:g}")],
        meaning=f"Each dot is an evaluation of a run{of_sweep}. The frontier is the best score that any of them had come to by each moment.",
    )  # fmt: skip
    measured = [(optimizer, side.choices, number) for number, (optimizer, side) in sides if side.choices]
    batches = [_tagged(_of_choices(*of, unit), of[1], unit) for of in (measured if is_several else [("every batch size", findings.choices, 6)])]
    if own := findings.as_it_was:
        batches.append(replace(_tagged(_of_choices(AS_IT_WAS, [own], OWN_COLOUR, unit), [own], unit), mark_size=1.3))
    batches.append(_of_choices("frontier", findings.cost_frontier, colour, unit, draws))
    if len(findings.cost_frontier) > 1:
        knee = next(advice.choice for advice in findings.advice if advice.question == "knee")
        batches += [replace(_of_choices("knee", [knee], 2, unit), symbol="ring", mark_size=2)] if knee else []
    missed = ", ".join(f"{missed.global_batch_size:,}{f' with {missed.first.optimizer}' if is_several else ''}" for missed in findings.missed)
    cost = Chart(
        "cost-frontier", f"Time against {unit.name}, to {name} {findings.target:g}", SECONDS, f"{unit.name} to target", batches,
        caption=_caption(findings, f"missed the target: batch {missed}, so not shown" if missed else ""), log_x=True, log_y=True,
        meaning=f"Each dot is a choice, with its batch in {unit.name}: left is sooner, down takes fewer {unit.name}. The frontier joins the choices "
        f"that no other beats in both; its knee is the one that loses least on both sides together, by the product of time and {unit.name}.",
    )  # fmt: skip
    return [best, cost]


def _evaluations(name: str, findings: Findings, colour: int) -> Series:
    every = [(at.training_seconds, at.score) for run in findings.runs for at in run.evaluations]
    return Series(name, [seconds for seconds, _ in every], [score for _, score in every], draws="marks", colour=colour)


def _of_choices(name: str, choices: Sequence[Choice], colour: int, unit: Unit, draws: Draws = "marks") -> Series:
    notes = [f"batch {unit.batch(choice.global_batch_size)} with {choice.optimizer}" for choice in choices]
    x, y = [choice.seconds for choice in choices], [unit.of(choice.samples) for choice in choices]
    return Series(name, x, y, draws=draws, colour=colour, notes=notes)


def _tagged(series: Series, choices: Sequence[Choice], unit: Unit) -> Series:
    """The series with each choice's batch beside its mark."""
    return replace(series, tags=[f"{unit.of(choice.global_batch_size):,.0f}" for choice in choices])


def score_of_batch(findings: Findings) -> Chart:
    """Train and evaluation score against the batch; where runs end at the target this shows their stopping rule, and the caption says so."""
    runs = [run for best in findings.best for run in best.runs]
    ended = sum(run.summary.steps_to_target == run.summary.steps for run in runs)
    stopped = f"{ended} of these {len(runs)} runs ended when they met their target, so they show where that is set, not how far a batch comes"
    part = findings.setting.evaluated_on
    fields, series = ((f"{part}, best", "best_score"), ("train, at the end", "train_score")), list[Series]()
    for number, side in enumerate(findings.by_optimizer.values()):
        told = [(name, field) for name, field in fields if all(getattr(tried, field).median is not None for tried in side.best)]
        lines = [_measured(_named(findings, side, name), side.best, field) for name, field in told]
        if findings.compares_optimizers:
            lines = [replace(line, colour=number, dash=field == "train_score") for line, (_, field) in zip(lines, told, strict=True)]
        series += lines
    chart = _against_batch(findings, "score-of-batch", f"Train and {part} {findings.metric.name} against the batch", findings.metric.name, series)
    return replace(chart, caption=f"{chart.caption}; {stopped}" if ended else chart.caption)


def momentum_maps(findings: Findings) -> list[Chart]:
    """The maps of each optimizer of which several momenta were tried, those told by a number and those told by a half-life apart."""
    maps = [
        (optimizer, heat)
        for optimizer, side in findings.by_optimizer.items()
        for by_half_life in (False, True)
        if (heat := _momentum_map(side, by_half_life=by_half_life)) is not None
    ]
    if not findings.compares_optimizers:
        return [heat for _, heat in maps]
    return [replace(heat, name=f"{heat.name}-{slug(optimizer)}", title=f"{optimizer}: {heat.title}") for optimizer, heat in maps]


def _momentum_map(findings: Findings, *, by_half_life: bool) -> Chart | None:
    """Seconds to the target over batch and momentum, or beta1, or its half-life; None where only one was tried."""
    cells = _cells(sorted(findings.configurations, key=lambda tried: tried.standing), by_half_life=by_half_life)
    if of_search := len({bool(tried.search_runs) for tried in cells.values() if tried.seconds.median is not None}) > 1:
        # Further seeds that only some cells have are no numbers to hold beside those of the search.
        searched = [replace(tried, runs=tried.search_runs or tried.runs, search_runs=()) for tried in findings.configurations]
        cells = _cells(sorted(searched, key=lambda tried: tried.rank), by_half_life=by_half_life)
    batches, momenta = sorted({batch for batch, _ in cells}), sorted({momentum for _, momentum in cells})
    if len(momenta) < 2:
        return None
    name, unit = momentum_name(tried.first.optimizer for tried in cells.values()), findings.unit
    title = f"Seconds to {findings.target:g} over batch and {name}, learning rate tuned in each cell"
    if by_half_life:
        title = f"Seconds to {findings.target:g} over batch and half-life of {name}, rate tuned in each cell"
        name = f"half-life of {name} ({unit.name})"
    rows = [f"{unit.of(value):,.0f}" if by_half_life else f"{value:g}" for value in momenta]
    grid = [[cells.get((batch, momentum)) for batch in batches] for momentum in momenta]
    heat = Heat(
        [unit.batch(batch) for batch in batches], rows,
        [[tried.seconds.median if tried else None for tried in row] for row in grid],
        [[_cell(tried, [other for other in column if other]) for tried, column in zip(row, zip(*grid, strict=True), strict=True)] for row in grid],
        "training seconds to target",
    )  # fmt: skip
    ties = "\u2248: the seeds do not tell it from its batch's soonest" if any(text.startswith(TIED) for row in heat.texts for text in row) else ""
    ties = "the search's own run of each cell: further seeds are of the chosen alone" if of_search else ties
    meaning = f"Each cell is the best learning rate's time at one batch and one {name}: the lighter, the sooner."
    chart = Chart("half-life-map" if by_half_life else "momentum-map", title, BATCH, name, heat=heat, caption=_caption(findings, ties))
    return replace(chart, meaning=meaning)


def _cells(configurations: Sequence[Configuration], *, by_half_life: bool) -> dict[tuple[int, float], Configuration]:
    """The first of each batch and momentum, or half-life."""
    cells: dict[tuple[int, float], Configuration] = {}
    for tried in configurations:
        half_life = tried.first.momentum_half_life_samples
        value = half_life if by_half_life else tried.first.momentum if half_life is None else None
        if value is not None:
            cells.setdefault((tried.global_batch_size, value), tried)
    return cells


def _cell(tried: Configuration | None, column: Sequence[Configuration]) -> str:
    """Seconds to the target, marked where the seeds do not tell them from the soonest of the batch. Args: column: all that were tried at it."""
    if tried is None or tried.seconds.median is None:
        return "" if tried is None else "missed"
    soonest = min(column, key=lambda other: other.rank)
    is_tied = tried is not soonest and overlaps(tried.seconds, soonest.seconds)
    return f"{TIED if is_tied else ''}{in_digits(tried.seconds.median, 3)}"


def profile_charts(profile: Profile) -> list[Chart]:
    """The textbook's pair: the time of one update, and of one epoch, against the batch."""
    batches = [point.global_batch_size for point in profile.points]
    update = [Series("measured", batches, [point.seconds_per_step for point in profile.points])]
    epoch = [Series("measured", batches, [point.seconds_per_epoch for point in profile.points])]
    marks = []
    if profile.has_model:
        model, grid = profile.model, list(np.geomspace(batches[0], batches[-1], 80))
        update.append(Series("overhead + batch / rate", grid, [model.seconds_per_step(batch) for batch in grid], draws="line", dash=True))
        marks = [(model.flat_until, "the flat part ends")] if batches[0] <= model.flat_until <= batches[-1] else []
    seed = "seed not kept" if profile.seed is None else f"seed {profile.seed}"
    caption = f"{profile.recipe}, {seed}; {profile.device}; training clock, the median of a few steps at each batch"
    against_batch = partial(Chart, x_title=BATCH, y_title="seconds", caption=caption, log_x=True, log_y=True, marks=marks, x_ticks=batches)
    of_update = "In the flat part a step costs the same whatever its batch, so larger batches are nearly free there."
    of_epoch = "The time to pass the training set once: it falls as long as larger batches use the machine better."
    return [
        against_batch("time-of-update", "Time of one update", series=update, meaning=of_update),
        against_batch("time-of-epoch", "Time of one epoch", series=epoch, meaning=of_epoch),
    ]


def time_on_workers(points: Sequence[Scaled], unit: Unit, caption: str) -> Chart:
    """Predicted time to the target against the number of workers, coloured by what limits each, beside perfect scaling."""
    workers, seconds = [point.num_workers for point in points], [point.seconds for point in points]
    perfect = [seconds[0] * workers[0] / count for count in workers]
    series = [
        Series("perfect scaling", workers, perfect, draws="line", dash=True, colour=6),
        Series("predicted, each at its best batch", workers, seconds, draws="line", colour=0),
    ]
    for limit in dict.fromkeys(point.limited_by for point in points):
        some = [point for point in points if point.limited_by == limit]
        notes = [f"batch {unit.batch(point.global_batch_size)}, {seconds_in_words(point.seconds)}" for point in some]
        x, y = [point.num_workers for point in some], [point.seconds for point in some]
        series.append(Series(f"limited by {limit}", x, y, draws="marks", mark_size=1.6, colour=LIMIT_COLOURS[limit], notes=notes))
    beyond = [point for point in points if point.beyond]
    if beyond:
        notes = [f"beyond what the {' and the '.join(point.beyond)} measured" for point in beyond]
        x, y = [point.num_workers for point in beyond], [point.seconds for point in beyond]
        series.append(Series("beyond what was measured", x, y, draws="marks", symbol="x", mark_size=1.3, colour=6, notes=notes))
    ticks = [count for before, count in zip([0, *workers], workers, strict=False) if count > NEXT_TICK * before]
    return Chart(
        "time-on-workers", "Time to the target on more workers, a model", "workers", "seconds to target", series, caption=caption,
        log_x=True, log_y=True, x_ticks=ticks,
    )  # fmt: skip


def _judged(findings: Findings) -> str:
    """`validation accuracy`."""
    return f"{findings.setting.evaluated_on} {findings.metric.name}"


def _measured(name: str, of: Sequence[Configuration], field: str, unit: Unit = SAMPLES) -> Series:
    """Args: field: the spread that is shown of each configuration; unit: what it is turned into."""
    batches, spreads = [tried.global_batch_size for tried in of], [getattr(tried, field).times(unit.per_sample) for tried in of]
    notes = [f"batch {tried.global_batch_size:,}, learning rate {tried.first.learning_rate:.4g}: {spread.text}"
             for tried, spread in zip(of, spreads, strict=True)]  # fmt: skip
    medians = [math.nan if spread.median is None else spread.median for spread in spreads]
    return Series(name, batches, medians, [spread.low for spread in spreads], [spread.high for spread in spreads], notes=notes)


def _named(findings: Findings, side: Findings, what: str) -> str:
    """A series of one optimizer: `lamb, fit`, where there is one alone `fit`."""
    return f"{side.runs[0].optimizer}, {what}" if findings.compares_optimizers else what


def _costs(findings: Findings, field: str, spent: str, name: str, unit: Unit = SAMPLES) -> list[Series]:
    """What each batch cost under each optimizer, in one colour, those that missed, and the recipe as it was.

    Args: field: the spread; spent: of the runs' summaries.
    """
    series = list[Series]()
    for number, side in enumerate(findings.by_optimizer.values()):
        label = side.runs[0].optimizer if findings.compares_optimizers else "measured"
        measured = [replace(_measured(label, side.reached, field, unit), colour=number)] if side.reached else []
        missed = _missed(side, spent, name, unit)
        if findings.compares_optimizers:
            missed = [replace(line, name=_named(findings, side, "missed"), colour=number) for line in missed]
        series += [*measured, *missed]
    if findings.run_as_it_was and findings.as_it_was:
        own = _measured(AS_IT_WAS, [Configuration((findings.run_as_it_was,), findings.target)], field, unit)
        series.append(replace(own, draws="marks", mark_size=1.3, colour=OWN_COLOUR))
    return series


def _missed(findings: Findings, field: str, name: str, unit: Unit) -> list[Series]:
    """The batches that missed, with what their runs had used up in words; no series where none did. Args: field: of the runs' summaries."""
    if not findings.missed:
        return []
    batches = [missed.global_batch_size for missed in findings.missed]
    used = [unit.of(median(getattr(run.summary, field) for run in missed.runs)) for missed in findings.missed]
    notes = [f"batch {missed.global_batch_size:,}: {missed.seconds.text}, ended after {in_digits(amount, 4)} {name}"
             for missed, amount in zip(findings.missed, used, strict=True)]  # fmt: skip
    return [Series("missed", batches, used, draws="marks", symbol="x", colour=6, notes=notes)]


def _against_batch(findings: Findings, name: str, title: str, y_title: str, series: Sequence[Series], log_y: bool = False) -> Chart:
    batches = sorted({*(best.global_batch_size for best in findings.best), *(x for line in series if line.name == AS_IT_WAS for x in line.x)})
    is_open = any(line.open_ends for line in series)
    caption = _caption(findings, "an arrow: the interval is open there, for it reaches into runs that missed" if is_open else "")
    chart = Chart(name, title, BATCH, y_title, series, caption=caption, log_x=True, log_y=log_y, x_ticks=batches)
    return _misses_apart(chart) if log_y else chart


def _misses_apart(chart: Chart) -> Chart:
    """The chart with its crosses above everything that was reached: a miss has no cost, and where its runs ended would look like one."""
    if not any(line.symbol == "x" for line in chart.series):
        return chart
    costs = [cost for line in chart.series if line.symbol != "x" for ends in (line.y, line.high or ()) for cost in ends if cost is not None]
    shown = [cost for cost in costs if math.isfinite(cost)]
    step = max(max(shown) / min(shown), 2.0) ** MISSES_ABOVE
    line, marks = max(shown) * step, max(shown) * step * step
    series = [replace(each, y=[marks] * len(each.x)) if each.symbol == "x" else each for each in chart.series]
    return replace(chart, series=series, apart=(line, "missed the target"))


def _caption(findings: Findings, more: str = "") -> str:
    differences = differences_in_words(findings.runs)
    return "; ".join(filter(None, [conditions(findings.runs), f"differing in {differences}" if differences else "", more]))
