"""Draws a chart with plotly, for pages; colours of text and grid are left to the page, which may be light or dark."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly import graph_objects
from plotly.offline import get_plotlyjs

from largebatch.tuning.report.charts import ARROW, DEEPEST, SHADE, Chart, Field, Heat, Series
from largebatch.tuning.report.code_words import coded
from largebatch.tuning.report.labels import Label, labels_of, tags_of
from largebatch.tuning.report.view import Axis, View, view_of

TEMPLATES = Environment(loader=PackageLoader("largebatch.tuning.report"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)

TEMPLATES.filters["coded"] = coded
TEMPLATES.globals["plotly"] = get_plotlyjs

SYMBOLS = {"circle": "circle", "x": "x", "ring": "circle-open"}
MODES = {"line": "lines", "marks": "markers", "both": "lines+markers", "arrow": "lines+markers"}


def to_plotly(chart: Chart) -> Any:
    """A plotly figure."""
    figure = graph_objects.Figure()
    if chart.heat is not None:
        _draw_heat(figure, chart.heat)
    if chart.field is not None:
        _draw_field(figure, chart.field)
    view = view_of(chart)
    _draw_series(figure, chart, view)
    _draw_lines(figure, chart)
    labels = labels_of(chart, view)
    _draw_labels(figure, labels)
    fitted = {"constrain": "domain"} if chart.same_scale else {}
    one_scale = {"scaleanchor": "x", **fitted} if chart.same_scale else {}
    figure.update_layout(
        title={"text": chart.title, "font": {"size": 16}}, template="none", paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        xaxis={"title": chart.x_title, "automargin": True, "range": chart.x_range, **_axis(chart, view and view.x), **fitted},
        yaxis={"title": {"text": chart.y_title, "standoff": 12},
               "automargin": True, "range": chart.y_range, **_axis(chart, view and view.y), **one_scale},
        legend={"orientation": "h", "yanchor": "top", "y": -0.22, "x": 0}, margin={"l": 70, "r": 140 if labels else 20, "t": 50, "b": 60},
        font={"size": 13}, showlegend=len(chart.series) > 1 and not labels, dragmode=False,
    )  # fmt: skip
    return figure


def as_json(chart: Chart) -> dict[str, Any]:
    """The figure as plotly's script takes it: data and layout."""
    drawn: dict[str, Any] = json.loads(to_plotly(chart).to_json())
    return drawn


def write_page(chart: Chart, path: Path) -> None:
    """One page with one figure, and under it its conditions; it holds its script and opens without a network."""
    page = TEMPLATES.get_template("figure.html")
    path.write_text(page.render(chart=chart, figures=as_script({chart.name: as_json(chart)})))


def as_script(data: Any) -> Markup:
    """Figures, or what else there is in JSON, as a page's script holds them."""
    # "</" would end the script element; in JSON "<\/" is the same text.
    return Markup(json.dumps(data).replace("</", "<\\/"))


def _draw_heat(figure: Any, heat: Heat) -> None:
    figure.add_heatmap(
        x=list(heat.x), y=list(heat.y), z=[list(row) for row in heat.values], text=[list(row) for row in heat.texts], texttemplate="%{text}",
        colorscale="Viridis", reversescale=True, colorbar={"title": heat.unit}, hoverongaps=False,
    )  # fmt: skip


def _draw_field(figure: Any, field: Field) -> None:
    red, green, blue = SHADE
    lowest, next_level, *_, highest = field.levels
    figure.add_contour(
        x=list(field.x), y=list(field.y), z=[list(row) for row in field.heights], showscale=False, hoverinfo="skip", autocontour=False,
        contours={"start": lowest, "end": highest, "size": next_level - lowest, "coloring": "heatmap"},  # filled levels would be laid on each other
        line={"color": f"rgb({red},{green},{blue})", "width": 0.5},
        colorscale=[[0, f"rgba({red},{green},{blue},{DEEPEST})"], [1, f"rgba({red},{green},{blue},0)"]],
    )  # fmt: skip


def _draw_series(figure: Any, chart: Chart, view: View | None) -> None:
    for (series, colour), tags in zip(chart.coloured, tags_of(chart, view), strict=True):
        error = None
        if series.bars is not None:
            below, above = series.bars
            error = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1}
        figure.add_scatter(
            x=list(series.x), y=list(series.y), name=series.name, mode=MODES[series.draws] + ("+text" if series.tags else ""),
            marker=_marks(series, colour), line={"color": colour, "simplify": False, "dash": "dash" if series.dash else "solid"},
            error_y=error, hovertext=list(series.notes) if series.notes else None,
            hovertemplate="%{hovertext}<extra></extra>" if series.notes else None,
            text=[tag.text for tag in tags] or None, textposition=[tag.side for tag in tags] or None,
            cliponaxis=not series.tags,
        )  # fmt: skip
        for x, y, way in series.open_ends:
            figure.add_annotation(
                x=_coordinate(x, chart.log_x), y=_coordinate(y, chart.log_y), ax=0, ay=-ARROW * way, text="", showarrow=True,
                arrowside="start", startarrowhead=2, startarrowsize=1.5, arrowcolor=colour, arrowwidth=1.5,
            )  # fmt: skip


def _marks(series: Series, colour: str) -> dict[str, Any]:
    """Marks of one size; of an arrow none where it begins, and a head that points away from there."""
    if series.draws == "arrow":
        return {"size": [0, 11], "color": colour, "symbol": "arrow", "angleref": "previous", "opacity": 1, "line": {"width": 0}}
    return {"size": 7 * series.mark_size, "color": colour, "symbol": SYMBOLS[series.symbol]}


def _draw_lines(figure: Any, chart: Chart) -> None:
    note = {"showarrow": False, "font": {"size": 11}, "xanchor": "left"}
    end = ("bottom", 0) if chart.apart is not None else ("top", 1)  # words of marks and those of misses stand at two ends
    lines = [(*level, {"line_dash": "dot"}) for level in chart.levels] + ([(*chart.apart, {"line_width": 1})] if chart.apart else [])
    for level, words, style in lines:
        figure.add_hline(y=level, line_color="#888888", **style)
        figure.add_annotation(text=words, x=0, xref="x domain", y=_coordinate(level, chart.log_y), yref="y", yanchor="bottom", **note)
    for mark, words in chart.marks:
        figure.add_vline(x=mark, line_dash="dot", line_color="#888888")
        figure.add_annotation(
            text=words, x=_coordinate(mark, chart.log_x), xref="x", y=end[1], yref="y domain", yanchor=end[0], textangle=-90, **note
        )
    if chart.zone is not None:
        figure.add_vrect(x0=chart.zone[0], x1=chart.zone[1], fillcolor="#888888", opacity=0.15, line_width=0)


def _draw_labels(figure: Any, labels: Sequence[Label]) -> None:
    """The names of the series at the right, by the names that the page's script knows them by."""
    for label in labels:
        figure.add_annotation(
            text=f'<span style="color:{label.colour}">{label.sign}</span> {"<br>".join(map(escape, label.lines))}', name="label", showarrow=False,
            x=1, xref="x domain", xanchor="left", xshift=4, y=label.height, yref="y domain", yanchor="middle", align="left", font={"size": 12},
        )  # fmt: skip


def _axis(chart: Chart, axis: Axis | None) -> dict[str, Any]:
    if chart.heat is not None:
        return {"type": "category"}
    return {"type": "linear"} if axis is None else axis.in_plotly


def _coordinate(value: float, is_log: bool) -> float:
    """Where plotly wants a note: on a logarithmic axis it takes the exponent, though lines take the value."""
    return math.log10(value) if is_log else value
