"""The description of a figure, which two pens draw: plotly for pages that are looked at, matplotlib for pictures.

plotly cannot write a picture without a browser; describing a figure once keeps both the same (docs/decisions/).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")
"""After Okabe and Ito: colour-blind readers can tell them apart; the last reads on light and on dark."""
Draws = Literal["line", "marks", "both", "arrow"]
"""An arrow leads from its series' first point to its last."""
SHADE, DEEPEST = (0x77, 0x77, 0x77), 0.6
"""Of a field: its colour, which reads on light and on dark, and how opaque it is where it is deepest; it is clear where it is highest."""
MOST_TICKS = 9
ARROW = 30
"""Length of what stands for an open interval."""


def slug(name: str) -> str:
    """A name as a part of a file's: letters, digits, points and dashes."""
    return re.sub(r"[^\w.-]+", "-", name)


@dataclass(frozen=True)
class Series:
    """One line, or one set of marks."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    """Ends of intervals about y; None where y is a number: open on that side, drawn as an arrow."""
    draws: Draws = "both"
    symbol: Literal["circle", "x", "ring"] = "circle"
    """Of the marks; x: what was not reached; ring: about another mark."""
    mark_size: float = 1.0
    """Times the usual."""
    dash: bool = False
    colour: int | None = None
    """Index in COLOURS; default the series' own index in its chart."""
    notes: Sequence[str] | None = None
    """What a pointer over each mark reads."""
    tags: Sequence[str] | None = None
    """What is printed beside each mark."""

    @property
    def bars(self) -> tuple[list[float], list[float]] | None:
        """Lengths of the intervals below and above y, 0 where they are open; None for a series without intervals."""
        if self.low is None or self.high is None:
            return None
        below = [0.0 if low is None else y - low for low, y in zip(self.low, self.y, strict=True)]
        above = [0.0 if high is None else high - y for high, y in zip(self.high, self.y, strict=True)]
        return below, above

    @property
    def open_ends(self) -> list[tuple[float, float, int]]:
        """The points whose interval has no end: (x, y, 1 for upwards or -1 for downwards)."""
        ends = [(way, bounds) for way, bounds in ((1, self.high), (-1, self.low)) if bounds is not None]
        return [(x, y, way) for way, bounds in ends for x, y, bound in zip(self.x, self.y, bounds, strict=True) if bound is None and math.isfinite(y)]


@dataclass(frozen=True)
class Heat:
    """A map of values over two lists of names."""

    x: Sequence[str]
    y: Sequence[str]
    values: Sequence[Sequence[float | None]]
    """Rows of `y`; None: nothing was reached."""
    texts: Sequence[Sequence[str]]
    unit: str


@dataclass(frozen=True)
class Field:
    """Heights over a plane, drawn as level lines at equal distances of height, shaded the more the deeper they lie."""

    x: Sequence[float]
    y: Sequence[float]
    heights: Sequence[Sequence[float]]
    """Rows of `y`."""
    num_levels: int = 16

    @property
    def levels(self) -> list[float]:
        """Of the lines, from the lowest height to the highest."""
        low, high = min(map(min, self.heights)), max(map(max, self.heights))
        return [low + (high - low) * level / self.num_levels for level in range(self.num_levels + 1)]


@dataclass(frozen=True)
class Chart:
    """A figure."""

    name: str
    """Of its file."""
    title: str
    x_title: str
    y_title: str
    series: Sequence[Series] = ()
    heat: Heat | None = None
    field: Field | None = None
    """Behind the series."""
    caption: str = ""
    """Seeds, device, clock."""
    meaning: str = ""
    """How it is read: what its words mean, and which way is better."""
    log_x: bool = False
    log_y: bool = False
    levels: Sequence[tuple[float, str]] = ()
    """Horizontal lines with their words."""
    apart: tuple[float, str] | None = None
    """A height with its words, above which marks stand for what has no number there."""
    marks: Sequence[tuple[float, str]] = ()
    """Vertical lines with their words."""
    zone: tuple[float, float] | None = None
    """A shaded interval of x."""
    x_ticks: Sequence[float] = ()
    """Where the x axis has its numbers; default: where they come out round."""
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    """What is shown; default: everything."""
    same_scale: bool = False
    """One unit is as long on both axes, so that right angles are some."""

    @property
    def coloured(self) -> list[tuple[Series, str]]:
        """Each series with its colour."""
        numbers = [number if series.colour is None else series.colour for number, series in enumerate(self.series)]
        return [(series, COLOURS[number % len(COLOURS)]) for series, number in zip(self.series, numbers, strict=True)]

    @property
    def shown_ticks(self) -> tuple[float, ...]:
        """The x axis' numbers, not more than there is room for; empty where they come out round by themselves."""
        ticks = tuple(self.x_ticks)
        while len(ticks) > MOST_TICKS:
            ticks = ticks[::2]
        return ticks
