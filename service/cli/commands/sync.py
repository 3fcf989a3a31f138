"""Brings MLflow up to what run folders hold: `largebatch sync`."""

from pathlib import Path
from typing import Annotated

import typer

from largebatch.jobs.tracking import folder_mirror, mlflow_mirror
from largebatch.jobs.tracking.folder_mirror import PARENT, is_kept_beside_runs, mirrored_in
from largebatch.jobs.tracking.mlflow_store import DeletedError

app = typer.Typer()


@app.command(epilog="Example: largebatch sync runs/digits-lamb-20260101-120000-ab12")
def sync(
    run_dirs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of them, such as a sweep's or a study's.")],
) -> None:
    """Bring MLflow up to what the runs' journals hold, for instance after its server was down."""
    folders = run_dirs if len(run_dirs) == 1 else [folder for folder in run_dirs if not (folder.exists() and is_kept_beside_runs(folder))]
    deleted: list[DeletedError] = []
    for run_dir in [run_dir for folder in folders for run_dir in mirrored_in(folder)]:
        is_folder = (run_dir / PARENT).is_file()
        try:
            state = folder_mirror.sync_folder(run_dir) if is_folder else mlflow_mirror.sync_run(run_dir)
        except DeletedError as error:
            deleted.append(error)
            continue
        print(f"{run_dir.name}: MLflow run {state.run_id} at {state.uri} has {'all its runs' if is_folder else 'everything'}.")
    if deleted:
        raise deleted[0]  # after the others' turn
