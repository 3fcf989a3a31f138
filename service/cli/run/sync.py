"""Brings MLflow up to what run folders hold: `largebatch sync`."""

from pathlib import Path

from largebatch.jobs.tracking import folder_mirror, mlflow_mirror
from largebatch.jobs.tracking.folder_mirror import PARENT, is_kept_beside_runs, mirrored_in
from largebatch.jobs.tracking.mlflow_store import DeletedError


def sync(run_dirs: list[Path]) -> None:
    """Sync every run in these folders, and say of each what MLflow has. Raises: DeletedError, after the others' turn."""
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
        raise deleted[0]
