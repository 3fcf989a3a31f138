"""The folders of the service's runs: on this machine's disk, or copies there of runs that lie on storage by URI.

The watcher, progress, records, artifacts: whoever reads a run's folder reads it here, and knows of no storage.
"""

import errno
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from largebatch.jobs.errors import StorageError
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.storage import Storage
from largebatch.service.queue.background import Background

FRESH_S = 2.0
AT_ONCE = 8
KEPT_S = 3600.0
"""How long the copy of a run that nobody asks for is kept."""


class RunFolders:
    """The run folders below one folder of this machine."""

    are_copies = False

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def problem(self) -> str | None:
        """Why the copies could not be kept up at the last try."""
        return None

    def start(self) -> None:
        """Begin to keep copies up."""

    def stop(self) -> None:
        """End, and remove the copies."""

    def refresh(self, job_id: str, max_age_s: float = FRESH_S) -> None:
        """Have a copy of a job's folder that is no older than this. Raises: StorageError."""

    def forget_summary(self, job_id: str) -> None:
        """Before a run that has failed goes on. Raises: StorageError."""
        (self.root / job_id / run_folder.SUMMARY).unlink(missing_ok=True)

    def take(self, folder: Path, job_id: str) -> bool:
        """Keep a folder of this machine's disk as a job's, whole or not at all; one that is there stays.

        Returns: whether there was none. Raises: OSError, StorageError.
        """
        try:
            folder.rename(self.root / job_id)
        except OSError as error:
            if error.errno in {errno.EEXIST, errno.ENOTEMPTY}:
                return False
            raise
        return True

    def remove(self, job_id: str) -> None:
        """Remove a job's folder. Raises: StorageError."""
        shutil.rmtree(self.root / job_id, ignore_errors=True)


@dataclass
class Copy:
    """What is known of one run's copy. Times are of the monotonic clock."""

    states: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of each file that was fetched, by its path in the folder: its bytes and when it was written (Unix ns), as the storage had them then."""
    fetched_at_s: float = -math.inf
    used_at_s: float = math.inf
    lock: threading.Lock = field(default_factory=threading.Lock)


class RunCopies(RunFolders):
    """Copies below `folder` of the runs in a storage, kept up while their jobs run.

    A journal only grows, so its new bytes alone are fetched; checkpoints are not fetched at all, only when they were made.

    Args: active: ids of the jobs whose copies are kept up; whatever else is asked for is fetched then.
    """

    are_copies = True

    def __init__(self, storage: Storage, folder: Path, active: Callable[[], Iterable[str]], look_every_s: float = FRESH_S) -> None:
        super().__init__(folder)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        self._storage, self._active, self._look_every_s = storage, active, look_every_s
        self._copies: dict[str, Copy] = {}
        self._background = Background("copies", self._keep_up, look_every_s)

    @property
    def problem(self) -> str | None:
        """See `RunFolders`."""
        return self._background.problem

    def start(self) -> None:
        """See `RunFolders`."""
        self._background.start()

    def stop(self) -> None:
        """See `RunFolders`."""
        self._background.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def refresh(self, job_id: str, max_age_s: float = FRESH_S) -> None:
        """See `RunFolders`."""
        self._copies.setdefault(job_id, Copy()).used_at_s = time.monotonic()
        with self._locked(job_id) as copy:
            began_s = time.monotonic()
            if began_s - copy.fetched_at_s >= max_age_s:
                self._fetch(job_id, copy.states)
                copy.fetched_at_s = began_s

    def forget_summary(self, job_id: str) -> None:
        """See `RunFolders`; in the storage too."""
        self._remove(job_id, [run_folder.SUMMARY])

    def take(self, folder: Path, job_id: str) -> bool:
        """See `RunFolders`; into the storage, where nobody looks before there is a job."""
        with self._locked(job_id):
            for path in sorted(folder.iterdir()):
                self._storage.upload(path, f"{job_id}/{path.name}")
        return True

    def remove(self, job_id: str) -> None:
        """See `RunFolders`; in the storage too."""
        try:
            self._remove(job_id, None)
        finally:
            super().remove(job_id)

    def _remove(self, job_id: str, names: list[str] | None) -> None:
        with self._locked(job_id) as copy:
            for name in self._storage.sizes(job_id) if names is None else names:
                self._storage.remove(f"{job_id}/{name}")
                (self.root / job_id / name).unlink(missing_ok=True)
                copy.states.pop(name, None)

    @contextmanager
    def _locked(self, job_id: str) -> Iterator[Copy]:
        """A run's copy, for one thread at a time. Raises: StorageError where the storage does not answer."""
        copy = self._copies.setdefault(job_id, Copy())
        with copy.lock:
            try:
                yield copy
            except OSError as error:
                raise StorageError("storage", f"does not answer ({type(error).__name__}).", "Try again in a moment.") from error

    def _fetch(self, job_id: str, fetched: dict[str, tuple[int, int]]) -> None:
        target, states = self.root / job_id, self._storage.states(job_id)
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

    def _keep_up(self) -> None:
        with ThreadPoolExecutor(AT_ONCE, "copies") as pool:
            list(pool.map(lambda job_id: self.refresh(job_id, self._look_every_s / 2), self._active()))
        for job_id, copy in list(self._copies.items()):
            if time.monotonic() - copy.used_at_s > KEPT_S:
                with copy.lock:
                    shutil.rmtree(self.root / job_id, ignore_errors=True)
                    copy.states.clear()
                    copy.fetched_at_s, copy.used_at_s = -math.inf, math.inf
