"""The report: one page that answers the question first and shows the figures after, its numbers, and its pictures.

`report.html` holds its script and opens without a network; `report.json` holds every number; a PNG each figure.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from largebatch.jobs.whole_files import storage_errors, write_text
from largebatch.tuning.files import REPORT_NUMBERS
from largebatch.tuning.report.charts import Chart
from largebatch.tuning.report.contents import Extras, charts_of
from largebatch.tuning.report.picture_pen import write_png
from largebatch.tuning.report.plotly_pen import TEMPLATES, as_json, as_script
from largebatch.tuning.report.schema import ReportNumbers, ReportOfNothing
from largebatch.tuning.results.card.ready_recipe import RECIPE
from largebatch.tuning.results.findings import Findings
from largebatch.tuning.results.wording import answer_of

TABLE_MEANING = (
    "The regime is what a larger batch still buys: under perfect scaling doubling it takes nearly half the steps, under diminishing returns less and "
    "less, under maximal data parallelism next to nothing. The noise scale is the batch at which a gradient's noise is as large as the gradient."
)
NOTHING = "There is nothing to compare: no run of largebatch has ended."


class Table(NamedTuple):
    """A table of the page."""

    title: str
    rows: Sequence[dict[str, str]]
    """Texts by their columns."""
    meaning: str = ""
    """What its words mean."""


def write_report(folder: Path, findings: Findings, extras: Extras | None = None) -> Path:
    """Write the report into `folder`; a figure that cannot be drawn is left out, and named. Returns the page. Raises: StorageError."""
    extras = extras or Extras()
    attempt, failed = extras.attempts.attempt, extras.attempts.failed
    answer = answer_of(findings, folder / RECIPE)
    charts = charts_of(findings, extras)
    for chart in charts:
        attempt(f"the picture {chart.name}.png", partial(write_png, chart, folder / f"{chart.name}.png"))
    figures = {chart.name: figure for chart in charts if (figure := attempt(f"the figure {chart.name}", partial(as_json, chart))) is not None}
    numbers = ReportNumbers.model_validate(
        {
            **answer.numbers(),
            "words": [*answer.words, *extras.words, *(failure.in_words for failure in failed)],
            "failed": failed,
            "profile": extras.profile,
            "predicted": [prediction._asdict() for prediction in extras.predicted],
            "prediction_errors": [{**miss._asdict(), "error": miss.error} for miss in extras.misses],
            "tables": {title: list(rows) for title, rows in extras.tables},
        }
    )
    under_each = " under each optimizer" if findings.compares_optimizers else ""
    tables = [Table(f"The best of each batch size{under_each}", answer.rows, TABLE_MEANING), *(Table(*table) for table in extras.tables)]
    if extras.misses:
        predicted_with = f", with {extras.predicted_with}" if extras.predicted_with else ""
        rows = [miss.row(findings.unit) for miss in extras.misses]
        tables.append(Table(f"What was predicted before, and what came{predicted_with}", rows))
    drawn = [chart for chart in charts if chart.name in figures]
    return _write(folder, str(findings.setting), numbers, tables, drawn, figures)


def write_report_of_nothing(folder: Path, missing: Sequence[str]) -> Path:
    """A report where no run has ended: what there is to wait for, or what went wrong. Returns the page. Raises: StorageError."""
    return _write(folder, "Nothing yet", ReportOfNothing(words=[NOTHING, *missing]))


def _write(
    folder: Path,
    title: str,
    numbers: ReportNumbers | ReportOfNothing,
    tables: Sequence[Table] = (),
    charts: Sequence[Chart] = (),
    figures: dict[str, Any] | None = None,
) -> Path:
    """Write the card's recipe, numbers and page. Args: figures: by chart."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    card = numbers.card if isinstance(numbers, ReportNumbers) else None
    if card is not None and card.recipe is not None:
        write_text(folder / RECIPE, card.recipe.text)
    write_text(folder / REPORT_NUMBERS, json.dumps(numbers.model_dump(mode="json"), indent=2) + "\n")
    shown = TEMPLATES.get_template("report.html").render(
        title=title, card=card, words=numbers.words if card is None else numbers.words[1:], tables=tables, charts=charts,
        figures=as_script(figures or {}), origin=numbers.origin,
    )  # fmt: skip
    write_text(folder / "report.html", shown)
    return folder / "report.html"
