"""Writes the report of runs: `largebatch report`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from largebatch.jobs.run.run_folder import refuse_unwritable
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.answer.runs import compare_prediction, find_among, gather
from largebatch.service.cli.card_view import print_card
from largebatch.service.cli.options import RunsToRead, refuse_unless_finite
from largebatch.service.cli.typer_parameters import spread
from largebatch.tuning.report.report import NOTHING, write_report, write_report_of_nothing
from largebatch.tuning.report.schema import json_schema
from largebatch.tuning.results.analysis.prediction import misses_in_words
from largebatch.tuning.results.card.ready_recipe import RECIPE
from largebatch.tuning.results.findings import NothingEndedError
from largebatch.tuning.results.wording import answer_of

app = typer.Typer()


@app.command(epilog="Example: largebatch report runs/digits-batches-20260101-120000 --output report")
@spread
def report(
    runs: RunsToRead,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of report.json, and nothing else.")] = False,
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Where report.html, report.json and the pictures go.")] = Path("report"),
) -> None:
    """Write the report of runs that are there: one page that opens without a network, its numbers, its pictures."""
    if schema:
        print_answer(json.dumps(json_schema(), indent=2))
        return
    refuse_unless_finite("--target", runs.target)
    refuse_unwritable(output, "--output")
    try:
        gathered = gather(runs)
        findings = find_among(gathered, runs)
    except NothingEndedError as nothing:
        page = write_report_of_nothing(output, nothing.missing)
        print("\n".join([NOTHING, *nothing.missing, f"Report: {page.resolve()}"]))
        return
    extras = compare_prediction(findings, runs)
    if extras.misses:
        extras = replace(extras, words=[misses_in_words(extras.misses), *extras.words])
    page = write_report(output, findings, extras)
    answer = answer_of(findings, output / RECIPE)
    print_card(answer.card)
    print("\n".join([*answer.words, *extras.words, f"Report: {page.resolve()}"]))
