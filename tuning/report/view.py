"""What part of its axes a chart shows, and the numbers on them: at least three, round where they can be, on logarithmic axes too."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from largebatch.tuning.report.charts import MOST_TICKS, Chart

ROOM_X, ROOM_Y, ROOM_TAGS = 0.04, 0.06, 0.1
"""Of the whole, left free on each side; the last where words stand beside marks."""
FEWEST_TICKS = 3
APART = 0.12
"""Of an axis, between a number that must stand there and a round one beside it."""
STEPS = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 2.0, 3.0, 5.0, 7.0))
"""Multiples of powers of ten that logarithmic axes show, the roundest first."""


class Axis(NamedTuple):
    """What is shown of one axis."""

    low: float
    high: float
    is_log: bool
    ticks: tuple[float, ...]

    @property
    def texts(self) -> list[str]:
        """Of the ticks."""
        return [f"{tick:,.10g}" for tick in self.ticks]

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one."""
        low, high, at = (math.log(end) if self.is_log else end for end in (self.low, self.high, value))
        return (at - low) / (high - low)

    @property
    def in_plotly(self) -> dict[str, Any]:
        """The same as plotly's axis takes it, which on logarithmic axes wants exponents for the ends."""
        ends = [math.log10(end) if self.is_log else end for end in (self.low, self.high)]
        return {"type": "log" if self.is_log else "linear", "range": ends, "tickmode": "array", "tickvals": [*self.ticks], "ticktext": self.texts}


class View(NamedTuple):
    """The part of a chart's plane that is shown, by its two axes."""

    x: Axis
    y: Axis


def view_of(chart: Chart) -> View | None:
    """What is shown of a chart; None for a map, a field, axes of one scale, and a chart without a point, which draw themselves."""
    if chart.heat is not None or chart.field is not None or chart.same_scale:
        return None
    points = [(x, y) for line in chart.series for x, y in zip(line.x, line.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    ends = [end for line in chart.series for bounds in (line.low or (), line.high or ()) for end in bounds if end is not None and math.isfinite(end)]
    x = _range([x for x, _ in points], ROOM_TAGS if any(line.tags for line in chart.series) else ROOM_X, is_log=chart.log_x)
    y = _range([*(y for _, y in points), *ends, *(level for level, _ in chart.levels)], ROOM_Y, is_log=chart.log_y)
    if x is None or y is None:
        return None
    bare = Axis(*(chart.x_range or x), chart.log_x, ())
    numbers = ticks(y[0], y[1] if chart.apart is None else chart.apart[0], is_log=chart.log_y)
    return View(bare._replace(ticks=_with_others(chart.shown_ticks, bare)), Axis(*(chart.y_range or y), chart.log_y, numbers))


def axis_of(values: Iterable[float], *, is_log: bool) -> Axis | None:
    """An axis that shows all of these with some room; None for no value that can be shown."""
    ends = _range(values, ROOM_Y, is_log=is_log)
    return ends and Axis(*ends, is_log, ticks(*ends, is_log=is_log))


def ticks(low: float, high: float, *, is_log: bool) -> tuple[float, ...]:
    """Round numbers from low to high, at least three and not many more than nine."""
    if is_log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        decades = range(first, last + 1)
        for every in range(max((last - first) // MOST_TICKS, 0) + 1, 0, -1):
            shown = tuple(10.0**power for power in decades if power % every == 0 and low <= 10.0**power <= high)
            if len(shown) >= FEWEST_TICKS:
                return shown
        for factors in STEPS[1:]:
            shown = tuple(factor * 10.0**power for power in decades for factor in factors if low <= factor * 10.0**power <= high)
            if len(shown) >= FEWEST_TICKS:
                return shown
    magnitude = 10.0 ** math.floor(math.log10((high - low) / FEWEST_TICKS))
    step = next(factor * magnitude for factor in (10.0, 5.0, 2.0, 1.0) if (high - low) / (factor * magnitude) >= FEWEST_TICKS)
    return tuple(round(number * step, 12) for number in range(math.ceil(low / step), math.floor(high / step) + 1))


def _with_others(given: tuple[float, ...], axis: Axis) -> tuple[float, ...]:
    """The numbers that must stand there, with round ones between where they are too few."""
    if len(given) >= FEWEST_TICKS:
        return given
    others = ticks(axis.low, axis.high, is_log=axis.is_log)
    return tuple(sorted({*given, *(tick for tick in others if all(abs(axis.share(tick) - axis.share(one)) > APART for one in given))}))


def _range(values: Iterable[float], room: float, *, is_log: bool) -> tuple[float, float] | None:
    """From the smallest to the largest with some room; None for no value that can be shown."""
    shown = [value for value in values if not is_log or value > 0]
    if not shown:
        return None
    low, high = min(shown), max(shown)
    if is_log:
        factor = (high / low) ** room if high > low else 2.0
        return low / factor, high * factor
    width = (high - low) * room if high > low else abs(high) / 10 or 1.0
    return low - width, high + width
