"""One description of a figure, two pens: plotly for pages that are looked at, matplotlib for pictures.

plotly cannot write a picture without a browser; describing a figure once keeps both the same.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from largebatch.jobs.run.run_folder import storage_errors, write_whole

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")
"""After Okabe and Ito: colour-blind readers can tell them apart; the last reads on light and on dark."""

MOST_TICKS = 9
CAPTION_WIDTH = 160
"""Letters of a picture's caption in one line."""
ARROW = 30
"""Length of what stands for an open interval."""


@dataclass(frozen=True)
class Series:
    """One line, or one set of marks."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    """Ends of intervals about y; None where y is a number: open on that side, drawn as an arrow."""
    draws: Literal["line", "marks", "both"] = "both"
    symbol: Literal["circle", "x"] = "circle"
    """Of the marks; x: what was not reached."""
    dash: bool = False
    colour: int | None = None
    """Place in COLOURS; default the series' own place."""
    notes: Sequence[str] | None = None
    """What a pointer over each mark reads."""

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
        """The places whose interval has no end: (x, y, 1 for upwards or -1 for downwards)."""
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
class Chart:
    """A figure."""

    name: str
    """Of its file."""
    title: str
    x_title: str
    y_title: str
    series: Sequence[Series] = ()
    heat: Heat | None = None
    caption: str = ""
    """Seeds, device, clock."""
    log_x: bool = False
    log_y: bool = False
    levels: Sequence[tuple[float, str]] = ()
    """Horizontal lines with their words."""
    marks: Sequence[tuple[float, str]] = ()
    """Vertical lines with their words."""
    zone: tuple[float, float] | None = None
    """A shaded interval of x."""
    x_ticks: Sequence[float] = ()
    """Where the x axis has its numbers; default: where they come out round."""

    @property
    def shown_ticks(self) -> list[float]:
        """Not more than there is room for."""
        kept = list(self.x_ticks)
        while len(kept) > MOST_TICKS:
            kept = kept[::2]
        return kept


def to_plotly(chart: Chart) -> Any:
    """A plotly figure; colours of text and grid are left to the page, which may be light or dark."""
    from plotly import graph_objects

    figure = graph_objects.Figure()
    if chart.heat is not None:
        heat = chart.heat
        figure.add_heatmap(
            x=list(heat.x), y=list(heat.y), z=[list(row) for row in heat.values], text=[list(row) for row in heat.texts], texttemplate="%{text}",
            colorscale="Viridis", reversescale=True, colorbar={"title": heat.unit}, hoverongaps=False,
        )  # fmt: skip
    for number, series in enumerate(chart.series):
        colour = COLOURS[(number if series.colour is None else series.colour) % len(COLOURS)]
        mode = {"line": "lines", "marks": "markers", "both": "lines+markers"}[series.draws]
        error = None
        if series.bars is not None:
            below, above = series.bars
            error = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1}
        figure.add_scatter(
            x=list(series.x), y=list(series.y), name=series.name, mode=mode, marker={"size": 7, "color": colour, "symbol": series.symbol},
            line={"color": colour, "dash": "dash" if series.dash else "solid"}, error_y=error,
            text=list(series.notes) if series.notes else None, hovertemplate="%{text}<extra></extra>" if series.notes else None,
        )  # fmt: skip
        for x, y, way in series.open_ends:
            figure.add_annotation(
                x=_place(x, chart.log_x), y=_place(y, chart.log_y), ax=0, ay=-ARROW * way, text="", showarrow=True,
                arrowside="start", startarrowhead=2, startarrowsize=1.5, arrowcolor=colour, arrowwidth=1.5,
            )  # fmt: skip
    for level, words in chart.levels:
        figure.add_hline(y=level, line_dash="dot", line_color="#888888")
        _note(figure, words, x=0, xref="x domain", y=_place(level, chart.log_y), yref="y", xanchor="left", yanchor="bottom")
    for place, words in chart.marks:
        figure.add_vline(x=place, line_dash="dot", line_color="#888888")
        _note(figure, words, x=_place(place, chart.log_x), xref="x", y=1, yref="y domain", xanchor="left", yanchor="top", textangle=-90)
    if chart.zone is not None:
        figure.add_vrect(x0=chart.zone[0], x1=chart.zone[1], fillcolor="#888888", opacity=0.15, line_width=0)
    figure.update_layout(
        title={"text": chart.title, "font": {"size": 16}}, template="none", paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        xaxis={"title": chart.x_title, "automargin": True, **_axis(chart.log_x), **_ticks(chart)},
        yaxis={"title": chart.y_title, "automargin": True, **_axis(chart.log_y)},
        legend={"orientation": "h", "yanchor": "top", "y": -0.22, "x": 0}, margin={"l": 70, "r": 20, "t": 50, "b": 60}, font={"size": 13},
        showlegend=len(chart.series) > 1,
    )  # fmt: skip
    if chart.heat is not None:
        figure.update_layout(xaxis={"type": "category"}, yaxis={"type": "category"})
    return figure


def _axis(is_log: bool) -> dict[str, Any]:
    return {"type": "log", "dtick": "D2", "tickformat": ",~r"} if is_log else {"type": "linear"}


def _ticks(chart: Chart) -> dict[str, Any]:
    return {"tickmode": "array", "tickvals": chart.shown_ticks, "ticktext": [f"{place:,g}" for place in chart.shown_ticks]} if chart.x_ticks else {}


def _place(value: float, is_log: bool) -> float:
    """Where plotly wants a note: on a logarithmic axis it takes the exponent, though lines take the value."""
    return math.log10(value) if is_log else value


def _note(figure: Any, words: str, **where: Any) -> None:
    figure.add_annotation(text=words, showarrow=False, font={"size": 11}, **where)


def write_png(chart: Chart, path: Path) -> None:
    """One picture, whole or not at all. Raises: StorageError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes: Any = figure.add_subplot()
    if chart.heat is not None:
        _draw_heat(figure, axes, chart.heat)
    for number, series in enumerate(chart.series):
        colour = COLOURS[(number if series.colour is None else series.colour) % len(COLOURS)]
        line = "" if series.draws == "marks" else ("--" if series.dash else "-")
        marker = None if series.draws == "line" else {"circle": "o", "x": "x"}[series.symbol]
        axes.errorbar(series.x, series.y, yerr=series.bars, fmt=line or "none" if marker is None else f"{marker}{line}",
                      markersize=7 if series.symbol == "x" else 4, label=series.name, color=colour, capsize=2, linewidth=1.5)  # fmt: skip
        for x, y, way in series.open_ends:
            arrow = {"arrowstyle": "<-", "color": colour}
            axes.annotate("", (x, y), (0, ARROW * way), xycoords="data", textcoords="offset points", arrowprops=arrow)
    for level, words in chart.levels:
        axes.axhline(level, linestyle=":", color="grey")
        axes.annotate(words, (1, level), (-4, -3), xycoords=("axes fraction", "data"), textcoords="offset points", color="grey", ha="right", va="top")
    for place, words in chart.marks:
        axes.axvline(place, linestyle=":", color="grey")
        axes.annotate(words, (place, 1), (3, -4), xycoords=("data", "axes fraction"), textcoords="offset points", color="grey", va="top", rotation=90)
    if chart.zone is not None:
        axes.axvspan(*chart.zone, color="grey", alpha=0.15)
    axes.set(title=chart.title, xlabel=chart.x_title, ylabel=chart.y_title)
    if chart.heat is None:
        is_empty = not any(len(series.x) for series in chart.series)  # matplotlib takes no logarithm of nothing
        axes.set(xscale="log" if chart.log_x and not is_empty else "linear", yscale="log" if chart.log_y and not is_empty else "linear")
        axes.grid(alpha=0.3)
        for axis, is_log in ((axes.xaxis, chart.log_x), (axes.yaxis, chart.log_y)):
            if is_log and not is_empty:
                _number_plainly(axis)
        if chart.x_ticks:
            axes.set_xticks(chart.shown_ticks, [f"{place:,g}" for place in chart.shown_ticks])
    if len(chart.series) > 1:
        axes.legend(fontsize="small")
    if chart.caption:
        figure.supxlabel(textwrap.fill(chart.caption, CAPTION_WIDTH), fontsize=7, color="grey")
    with write_whole(path) as file:
        figure.savefig(file, format="png", dpi=130)


def _number_plainly(axis: Any) -> None:
    """A logarithmic axis in whole numbers, 2,000 and not 2 x 10^3; between powers of ten 2 and 5, and 3 and 7 where the axis is short."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0) if decades < 1.2 else (1.0, 2.0, 5.0) if decades < 4 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def write_pngs(charts: Sequence[Chart], folder: Path) -> None:
    """A picture of each, under its name. Raises: StorageError."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for chart in charts:
            write_png(chart, folder / f"{chart.name}.png")


def _draw_heat(figure: Any, axes: Any, heat: Heat) -> None:
    import numpy as np

    values = np.array([[np.nan if value is None else value for value in row] for row in heat.values], dtype=float)
    image = axes.imshow(values, aspect="auto", origin="lower", cmap="viridis_r")
    axes.set_xticks(range(len(heat.x)), heat.x)
    axes.set_yticks(range(len(heat.y)), heat.y)
    middle = np.nanmean(values) if np.isfinite(values).any() else 0.0
    for row, texts in enumerate(heat.texts):
        for column, text in enumerate(texts):
            is_dark = np.isfinite(values[row, column]) and values[row, column] > middle
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if is_dark else "black")
    figure.colorbar(image, label=heat.unit)
