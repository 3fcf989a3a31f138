"""A folder of runs in MLflow: one parent run, and the runs in the folder as its children.

    study -> batch (under each optimizer) -> runs, called by what differs: rate, momentum, seed

The parent is described by `parent.json` beside the runs: experiment, tags and parameters, when it began, the name that MLflow shows if it is
not the folder's, and what tells its runs apart. A folder with such a file in a folder with such a file (a study's sweep) is no parent of its
own: its runs are the outer one's. Whatever lies in `report/` becomes the parent's artifacts, `answer.json` its description and its charts.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from largebatch.jobs.errors import InputError
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.run_folder import SPEC
from largebatch.jobs.tracking.mirror_state import MirrorState
from largebatch.jobs.tracking.mlflow_mirror import Mirror, mlflow_faults
from largebatch.jobs.tracking.mlflow_store import ARTIFACTS, BEGAN_TAG, DeletedError, connect, default_uri, ensure_run, experiment_id, holds_run, send
from largebatch.jobs.tracking.params import LONGEST_PARAM, NOTE_TAG, PARENT_TAG, flat
from largebatch.jobs.tracking.parent_answer import ParentAnswer

PARENT = "parent.json"
REPORT = "report"
STORES = ("mlflow.db", "service.sqlite")
"""How the files of MLflow's and the service's databases begin."""
SWEEP_TAG = "largebatch.sweep"
"""The folder's name; with the moment it began, the parent's identity. What has it is a parent, and no run."""


class FolderMirror:
    """All runs of one folder, new ones as they come. Any method may raise whatever MLflow raises; calling again goes on.

    Args: within: the folder's own folder, where that is a parent.
    """

    def __init__(self, folder: Path, within: Self | None = None) -> None:
        self.folder, self._within = folder, within
        self.state = MirrorState.read(folder)
        self._parent: dict[str, Any] = json.loads((folder / PARENT).read_text())
        self.uri: str = within.uri if within else self._parent.get("mlflow_uri") or self.state.uri or default_uri(folder)
        self._began_at_s = float(self._parent.get("began_at_s") or (folder / PARENT).stat().st_mtime)  # an earlier version wrote none
        self._mirrors: dict[Path, Mirror] = {}
        self._inner: dict[Path, FolderMirror] = {}
        self._client: Any = None

    @property
    def is_over(self) -> bool:
        """Whether there is a report."""
        return (self.folder / REPORT).is_dir() or any(inner.is_over for inner in self._inner.values())

    def catch_up(self, looks_up: bool = False) -> None:
        """Send what the runs' journals have and MLflow has not.

        Args: looks_up: look also whether MLflow still has runs that it had everything of.
        Raises: DeletedError, once the other runs have what they lack.
        """
        self._ensure_parent()
        deleted: list[DeletedError] = []
        for part in self._parts():
            try:
                part.catch_up(looks_up) if isinstance(part, FolderMirror) else _catch_up(part, looks_up)
            except DeletedError as error:
                deleted.append(error)
        if deleted:
            raise deleted[0]

    def finish(self, looks_up: bool = False) -> None:
        """Everything once more, and the parent's end: with a report it is finished, without one it will go on."""
        self.catch_up(looks_up)
        self._end()

    def _end(self) -> None:
        for mirror in self._mirrors.values():
            mirror.mark_killed()
        for inner in self._inner.values():
            inner._end()
        client, run_id = self._client, self.state.run_id
        if (self.folder / REPORT).is_dir():
            client.log_artifacts(run_id, str(self.folder / REPORT), REPORT)
        answer = ParentAnswer.read(self.folder)
        if answer is not None:
            send(client, run_id, answer.points, base_ms=int(self._began_at_s * 1000), tags={NOTE_TAG: answer.note})
        status = "FINISHED" if self.is_over else "KILLED"
        for nested in [*self.state.levels.values(), *([] if self._within else [run_id])]:
            client.set_terminated(nested, status)

    def _parts(self) -> Iterator["Mirror | FolderMirror"]:
        """The mirrors of the runs and of the folders of runs in this one."""
        for path in sorted(self.folder.glob(f"*/{run_folder.ENVIRONMENT}")):
            run_dir = path.parent
            if run_dir not in self._mirrors and (run_dir / SPEC).is_file():
                fields = flat(json.loads((run_dir / SPEC).read_text()))
                name = _called(self._parent.get("differ_in", []), fields)
                number = run_dir.name.partition("-")[0]
                self._mirrors[run_dir] = Mirror(run_dir, self.uri, self._level(fields), f"{number} {name}" if name else None)
            if run_dir in self._mirrors:
                yield self._mirrors[run_dir]
        for path in sorted(self.folder.glob(f"*/{PARENT}")):
            if path.parent not in self._inner:
                self._inner[path.parent] = FolderMirror(path.parent, within=self)
            yield self._inner[path.parent]

    def _level(self, fields: dict[str, Any]) -> str | None:
        """MLflow's id of the run under which one with such fields stands: the parent, or one for each batch. It is made if it is not there."""
        name = _called(self._parent.get("levels", []), fields)
        if name and name not in self.state.levels:
            self.state.levels[name] = self._ensure(name, f"{self.folder.name}/{name}", {PARENT_TAG: str(self.state.run_id)})
            self.state.write(self.folder)
        return self.state.levels[name] if name else self.state.run_id

    def _ensure_parent(self) -> None:
        if self._client is None:
            self._client = connect(self.uri, self.folder)
            is_others = self._within is not None and self.state.run_id != self._within.state.run_id
            if self.state.run_id is not None and (is_others or not holds_run(self._client, self.state.run_id, self.uri)):
                self.state = MirrorState()
        if self.state.run_id is not None:
            return
        if self._within is not None:
            self.state.run_id = self._within.state.run_id
        else:
            self.state.run_id = self._ensure(self._parent.get("name") or self.folder.name, self.folder.name, {})
        self.state.uri = self.uri
        params = {name: str(value)[:LONGEST_PARAM] for name, value in self._parent.get("params", {}).items()}
        send(self._client, self.state.run_id, params=params, tags=self._parent.get("tags", {}))
        self.state.write(self.folder)

    def _ensure(self, name: str, identity: str, tags: dict[str, str]) -> str:
        """MLflow's id of a parent, which is made if it is not there."""
        number = experiment_id(self._client, self._parent["experiment"], self.uri, self.folder)
        tags = {SWEEP_TAG: identity, BEGAN_TAG: str(self._began_at_s), **self._parent.get("tags", {}), **tags}
        return ensure_run(self._client, number, tags, SWEEP_TAG, name, int(self._began_at_s * 1000)).run_id


def _catch_up(mirror: Mirror, looks_up: bool) -> None:
    mirror.catch_up()
    if looks_up and not mirror.look_up():
        mirror.catch_up()


def _called(words: list[tuple[str, str]], fields: dict[str, Any]) -> str:
    """What tells a run apart, such as "batch 64, seed 1". Args: words: (what it is called, the field), no word where the value says it."""
    values = [(word, fields.get(field)) for word, field in words]
    return ", ".join(f"{word} {value:.4g}" if isinstance(value, float) else f"{word} {value}".strip() for word, value in values if value is not None)


def is_kept_beside_runs(path: Path) -> bool:
    """Whether a file or folder among runs is MLflow's or the service's store, which `runs/*` names too."""
    return path.name == ARTIFACTS or path.name.startswith(STORES)


def mirrored_among(paths: Sequence[Path]) -> list[Path]:
    """What these stand for, each as in `mirrored_in`; of several, what `runs/*` names besides is left out. Raises: InputError."""
    folders = paths if len(paths) == 1 else [path for path in paths if not (path.exists() and is_kept_beside_runs(path))]
    return [top for folder in folders for top in mirrored_in(folder)]


def mirrored_in(folder: Path) -> list[Path]:
    """What `folder` stands for: the run, sweep or study that it is or belongs to; else those in it. Raises: InputError for none."""
    if (folder / SPEC).is_file() or (folder / PARENT).is_file():
        top = folder.resolve()
        while (top.parent / PARENT).is_file():
            top = top.parent
        return [folder if top == folder.resolve() else top]
    below = sorted({path.parent for name in (run_folder.ENVIRONMENT, PARENT) for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{name}")})
    # A sweep brings its runs along, a study its sweep, and a run is none without its spec.
    tops = [path for path in below if ((path / PARENT).is_file() or (path / SPEC).is_file()) and not (path.parent / PARENT).is_file()]
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
