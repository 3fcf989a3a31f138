"""largebatch compare, sync: what to do with runs that are there."""

from pathlib import Path
from typing import Annotated

import typer

from largebatch.jobs.streams import print_answer
from largebatch.service.cli.options import RUN_FOLDERS, AsJson
from largebatch.service.cli.tables import print_runs

app = typer.Typer()


@app.command(epilog="Example: largebatch compare runs/digits-small-* runs/digits-large-* --figure compare.html")
def compare(
    places: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help=RUN_FOLDERS, show_default=False)],
    figure: Annotated[Path | None, typer.Option(help="Write accuracy against training seconds here, .html or .png.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Put runs side by side: a table, and a figure of accuracy against training seconds.

    A sweep stands for its runs, a study for those of its sweep.
    """
    import json

    from largebatch.jobs.errors import SpecError
    from largebatch.jobs.run.journal import failure, read_records
    from largebatch.jobs.run.records import Outcome
    from largebatch.jobs.run.run_folder import storage_errors
    from largebatch.service.cli.checks import refuse_unwritable_file
    from largebatch.tuning.report.pages import write_page
    from largebatch.tuning.report.picture_pen import write_png
    from largebatch.tuning.report.run_figures import accuracy_curves, on_unlike_footing
    from largebatch.tuning.results.collect import collect
    from largebatch.tuning.results.findings import NothingEndedError
    from largebatch.tuning.results.run_folders import runs_of_folders
    from largebatch.tuning.results.same_data import told_apart
    from largebatch.tuning.results.wording import disturbance_in_words

    if figure is not None:
        if figure.suffix not in {".html", ".png"}:
            raise SpecError("--figure", f"{figure.name} ends in neither .html nor .png.", "Choose one of the two.")
        refuse_unwritable_file("--figure", figure)
    found = runs_of_folders(places)
    results = told_apart(collect(found.run_dirs))
    if not results:
        raise NothingEndedError.beside(found.missing)
    if figure is not None:
        with storage_errors(figure):
            figure.parent.mkdir(parents=True, exist_ok=True)
            (write_page if figure.suffix == ".html" else write_png)(accuracy_curves(results), figure)
    rows = [{"recipe": result.name, "optimizer": result.optimizer, **result.summary.model_dump(mode="json")} for result in results]
    if as_json:
        print_answer(json.dumps(rows))
        for line in found.missing:
            typer.echo(line, err=True)
        return
    print_runs(rows)
    for run_dir, row in zip(found.run_dirs, rows, strict=True):
        if row["outcome"] == Outcome.FAILED:
            print(f"{run_dir.name} failed: {failure(read_records(run_dir))}")
    for line in found.missing:
        print(line)
    if unlike := on_unlike_footing(results):
        print(f"These runs are {unlike}.")
    if disturbance := disturbance_in_words(results):
        print(disturbance)
    if figure is not None:
        print(f"Figure: {figure.resolve()}")


@app.command(epilog="Example: largebatch sync runs/digits-lamb-20260101-120000-ab12")
def sync(
    run_dirs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of them, such as a sweep's or a study's.", show_default=False)],
) -> None:
    """Bring MLflow up to what the runs' journals hold, for instance after its server was down."""
    from largebatch.jobs.tracking.folder_mirror import PARENT, is_kept_beside_runs, mirrored_in, sync_folder
    from largebatch.jobs.tracking.mlflow_mirror import sync_run
    from largebatch.jobs.tracking.mlflow_store import DeletedError

    given = run_dirs if len(run_dirs) == 1 else [place for place in run_dirs if not (place.exists() and is_kept_beside_runs(place))]
    deleted: list[DeletedError] = []
    for run_dir in [run_dir for place in given for run_dir in mirrored_in(place)]:
        is_folder = (run_dir / PARENT).is_file()
        try:
            state = sync_folder(run_dir) if is_folder else sync_run(run_dir)
        except DeletedError as error:  # the others' turn first
            deleted.append(error)
            continue
        print(f"{run_dir.name}: MLflow run {state.run_id} at {state.uri} has {'all its runs' if is_folder else 'everything'}.")
    if deleted:
        raise deleted[0]
