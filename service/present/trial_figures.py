"""The runs of a sweep in figures for plotly, also while it goes on: their scores against the learning rate, and their fields side by side."""

import math
from collections.abc import Sequence
from typing import Any

from largebatch.service.present.progress import TrialView
from largebatch.tuning.report.charts import COLOURS
from largebatch.tuning.report.view import axis_of
from largebatch.tuning.sweep.in_short import in_short, short_name, short_value
from largebatch.tuning.sweep.optimizers import OPTIMIZER_NAME
from largebatch.tuning.sweep.spec import BATCH, RATE

SHADES = ("#c2410c", "#e08214", "#a08c00", "#4d9221", "#0a7d6c")
"""From the worst scores to the best."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")
"""One for each optimizer."""
SCORE = "score"
MARGIN = {"r": 20}
APART = 0.2
"""Of an upright axis, between two of its numbers."""


def trial_figures(trials: Sequence[TrialView], better: str) -> list[dict[str, Any]]:
    """Each figure with its name, title and caption; none before two runs have a score. Args: better: higher or lower."""
    scored = [trial for trial in trials if trial.score is not None]
    if len(scored) < 2:
        return []
    told = [
        ("rates", "Score against the learning rate, by batch", "each mark is a run; a hollow one goes on, or was ended early", _rates(scored)),
        ("parallel", "What was tried, and what came of it", "a line for each run, by its score: the best are green", _parallel(scored, better)),
    ]
    return [{"name": name, "title": title, "caption": caption, "figure": figure} for name, title, caption, figure in told if figure["data"]]


def _rates(scored: Sequence[TrialView]) -> dict[str, Any]:
    groups: dict[tuple[Any, Any], list[TrialView]] = {}
    for trial in sorted(scored, key=lambda trial: str(trial.fields.get(BATCH)).zfill(12)):
        if isinstance(trial.fields.get(RATE), int | float):
            groups.setdefault((trial.fields.get(OPTIMIZER_NAME), trial.fields.get(BATCH)), []).append(trial)
    optimizers, batches = ([*dict.fromkeys(part)] for part in zip(*groups, strict=True)) if groups else ([], [])
    data = []
    for (optimizer, batch), runs in groups.items():
        colour, symbol = COLOURS[batches.index(batch) % len(COLOURS)], SYMBOLS[optimizers.index(optimizer) % len(SYMBOLS)]
        name = f"batch {batch:,}" if isinstance(batch, int) else "runs"
        data.append({
            "type": "scatter", "mode": "markers", "name": f"{optimizer}, {name}" if len(optimizers) > 1 else name, "hoverinfo": "text+y",
            "x": [trial.fields[RATE] for trial in runs], "y": [trial.score for trial in runs], "text": [in_short(trial.fields) for trial in runs],
            "marker": {"size": 9, "color": colour, "symbol": [symbol if trial.state == "ended" else f"{symbol}-open" for trial in runs]},
        })  # fmt: skip
    rates, scores = [x for runs in data for x in runs["x"]], [y for runs in data for y in runs["y"]]
    axes = [{"automargin": True, "title": {"text": title}, **({} if axis is None else axis.in_plotly)}
            for title, axis in (("learning rate", axis_of(rates, is_log=True)), (SCORE, axis_of(scores, is_log=False)))]  # fmt: skip
    return {"data": data, "layout": {"showlegend": len(data) > 1, "margin": MARGIN, "xaxis": axes[0], "yaxis": axes[1]}}


def _parallel(scored: Sequence[TrialView], better: str) -> dict[str, Any]:
    """One upright axis for each field that differs, and one for the score; plotly's own needs scripts that the pages' policy forbids."""
    fields = [{**trial.fields, SCORE: trial.score} for trial in scored]
    names = [name for name in dict.fromkeys(name for of in fields for name in of) if name not in {"seed", SCORE}]
    differing = [name for name in names if len({str(of.get(name)) for of in fields}) > 1]
    axes = [_places([of.get(name) for of in fields], name != SCORE) for name in (*differing, SCORE)]
    x = range(len(axes))
    data = []
    for number, shade in enumerate(SHADES if better == "higher" else SHADES[::-1]):
        runs = [run for run, place in enumerate(axes[-1]) if min(int(place * len(SHADES)), len(SHADES) - 1) == number]
        data += [{
            "type": "scatter", "mode": "lines", "connectgaps": False, "hoverinfo": "text", "line": {"color": shade, "width": 1.5}, "opacity": 0.75,
            "x": [at for _ in runs for at in (*x, None)], "y": [place for run in runs for place in (*(axis[run] for axis in axes), None)],
            "text": [text for run in runs for text in (*(in_short({name: fields[run].get(name)}) for name in (*differing, SCORE)), None)],
        }] if runs else []  # fmt: skip
    notes = [
        {"x": at, "y": height, "text": text, "showarrow": False, "name": "tick",
         **({"yshift": 10 if height else -10} if height in {0.0, 1.0} else {"xanchor": "left", "xshift": 4})}
        for at, (name, axis) in enumerate(zip((*differing, SCORE), axes, strict=True))
        for height, text in _ticks([of.get(name) for of in fields], axis, name != SCORE).items()
    ]  # fmt: skip
    names = [short_name(name).replace(" ", "<br>") for name in (*differing, SCORE)]
    x_axis = {"tickmode": "array", "tickvals": [*x], "ticktext": names, "range": [-0.3, len(axes) - 0.5], "zeroline": False, "automargin": True}
    y_axis = {"visible": False, "range": [-0.15, 1.15]}
    return {"data": data, "layout": {"showlegend": False, "margin": MARGIN, "annotations": notes, "xaxis": x_axis, "yaxis": y_axis}}


def _ticks(values: Sequence[Any], places: Sequence[float], in_logarithm: bool) -> dict[float, str]:
    """What is written along an axis, by height: its ends and what was tried between them; where nothing lies there, the number at its middle."""
    known, chosen = dict(zip(places, values, strict=True)), dict[float, str]()
    for height in sorted(known, key=lambda height: (height not in {0.0, 1.0}, abs(height - 0.5))):
        if all(abs(height - other) >= APART for other in chosen):
            chosen[height] = short_value(known[height])
    if len(chosen) == 2 < len(known):
        low, high = float(known[0.0]), float(known[1.0])
        chosen[0.5] = f"{math.sqrt(low * high) if in_logarithm and low > 0 else (low + high) / 2:.3g}"
    return chosen


def _places(values: Sequence[Any], in_logarithm: bool) -> list[float]:
    """Where values stand on an axis from 0 to 1: numbers by their size, above 0 by its logarithm; names in their order."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        numbers = [math.log(value) for value in values] if in_logarithm and min(values) > 0 else [float(value) for value in values]
    else:
        known = sorted({str(value) for value in values})
        numbers = [float(known.index(str(value))) for value in values]
    low, span = min(numbers), max(numbers) - min(numbers)
    return [(number - low) / span if span else 0.5 for number in numbers]
