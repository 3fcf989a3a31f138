"""Brings MLflow up to what run folders hold: `largebatch sync`."""

from pathlib import Path
from typing import Annotated

import typer

from largebatch.jobs.tracking.folder_mirror import PARENT, mirrored_among, sync_folder
from largebatch.jobs.tracking.mlflow_mirror import sync_run
from largebatch.jobs.tracking.mlflow_store import DeletedError

app = typer.Typer()


@app.command(epilog="Example: largebatch sync runs/digits-lamb-20260101-120000-ab12")
def sync(
    run_dirs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of them, such as a sweep's or a study's.")],
) -> None:
    """Bring MLflow up to what the runs' journals hold, for instance after its server was down."""
    deleted: list[DeletedError] = []
    for run_dir in mirrored_among(run_dirs):
        is_folder = (run_dir / PARENT).is_file()
        try:
            state = sync_folder(run_dir) if is_folder else sync_run(run_dir)
        except DeletedError as error:
            deleted.append(error)
            continue
        print(f"{run_dir.name}: MLflow run {state.run_id} at {state.uri} has {'all its runs' if is_folder else 'everything'}.")
    if deleted:
        raise deleted[0]  # after the others' turn
