"""Puts runs side by side, in a table and a figure: `largebatch compare`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from largebatch.jobs.errors import InputError
from largebatch.jobs.run.journal import failure, read_records
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.answer.runs import gather
from largebatch.service.cli.figure_file import refuse_figure, write_figure
from largebatch.service.cli.options import AsJson, RunsToRead
from largebatch.service.cli.tables import print_runs
from largebatch.service.cli.typer_parameters import spread
from largebatch.tuning.report.run_figures import beside_each_other, judged_by, score_curves
from largebatch.tuning.results.findings import NothingEndedError
from largebatch.tuning.results.phrases import listed
from largebatch.tuning.results.run_result import what_differs
from largebatch.tuning.results.wording import disturbance_in_words

RunsToCompare = Annotated[RunsToRead, "folders", "experiment", "mlflow_uri", "mapping"]

app = typer.Typer()


@app.command(epilog="Example: largebatch compare runs/digits-small-* runs/digits-large-* --figure compare.html")
@spread
def compare(
    runs: RunsToCompare,
    figure: Annotated[Path | None, typer.Option(help="Write scores against training seconds here, .html or .png.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put runs side by side: a table that names what they differ in, and a figure of scores against training seconds.

    Runs that have not ended are left out, in words. A sweep stands for its runs, a study for those of its sweep.
    """
    refuse_figure(figure)
    results, missing = gather(runs)
    if not results:
        raise NothingEndedError.beside(missing)
    if figure is not None:
        if len(metrics := list(dict.fromkeys(map(judged_by, results)))) > 1:
            hint = "Give the runs of one of them, or leave --figure out."
            raise InputError("--figure", f"these runs are judged by {listed(metrics)}, which share no axis.", hint)
        write_figure(figure, score_curves(results))
    rows = [
        {"recipe": result.name, "optimizer": result.optimizer, "differs": differs, **result.summary.model_dump(mode="json")}
        for result, differs in zip(results, what_differs(results), strict=True)
    ]
    if as_json:
        print_answer(json.dumps(rows))
        for line in missing:
            typer.echo(line, err=True)
        return
    print_runs(rows)
    for result in results:
        if result.summary.outcome is Outcome.FAILED and result.folder is not None:
            print(f"{result.folder.name} failed: {failure(read_records(result.folder))}")
    for line in missing:
        print(line)
    columns = {"batch": "global_batch_size", "optimizer": "optimizer"}
    differing = [name for name, column in columns.items() if len({row[column] for row in rows}) > 1] + [*rows[0]["differs"]]
    if differing:
        print(f"They differ in {listed(differing)}.")
    for sentence in beside_each_other(results):
        print(sentence)
    if disturbance := disturbance_in_words(results):
        print(disturbance)
    if figure is not None:
        print(f"Figure: {figure.resolve()}")
