"""Pages that hold their scripts and open without a network: the report's, and a single figure's."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from largebatch.tuning.report.charts import Chart
from largebatch.tuning.report.plotly_pen import to_plotly

TEMPLATES = Environment(loader=PackageLoader("largebatch.tuning.report"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)


def report_page(
    title: str,
    words: Sequence[str],
    tables: Sequence[tuple[str, Sequence[dict[str, str]]]] = (),
    charts: Sequence[Chart] = (),
    drawn: dict[str, Any] | None = None,
) -> str:
    """The report. Args: words: the answer in its first three sentences; tables: (title, rows); drawn: each chart's figure, by its name."""
    # "</" would end the script element; in JSON "<\/" is the same text.
    figures = Markup(json.dumps(drawn or {}).replace("</", "<\\/"))
    page = TEMPLATES.get_template("report.html")
    return page.render(title=title, words=words, tables=tables, charts=charts, figures=figures, plotly=Markup(get_plotlyjs()))


def write_page(chart: Chart, path: Path) -> None:
    """One page with one figure, and under it its conditions."""
    figure = to_plotly(chart)
    figure.update_layout(template="plotly_white", hovermode="x unified")
    drawn = figure.to_html(full_html=False, include_plotlyjs=True, default_height="85vh", config={"responsive": True})
    path.write_text(TEMPLATES.get_template("figure.html").render(chart=chart, figure=Markup(drawn)))
