"""A folder of runs in MLflow: one parent run, and the runs in the folder as its children.

The parent is described by `parent.json` beside the runs: experiment, tags and parameters, when it began, and the name that MLflow
shows if it is not the folder's. Whatever lies in `report/` becomes its artifacts.
"""

import json
from pathlib import Path
from typing import Any

from largebatch.jobs.errors import InputError
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.run_folder import SPEC
from largebatch.jobs.tracking.mirror_state import MirrorState
from largebatch.jobs.tracking.mlflow_mirror import Mirror, mlflow_faults
from largebatch.jobs.tracking.mlflow_store import ARTIFACTS, BEGAN_TAG, DeletedError, connect, default_uri, ensure_run, experiment_id, holds_run, send
from largebatch.jobs.tracking.params import LONGEST_PARAM

PARENT = "parent.json"
REPORT = "report"
STORES = ("mlflow.db", "service.sqlite")
"""How the files of MLflow's and the service's databases begin."""
SWEEP_TAG = "largebatch.sweep"
"""The folder's name; with the moment it began, the parent's identity."""


class FolderMirror:
    """All runs of one folder, new ones as they come. Any method may raise whatever MLflow raises; calling again goes on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = MirrorState.read(folder)
        self._parent: dict[str, Any] = json.loads((folder / PARENT).read_text())
        self.uri: str = self._parent.get("mlflow_uri") or self.state.uri or default_uri(folder / "any")
        self._mirrors: dict[Path, Mirror] = {}
        self._client: Any = None

    def catch_up(self, looks_up: bool = False) -> None:
        """Send what the runs' journals have and MLflow has not.

        Args: looks_up: look also whether MLflow still has runs that it had everything of.
        Raises: DeletedError, once the other runs have what they lack.
        """
        self._ensure_parent()
        deleted: list[DeletedError] = []
        for path in sorted(self.folder.glob(f"*/{run_folder.ENVIRONMENT}")):
            run_dir = path.parent
            if run_dir not in self._mirrors:
                if not (run_dir / SPEC).is_file():
                    continue
                self._mirrors[run_dir] = Mirror(run_dir, uri=self.uri, parent_run_id=self.state.run_id)
            mirror = self._mirrors[run_dir]
            try:
                mirror.catch_up()
                if looks_up and not mirror.look_up():
                    mirror.catch_up()
            except DeletedError as error:
                deleted.append(error)
        if deleted:
            raise deleted[0]

    def finish(self, looks_up: bool = False) -> None:
        """Everything once more, and the parent's end: with a report it is finished, without one it will go on."""
        self.catch_up(looks_up)
        for mirror in self._mirrors.values():
            mirror.mark_killed()
        is_over = (self.folder / REPORT).is_dir()
        if is_over:
            self._client.log_artifacts(self.state.run_id, str(self.folder / REPORT), REPORT)
        self._client.set_terminated(self.state.run_id, "FINISHED" if is_over else "KILLED")

    def _ensure_parent(self) -> None:
        if self._client is None:
            self._client = connect(self.uri, self.folder)
            if self.state.run_id is not None and not holds_run(self._client, self.state.run_id, self.uri):
                self.state = MirrorState()
        if self.state.run_id is not None:
            return
        client, parent = self._client, self._parent
        number = experiment_id(client, parent["experiment"], self.uri, self.folder)
        began_at_s = parent.get("began_at_s") or (self.folder / PARENT).stat().st_mtime  # an earlier version wrote none
        tags = {SWEEP_TAG: self.folder.name, BEGAN_TAG: str(began_at_s), **parent.get("tags", {})}
        self.state.run_id = ensure_run(client, number, tags, SWEEP_TAG, parent.get("name") or self.folder.name, int(began_at_s * 1000))
        self.state.uri = self.uri
        send(client, self.state.run_id, params={name: str(value)[:LONGEST_PARAM] for name, value in parent.get("params", {}).items()})
        self.state.write(self.folder)


def is_kept_beside_runs(path: Path) -> bool:
    """Whether a file or folder among runs is MLflow's or the service's store, which `runs/*` names too."""
    return path.name == ARTIFACTS or path.name.startswith(STORES)


def mirrored_in(folder: Path) -> list[Path]:
    """What `folder` stands for: itself, if it is a run or a sweep; else the runs, sweeps and studies in it. Raises: InputError for none."""
    if (folder / SPEC).is_file() or (folder / PARENT).is_file():
        return [folder]
    below = sorted({path.parent for name in (run_folder.ENVIRONMENT, PARENT) for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{name}")})
    # A sweep brings its runs along, and a run is none without its spec.
    tops = [path for path in below if (path / PARENT).is_file() or ((path / SPEC).is_file() and not (path.parent / PARENT).is_file())]
    if not tops:
        problem = "holds no runs" if folder.is_dir() else "is not a folder"
        raise InputError("FOLDER", f"{folder} {problem}.", "Give run folders, or the folder of a sweep or a study.")
    return tops


def sync_folder(folder: Path) -> MirrorState:
    """Bring MLflow up to all runs of a folder, and its report. Raises: FaultError, DeletedError; see `sync_run`."""
    with run_folder.exclusive(folder, "mirror"):
        mirror = FolderMirror(folder)
        with mlflow_faults(mirror.uri):
            mirror.finish(looks_up=True)
        return mirror.state
