"""The names of a chart's series, each beside the end of its own, so that no legend must be read."""

import math
import textwrap
from typing import NamedTuple

from largebatch.tuning.report.charts import Chart, Series
from largebatch.tuning.report.view import View

WIDTH, MOST_LINES = 14, 12
"""Letters of a label's line; lines that all labels of a chart may have, for as many have room beside it."""
LINE = 0.078
"""Height of a line over that of the plot, where that is lowest: on a phone."""
SIGNS = {"x": "\u2715", "ring": "\u25cb", "circle": "\u25cf"}


class Label(NamedTuple):
    """One name."""

    lines: list[str]
    sign: str
    """How its series is drawn."""
    colour: str
    height: float
    """Of its middle: 0 at the foot of the plot, 1 at its head."""


def labels_of(chart: Chart, view: View | None) -> list[Label]:
    """A label for each series that shows a point; none where there is one series alone, or more than there is room for: these take a legend."""
    if view is None or len(chart.series) < 2:
        return []
    shown = [(series, colour, end) for series, colour in chart.coloured if (end := _end(series)) is not None]
    labels = [Label(textwrap.wrap(series.name, WIDTH), _sign(series), colour, min(max(view.y.share(end), 0.0), 1.0)) for series, colour, end in shown]
    return _apart(labels) if sum(len(label.lines) for label in labels) <= MOST_LINES else []


def _end(series: Series) -> float | None:
    """The height of the rightmost point; None where there is none."""
    points = [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return max(points)[1] if points else None


def _sign(series: Series) -> str:
    if series.draws == "marks":
        return SIGNS[series.symbol]
    return "\u254d\u254d" if series.dash else "\u2501"


def _apart(labels: list[Label]) -> list[Label]:
    """The same, moved so far that none covers another, in the order of their heights."""
    ordered, low = sorted(labels, key=lambda label: label.height), 0.0
    moved = list[Label]()
    for label in ordered:
        half = len(label.lines) * LINE / 2
        moved.append(label._replace(height=max(label.height, low + half)))
        low = moved[-1].height + half
    high = 1.0
    for number in reversed(range(len(moved))):
        half = len(moved[number].lines) * LINE / 2
        moved[number] = moved[number]._replace(height=min(moved[number].height, high - half))
        high = moved[number].height - half
    return moved
