"""Run folders on storage by URI: this machine's copies of them, kept up while their jobs run.

The watcher, progress, records, artifacts: whoever reads a run's folder reads the copy, and knows of no storage.
A journal only grows, so its new bytes alone are fetched; checkpoints are not fetched at all, only when they were made.
"""

import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from largebatch.jobs.errors import FaultError, StorageError
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.storage import Storage
from largebatch.service.queue.background import Background
from largebatch.service.queue.run_folders import FRESH_S, RunFolders

AT_ONCE = 8
KEPT_S = 3600.0
"""How long the copy of a run that nobody asks for is kept."""


class RunCopies(RunFolders):
    """Copies below `folder` of the runs in a storage.

    Args: active: ids of the jobs whose copies are kept up; whatever else is asked for is fetched then.
    """

    are_copies = True

    def __init__(self, storage: Storage, folder: Path, active: Callable[[], Iterable[str]], look_every_s: float = FRESH_S) -> None:
        super().__init__(folder)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        self._storage, self._active, self._look_every_s = storage, active, look_every_s
        self._fetched_states: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._fetched_at_s: dict[str, float] = {}
        self._used_at_s: dict[str, float] = {}
        self._background = Background("copies", self._run)

    def start(self) -> None:
        """See `RunFolders`."""
        self._background.start()

    def stop(self) -> None:
        """See `RunFolders`."""
        self._background.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def refresh(self, job_id: str, max_age_s: float = FRESH_S) -> None:
        """See `RunFolders`."""
        self._used_at_s[job_id] = time.monotonic()
        with self._locks[job_id]:
            if time.monotonic() - self._fetched_at_s.get(job_id, -max_age_s) < max_age_s:
                return
            began_s = time.monotonic()
            try:
                self._fetch(job_id)
            except OSError as error:
                raise StorageError("storage", f"does not answer ({type(error).__name__}).", "Try again in a moment.") from error
            self._fetched_at_s[job_id] = began_s

    def forget_summary(self, job_id: str) -> None:
        """See `RunFolders`; in the storage too."""
        self._remove(job_id, [run_folder.SUMMARY])

    def remove(self, job_id: str) -> None:
        """See `RunFolders`; in the storage too."""
        try:
            self._remove(job_id, None)
        finally:
            super().remove(job_id)

    def _remove(self, job_id: str, names: list[str] | None) -> None:
        with self._locks[job_id]:
            try:
                for name in self._storage.sizes(job_id) if names is None else names:
                    self._storage.remove(f"{job_id}/{name}")
                    (self.root / job_id / name).unlink(missing_ok=True)
                    self._fetched_states[job_id].pop(name, None)
            except OSError as error:
                raise StorageError("storage", f"does not answer ({type(error).__name__}).", "Try again in a moment.") from error

    def _fetch(self, job_id: str) -> None:
        target, fetched = self.root / job_id, self._fetched_states[job_id]
        states = self._storage.states(job_id)
        for name, state in states.items():
            if fetched.get(name) == state or Path(name).is_absolute() or ".." in Path(name).parts:
                continue
            if name.startswith(f"{run_folder.CHECKPOINTS}/"):
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                os.utime(path, ns=(state[1], state[1]))
            elif name == run_folder.JOURNAL:
                self._extend(job_id, state[0])
            else:
                self._storage.download(f"{job_id}/{name}", target / name)
            fetched[name] = state
        for name in fetched.keys() - states.keys():
            (target / name).unlink(missing_ok=True)
            del fetched[name]

    def _extend(self, job_id: str, size: int) -> None:
        """Append to the journal's copy the lines that it lacks; a shorter journal is another one, and is fetched anew."""
        path = self.root / job_id / run_folder.JOURNAL
        path.parent.mkdir(parents=True, exist_ok=True)
        have = path.stat().st_size if path.exists() else 0
        if size < have:
            path.unlink()
            have = 0
        rest = b""  # half a line may be written anew by whoever goes on with the run
        with path.open("ab") as file:
            for piece in self._storage.pieces(f"{job_id}/{run_folder.JOURNAL}", have, size):
                whole, end, rest = (rest + piece).rpartition(b"\n")
                file.write(whole + end)

    def _run(self) -> None:
        with ThreadPoolExecutor(AT_ONCE, "copies") as pool:
            while not self._background.over.wait(self._look_every_s):
                try:
                    for _ in pool.map(lambda job_id: self.refresh(job_id, self._look_every_s / 2), list(self._active())):
                        pass
                    self._prune()
                    self.problem = None
                except FaultError as error:
                    self.problem = error.problem
                except Exception as error:
                    self.problem = type(error).__name__
                    structlog.get_logger("copies").exception("a look broke off")

    def _prune(self) -> None:
        now = time.monotonic()
        for job_id in [job_id for job_id, at_s in list(self._used_at_s.items()) if now - at_s > KEPT_S]:
            with self._locks[job_id]:
                shutil.rmtree(self.root / job_id, ignore_errors=True)
                for notes in (self._fetched_states, self._fetched_at_s, self._used_at_s):
                    notes.pop(job_id, None)
