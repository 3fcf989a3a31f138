"""Draws a chart with matplotlib, as a PNG: no browser is needed."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from largebatch.jobs.whole_files import storage_errors, write_whole
from largebatch.tuning.report.charts import ARROW, DEEPEST, SHADE, Chart, Field, Heat, Series
from largebatch.tuning.report.labels import labels_of
from largebatch.tuning.report.view import view_of

CAPTION_WIDTH = 160
"""Letters of a picture's caption in one line."""
BESIDE: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "center", "fontsize": 8, "annotation_clip": False}
PANEL_WIDTH = 42
"""Letters of the title of one panel of two beside each other."""


def write_png(chart: Chart, path: Path) -> None:
    """One picture, whole or not at all. Raises: StorageError."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes: Any = figure.add_subplot()
    _draw(figure, axes, chart)
    labels = labels_of(chart, view_of(chart))
    for label in labels:
        axes.annotate(label.sign, (1, label.height), (6, 0), color=label.colour, **BESIDE)
        axes.annotate("\n".join(label.lines), (1, label.height), (18, 0), **BESIDE)
    if len(chart.series) > 1 and not labels:
        axes.legend(fontsize="small")
    _caption(figure, chart.caption)
    _save(figure, path)


def write_panels(charts: Sequence[Chart], path: Path, title: str, caption: str) -> None:
    """Charts with the same series in one picture, two beside each other, with one legend; whole or not at all. Raises: StorageError."""
    num_rows = math.ceil(len(charts) / 2)
    figure = Figure(figsize=(8, 0.8 + 2.7 * num_rows), layout="constrained")
    subfigures: Any = figure.subfigures(2, 1, height_ratios=[20 * num_rows, 1])
    upper, lower = subfigures
    upper.suptitle(title)
    for number, chart in enumerate(charts, 1):
        axes: Any = upper.add_subplot(num_rows, 2, number)
        _draw(upper, axes, chart)
        axes.set_title(textwrap.fill(chart.title, PANEL_WIDTH), fontsize="medium")
    lower.legend(*axes.get_legend_handles_labels(), loc="center", ncols=len(charts[0].series), fontsize="small", frameon=False)
    _caption(upper, caption)
    _save(figure, path)


def _draw(figure: Any, axes: Any, chart: Chart) -> None:
    """Everything but the legend and the caption."""
    if chart.heat is not None:
        _draw_heat(figure, axes, chart.heat)
    if chart.field is not None:
        _draw_field(axes, chart.field)
    _draw_series(axes, chart)
    _draw_lines(axes, chart)
    axes.set(title=chart.title, xlabel=chart.x_title, ylabel=chart.y_title)
    if chart.heat is None:
        _scale(axes, chart)


def _caption(figure: Any, caption: str) -> None:
    if caption:
        figure.supxlabel(textwrap.fill(caption, CAPTION_WIDTH), fontsize=7, color="grey")


def _save(figure: Figure, path: Path) -> None:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as file:
        figure.savefig(file, format="png", dpi=130)


def _draw_heat(figure: Any, axes: Any, heat: Heat) -> None:
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


def _draw_field(axes: Any, field: Field) -> None:
    shade = [value / 255 for value in SHADE]
    deep_to_high = LinearSegmentedColormap.from_list("heights", [(*shade, DEEPEST), (*shade, 0.0)])
    axes.contourf(field.x, field.y, field.heights, levels=field.levels, cmap=deep_to_high)
    axes.contour(field.x, field.y, field.heights, levels=field.levels, colors=[shade], linewidths=0.4)


def _draw_series(axes: Any, chart: Chart) -> None:
    for series, colour in chart.coloured:
        if series.draws == "arrow":
            _draw_arrow(axes, series, colour)
            continue
        line = "" if series.draws == "marks" else ("--" if series.dash else "-")
        marker = None if series.draws == "line" else {"circle": "o", "x": "x", "ring": "o"}[series.symbol]
        axes.errorbar(series.x, series.y, yerr=series.bars, fmt=line or "none" if marker is None else f"{marker}{line}",
                      markersize=(7 if series.symbol == "x" else 4) * series.mark_size, label=series.name, color=colour, capsize=2,
                      markerfacecolor="none" if series.symbol == "ring" else None,
                      linewidth=1.5)  # fmt: skip
        for x, y, tag in zip(series.x, series.y, series.tags or (), strict=False):
            axes.annotate(tag, (x, y), (0, 5), textcoords="offset points", ha="center", fontsize=8)
        for x, y, way in series.open_ends:
            arrow = {"arrowstyle": "<-", "color": colour}
            axes.annotate("", (x, y), (0, ARROW * way), xycoords="data", textcoords="offset points", arrowprops=arrow)


def _draw_arrow(axes: Any, series: Series, colour: str) -> None:
    axes.plot([], [], color=colour, label=series.name, linewidth=2)  # in the legend: an annotation has no place there
    tail, tip = ((series.x[end], series.y[end]) for end in (0, -1))
    if tail != tip:
        axes.annotate("", tip, tail, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}, zorder=5)


def _draw_lines(axes: Any, chart: Chart) -> None:
    note = {"textcoords": "offset points", "color": "grey", "va": "top"}
    for level, words in chart.levels:
        axes.axhline(level, linestyle=":", color="grey")
        axes.annotate(words, (1, level), (-4, -3), xycoords=("axes fraction", "data"), ha="right", **note)
    if chart.apart is not None:
        level, words = chart.apart
        axes.axhline(level, color="grey", linewidth=0.8)
        axes.annotate(words, (0, level), (4, 3), xycoords=("axes fraction", "data"), textcoords="offset points", color="grey", fontsize=8)
    for mark, words in chart.marks:
        axes.axvline(mark, linestyle=":", color="grey")
        axes.annotate(words, (mark, 1), (3, -4), xycoords=("data", "axes fraction"), rotation=90, **note)
    if chart.zone is not None:
        axes.axvspan(*chart.zone, color="grey", alpha=0.15)


def _scale(axes: Any, chart: Chart) -> None:
    if chart.same_scale:
        axes.set_aspect("equal")
    axes.grid(alpha=0.3)
    view = view_of(chart)
    if view is None:
        axes.set(xlim=chart.x_range, ylim=chart.y_range)
        return
    axes.set(xscale="log" if chart.log_x else "linear", yscale="log" if chart.log_y else "linear")
    axes.minorticks_off()
    axes.set_xticks(view.x.ticks, view.x.texts)
    axes.set_yticks(view.y.ticks, view.y.texts)
    axes.set(xlim=(view.x.low, view.x.high), ylim=(view.y.low, view.y.high))
