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


LETTER, TAG = 0.05, 0.08
"""Width of a tag's letter and height of a tag, over those of the plot on a phone."""
SIDES = {"top center": (0, 1), "bottom center": (0, -1), "middle right": (1, 0), "middle left": (-1, 0)}
"""Where a tag may stand beside its mark, by plotly's words."""
GAP = 0.05


class Tag(NamedTuple):
    """What is printed beside one mark."""

    text: str
    """Empty where there is no room for it: a pointer reads it all the same."""
    side: str


class Label(NamedTuple):
    """The name of a series, written beside its end."""

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


def tags_of(chart: Chart, view: View | None) -> list[list[Tag]]:
    """The tags of each series, at sides of their marks where none covers another."""
    taken = list[tuple[float, float, float]]()
    return [
        [_placed(text, (view.x.share(x), view.y.share(y)), taken) if view else Tag(text, "top center")
         for x, y, text in zip(series.x, series.y, series.tags or (), strict=False)]
        for series in chart.series
    ]  # fmt: skip


def _placed(text: str, mark: tuple[float, float], taken: list[tuple[float, float, float]]) -> Tag:
    """A tag at the first side that is free. Args: taken: centres and half widths of the tags before, to which it is added."""
    half = len(text) * LETTER / 2
    for side, (right, up) in SIDES.items():
        x, y = mark[0] + right * (half + GAP), mark[1] + up * (TAG / 2 + GAP)
        if all(abs(x - other_x) >= half + other_half or abs(y - other_y) >= TAG for other_x, other_y, other_half in taken):
            taken.append((x, y, half))
            return Tag(text, side)
    return Tag("", "top center")


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
