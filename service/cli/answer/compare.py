"""Puts runs side by side, in a table and a figure: `largebatch compare`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from largebatch.jobs.errors import SpecError
from largebatch.jobs.run.journal import failure, read_records
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.run.run_folder import storage_errors
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.options import RUN_FOLDERS, AsJson, refuse_unwritable_file
from largebatch.service.cli.tables import print_runs
from largebatch.service.cli.typer_parameters import spread
from largebatch.tuning.report.picture_pen import write_png
from largebatch.tuning.report.plotly_pen import write_page
from largebatch.tuning.report.run_figures import on_unlike_footing, score_curves
from largebatch.tuning.results.collect import collect
from largebatch.tuning.results.findings import NothingEndedError
from largebatch.tuning.results.run_folders import runs_of_folders
from largebatch.tuning.results.wording import disturbance_in_words

WRITERS = {".html": write_page, ".png": write_png}


app = typer.Typer()


@app.command(epilog="Example: largebatch compare runs/digits-small-* runs/digits-large-* --figure compare.html")
@spread
def compare(
    folders: Annotated[list[Path], RUN_FOLDERS],
    figure: Annotated[Path | None, typer.Option(help="Write scores against training seconds here, .html or .png.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put runs side by side: a table, and a figure of scores against training seconds.

    A sweep stands for its runs, a study for those of its sweep.
    """
    if figure is not None:
        if figure.suffix not in WRITERS:
            raise SpecError("--figure", f"{figure.name} ends in neither .html nor .png.", "Choose one of the two.")
        refuse_unwritable_file("--figure", figure)
    folder_runs = runs_of_folders(folders)
    results = collect(folder_runs.run_dirs)
    if not results:
        raise NothingEndedError.beside(folder_runs.missing)
    if figure is not None:
        with storage_errors(figure):
            figure.parent.mkdir(parents=True, exist_ok=True)
            WRITERS[figure.suffix](score_curves(results), figure)
    rows = [{"recipe": result.name, "optimizer": result.optimizer, **result.summary.model_dump(mode="json")} for result in results]
    if as_json:
        print_answer(json.dumps(rows))
        for line in folder_runs.missing:
            typer.echo(line, err=True)
        return
    print_runs(rows)
    for run_dir, row in zip(folder_runs.run_dirs, rows, strict=True):
        if row["outcome"] == Outcome.FAILED:
            print(f"{run_dir.name} failed: {failure(read_records(run_dir))}")
    for line in folder_runs.missing:
        print(line)
    if unlike := on_unlike_footing(results):
        print(f"These runs are {unlike}.")
    if disturbance := disturbance_in_words(results):
        print(disturbance)
    if figure is not None:
        print(f"Figure: {figure.resolve()}")
