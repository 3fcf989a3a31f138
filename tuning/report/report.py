"""The report: one page that answers the question first and shows the figures after, its numbers, and its pictures.

`report.html` holds its script and opens without a network; `report.json` holds every number; a PNG each figure.
"""

import contextlib
import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from largebatch.jobs.run.run_folder import storage_errors, write_text
from largebatch.jobs.tracking.folder_mirror import REPORT
from largebatch.tuning.report.attempts import Attempts
from largebatch.tuning.report.charts import Chart, to_plotly, write_pngs
from largebatch.tuning.report.figures import (
    accuracy_curves,
    accuracy_of_batch,
    frontiers,
    momentum_map,
    profile_charts,
    steps_and_samples,
    time_to_target,
)
from largebatch.tuning.results.analysis.prediction import Miss, Predicted
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.findings import Findings, NothingEndedError, find_in
from largebatch.tuning.results.wording import answer_of

MOST_CURVES = 12
NOTHING = "There is nothing to compare: no run of largebatch has ended."


@dataclass(frozen=True)
class Extras:
    """What a report shows beside the runs, as far as it was measured."""

    profile: Profile | None = None
    predicted: Sequence[Predicted] = ()
    misses: Sequence[Miss] = ()
    charts: Sequence[Chart] = ()
    """More figures, such as sharpness."""
    tables: Sequence[tuple[str, Sequence[dict[str, str]]]] = ()
    """More tables: (title, rows)."""
    words: Sequence[str] = ()
    attempts: Attempts = field(default_factory=Attempts)
    """What failed before, and on the way to the report."""


def write_report(folder: Path, findings: Findings, extras: Extras | None = None) -> Path:
    """Write the report into `folder`; a figure that cannot be drawn is left out, and named. Returns the page. Raises: StorageError."""
    extras = extras or Extras()
    attempts = extras.attempts
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    charts = charts_of(findings, extras)
    for chart in charts:
        attempts.attempt(f"the picture {chart.name}.png", partial(write_pngs, [chart], folder))
    figures = _figures(charts, attempts)
    answer = answer_of(findings)
    words = [*answer.words, *extras.words, *(one.in_words for one in attempts.failed)]
    numbers = {
        **answer.numbers(),
        "words": words,
        "failed": [one._asdict() for one in attempts.failed],
        "profile": None if extras.profile is None else extras.profile.model_dump(mode="json"),
        "predicted": [one._asdict() for one in extras.predicted],
        "prediction_errors": [{**one._asdict(), "error": one.error} for one in extras.misses],
        "tables": {title: list(rows) for title, rows in extras.tables},
    }
    write_text(folder / "report.json", json.dumps(numbers, indent=2) + "\n")
    tables = [("The best of each batch size", answer.rows), *extras.tables]
    if extras.misses:
        tables.append(("What was predicted before, and what came", [one.row() for one in extras.misses]))
    page = folder / "report.html"
    write_text(page, _page(str(findings.setting), words, tables, [chart for chart in charts if chart.name in figures], figures))
    return page


def write_sweep_report(folder: Path) -> None:
    """Write a sweep's report into its own folder; none where no run of it has ended. Raises: StorageError."""
    with contextlib.suppress(NothingEndedError):
        write_report(folder / REPORT, find_in(folder))


def write_report_of_nothing(folder: Path, missing: Sequence[str]) -> Path:
    """A report where no run has ended: what there is to wait for, or what went wrong. Returns the page. Raises: StorageError."""
    words = [NOTHING, *missing]
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "report.json", json.dumps({"words": words, "num_runs": 0, "batches": [], "advice": []}, indent=2) + "\n")
    page = folder / "report.html"
    write_text(page, _page("Nothing yet", words, [], [], {}))
    return page


def charts_of(findings: Findings, extras: Extras) -> list[Chart]:
    """Every figure that there is something to show in."""
    has_choices = bool(findings.choices)
    predicted = [(one.global_batch_size, one.seconds) for one in extras.predicted]
    parts: list[tuple[str, Callable[[], Sequence[Chart]]]] = [
        ("time to the target", lambda: [time_to_target(findings, predicted)] if has_choices else []),
        ("steps and samples to the target", lambda: steps_and_samples(findings) if has_choices else []),
        ("the frontiers", lambda: frontiers(findings) if has_choices else frontiers(findings)[:1]),
        ("accuracy against the batch", lambda: [accuracy_of_batch(findings)]),
        ("momentum against the batch", lambda: [heat] if (heat := momentum_map(findings)) else []),
        ("the profile", lambda: profile_charts(extras.profile) if extras.profile else []),
        ("the solutions", lambda: extras.charts),
        ("accuracy over time", lambda: [accuracy_curves([one.runs[0] for one in findings.best][:MOST_CURVES])]),
    ]
    return [chart for what, draw in parts for chart in extras.attempts.attempt(f"the figure of {what}", draw) or ()]


def _figures(charts: Sequence[Chart], attempts: Attempts) -> dict[str, Any]:
    """Each for the page, by its name."""
    drawn = {chart.name: attempts.attempt(f"the figure {chart.name}", partial(_drawn, chart)) for chart in charts}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _drawn(chart: Chart) -> Any:
    return json.loads(to_plotly(chart).to_json())


def _page(
    title: str, words: Sequence[str], tables: Sequence[tuple[str, Sequence[dict[str, str]]]], charts: Sequence[Chart], drawn: dict[str, Any]
) -> str:
    from plotly.offline import get_plotlyjs

    first, rest = words[:3], words[3:]
    sections = "\n".join(
        f'<section><div class="figure" id="{chart.name}"></div><p class="caption">{html.escape(chart.caption)}</p></section>' for chart in charts
    )
    # "</" would end the script element; in JSON "<\/" is the same text.
    figures = json.dumps(drawn).replace("</", "<\\/")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
<script>{get_plotlyjs()}</script>
</head>
<body>
<main>
<h1>Which batch size?</h1>
{"".join(f'<p class="answer">{html.escape(line)}</p>' for line in first)}
{"".join(f"<p>{html.escape(line)}</p>" for line in rest)}
{"".join(_table(title, rows) for title, rows in tables)}
{sections}
</main>
<script>
const figures = {figures};
{_SCRIPT}
</script>
</body>
</html>
"""


def _table(title: str, rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in row.values()) + "</tr>" for row in rows)
    named = html.escape(title)
    wide = f'<div class="wide" role="region" aria-label="{named}" tabindex="0">'  # a keyboard must be able to scroll it
    return f"<h2>{named}</h2>{wide}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


_STYLE = """
:root { color-scheme: light dark; --text: #1b1b1b; --paper: #fff; --line: #ddd; --quiet: #666; }
@media (prefers-color-scheme: dark) { :root { --text: #e8e8e8; --paper: #17181a; --line: #3a3c40; --quiet: #9a9a9a; } }
body { margin: 0; background: var(--paper); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.answer { font-size: 1.1rem; }
.figure { width: 100%; height: 26rem; }
.caption { color: var(--quiet); font-size: .85rem; margin-top: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--quiet); font-weight: 600; }
td:first-child, th:first-child { text-align: left; white-space: normal; }
"""

_SCRIPT = """
function colours() {
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue('--text').trim(), line = style.getPropertyValue('--line').trim();
  return {'font.color': text, 'xaxis.gridcolor': line, 'yaxis.gridcolor': line, 'xaxis.linecolor': line, 'yaxis.linecolor': line};
}
function folded(text, most) {
  const lines = [''];
  for (const word of text.split(' ')) {
    if (lines.at(-1) && lines.at(-1).length + word.length >= most) lines.push('');
    lines[lines.length - 1] += (lines.at(-1) ? ' ' : '') + word;
  }
  return lines.join('<br>');
}
function fitToPhone(figure) {
  const layout = figure.layout;
  layout.margin = {l: 50, r: 10, t: 70, b: 50};
  layout.title.text = folded(layout.title.text, 36);
  layout.xaxis.title.text = folded(layout.xaxis.title.text, 40);
  layout.xaxis.tickangle = -45;
  layout.font.size = 12;
  layout.legend.y = -0.45;
  for (const trace of figure.data) if (trace.type === 'heatmap') trace.showscale = false;  // its cells hold the numbers
}
for (const [name, figure] of Object.entries(figures)) {
  if (window.innerWidth < 600) fitToPhone(figure);
  Plotly.newPlot(name, figure.data, figure.layout, {responsive: true, displayModeBar: false}).then(() => Plotly.relayout(name, colours()));
}
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  for (const name of Object.keys(figures)) Plotly.relayout(name, colours());
});
"""
