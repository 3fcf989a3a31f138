"""The copy of a run's folder on shared storage.

A run always works in a folder of its machine's disk; a thread of its own carries that folder to the storage and
keeps it there. The journal goes before the checkpoints, so a run that goes on from a stored checkpoint finds every
record up to it. Storage that refuses for a while costs no training step: what is left is carried when it answers.
"""

import contextlib
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from largebatch.jobs.errors import StorageError
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.checkpoints import NAME
from largebatch.jobs.run.storage import PATIENCE_S, Storage

PUSH_EVERY_S = 5.0


class StoredRun:
    """Keeps a stored copy of one run's folder; a context manager.

    Args:
        notify: told in words when the storage refuses, and when it answers again.
        patience_s: how long the end of a run waits for a storage that refuses.
    """

    def __init__(
        self,
        storage: Storage,
        run_dir: Path,
        notify: Callable[[str], None] = lambda text: None,
        push_every_s: float = PUSH_EVERY_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.uri = f"{storage.uri}/{run_dir.name}"
        self._storage, self._run_dir, self._notify = storage, run_dir, notify
        self._push_every_s, self._patience_s = push_every_s, patience_s
        self._sent: dict[str, tuple[int, int]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._refuses = False

    def pull(self) -> None:
        """Fetch what an earlier machine stored and this one lacks. Raises: OSError."""
        if self._was_overtaken():
            (self._run_dir / run_folder.JOURNAL).unlink()
            (self._run_dir / run_folder.MLFLOW).unlink(missing_ok=True)  # it counts this journal's bytes
            shutil.rmtree(self._run_dir / run_folder.CHECKPOINTS, ignore_errors=True)
        for name, size in self._storage.sizes(self._run_dir.name).items():
            target = self._run_dir / name
            if not target.is_file() or target.stat().st_size < size:
                self._storage.download(f"{self._run_dir.name}/{name}", target)

    def _was_overtaken(self) -> bool:
        """Whether another machine went on with this run since it was here: neither journal is then the other's beginning."""
        path = self._run_dir / run_folder.JOURNAL
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            stored = self._storage.pieces(f"{self._run_dir.name}/{run_folder.JOURNAL}", 0, path.stat().st_size)
            return any(file.read(len(piece)) != piece for piece in stored)
        return False

    def push(self) -> None:
        """Bring the stored copy up to the folder: everything else first, checkpoints last. Raises: OSError."""
        # Listed before the journal is read: a checkpoint that is stored has its records stored.
        checkpoints = [path for path in (self._run_dir / run_folder.CHECKPOINTS).glob("*.pt") if NAME.match(path.name)]
        others = [path for path in self._run_dir.iterdir() if path.is_file() and not path.name.startswith(".")]
        for path in [*others, *checkpoints]:
            name = str(path.relative_to(self._run_dir))
            with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
                stat = path.stat()
                if self._sent.get(name) != (stat.st_size, stat.st_mtime_ns):
                    self._storage.upload(path, f"{self._run_dir.name}/{name}")
                    self._sent[name] = (stat.st_size, stat.st_mtime_ns)
        kept = {path.name for path in checkpoints}
        for name in self._storage.sizes(self._run_dir.name) if kept else ():  # without one, nothing here says yet what may go there
            folder, _, file_name = name.rpartition("/")
            if folder == run_folder.CHECKPOINTS and file_name not in kept:
                self._storage.remove(f"{self._run_dir.name}/{name}")

    def _try(self) -> bool:
        """Push, and say once that the storage refuses; returns whether it took everything."""
        try:
            self.push()
        except OSError as error:
            if not self._refuses:
                self._notify(f"{self.uri} cannot be written ({' '.join(str(error).split())[:200]}). Training goes on; it is tried again.")
            self._refuses = True
            return False
        if self._refuses:
            self._notify(f"{self.uri} answers again and has everything so far.")
        self._refuses = False
        return True

    def _run(self) -> None:
        while not self._over.wait(self._push_every_s):
            self._try()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._over.set()
        self._thread.join()
        patience_s = self._patience_s if kind is None else 0.0
        try:
            Retrying(retry=retry_if_result(lambda is_stored: not is_stored), stop=stop_after_delay(patience_s), wait=wait_fixed(1.0))(self._try)
        except RetryError:
            if kind is None:
                hint = f"The whole run is in {self._run_dir}: copy it there when the storage answers."
                raise StorageError(self.uri, "cannot be written.", hint) from None
