"""Run folders on shared storage by URI: `s3://bucket/runs`, or whatever else pyarrow's file systems speak.

A run always works in a folder of its machine's disk; a thread of its own carries that folder to the storage and
keeps it there. The journal goes before the checkpoints, so a run that goes on from a stored checkpoint finds every
record up to it. Storage that refuses for a while costs no training step: what is left is carried when it answers.
"""

import contextlib
import hashlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

from largebatch.jobs.errors import InputError, StorageError
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.checkpoints import NAME

T = TypeVar("T")

PUSH_EVERY_S = 5.0
PATIENCE_S = 120.0
"""How long a run that has begun waits for its storage, when it goes on and at its end."""


def patiently(attempt: Callable[[], T], patience_s: float) -> T:
    """What `attempt` gives, which is tried again while the storage refuses.

    Args: patience_s: how long; 0: one attempt.
    Raises: as the attempt: OSError, or InputError for an address that is none; with patience a StorageError for that too, since it has been one.
    """
    ends_at = time.monotonic() + patience_s
    while True:
        try:
            return attempt()
        except OSError:
            if time.monotonic() >= ends_at:
                raise
        except InputError as error:
            if not patience_s:
                raise
            if time.monotonic() >= ends_at:
                raise StorageError(error.field, error.problem, error.hint) from error
        time.sleep(min(1.0, patience_s))


def split_place(text: str) -> tuple[Path, str | None]:
    """(folder on this machine, URI of the storage behind it or None) for what a person gave.

    Raises: InputError for a URI that is none.
    """
    if "://" not in text:
        return Path(text), None
    parts = urlsplit(text)
    if parts.scheme == "file":
        return Path(unquote(parts.path)), None
    if not parts.netloc:
        raise InputError("--output-dir", f"{text!r} names no bucket.", "Example: s3://bucket/runs.")
    scratch = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"largebatch-{scratch}", text


class Storage:
    """A folder by path or URI, as far as runs need one. Raises: InputError for a URI that nothing here speaks."""

    def __init__(self, place: str) -> None:
        from pyarrow import fs

        self.place = place.rstrip("/")
        try:
            self._fs, self._base = fs.FileSystem.from_uri(place if "://" in place else str(Path(place).resolve()))
        except (OSError, ValueError) as error:
            raise InputError("--output-dir", f"{place} cannot be used as storage: {error}.", "Example: s3://bucket/runs.") from error
        self._is_local = isinstance(self._fs, fs.LocalFileSystem)

    def _path(self, name: str) -> str:
        return f"{self._base.rstrip('/')}/{name}"

    def write(self, name: str, content: bytes) -> None:
        """Store a small file whole. Raises: OSError."""
        if self._is_local:
            self._fs.create_dir(self._path(name).rpartition("/")[0], recursive=True)
        with self._fs.open_output_stream(self._path(name)) as stream:
            stream.write(content)

    def read(self, name: str) -> bytes | None:
        """A file's content; None if there is no such file. Raises: OSError."""
        try:
            with self._fs.open_input_stream(self._path(name)) as stream:
                content: bytes = stream.read()
                return content
        except FileNotFoundError:
            return None

    def upload(self, source: Path, name: str) -> None:
        """Store a file in pieces, never whole in memory. Raises: OSError."""
        with source.open("rb") as file, self._fs.open_output_stream(self._path(name)) as stream:
            while piece := file.read(8 * 2**20):
                stream.write(piece)

    def download(self, name: str, target: Path) -> None:
        """Fetch a file, whole or not at all. Raises: OSError, StorageError."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._fs.open_input_stream(self._path(name)) as stream, run_folder.write_whole(target) as file:
            while piece := stream.read(8 * 2**20):
                file.write(piece)

    def pieces(self, name: str, start: int, end: int) -> Iterator[bytes]:
        """A file's bytes from one to another, in pieces. Raises: OSError."""
        with self._fs.open_input_file(self._path(name)) as file:
            file.seek(start)
            while start < end and (piece := file.read(min(8 * 2**20, end - start))):
                yield piece
                start += len(piece)

    def states(self, folder: str) -> dict[str, tuple[int, int]]:
        """Every file below a folder, by its path from there: its bytes, and when it was written (Unix ns). Raises: OSError."""
        from pyarrow import fs

        base = self._path(folder).strip("/") if not self._is_local else self._path(folder)
        found = self._fs.get_file_info(fs.FileSelector(self._path(folder), allow_not_found=True, recursive=True))
        return {info.path.removeprefix(base).lstrip("/"): (info.size, info.mtime_ns or 0) for info in found if info.is_file}

    def sizes(self, folder: str) -> dict[str, int]:
        """Every file below a folder, by its path from there, with its bytes. Raises: OSError."""
        return {name: size for name, (size, _) in self.states(folder).items()}

    def remove(self, name: str) -> None:
        """Make a file not be there. Raises: OSError."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(self._path(name))


def probe(store: Storage, token: str, who: int, group_wait: Callable[[], None]) -> str | None:
    """Whether this process can write there, and sees what the one numbered 0 wrote; returns what is wrong, in words."""
    problem = None
    own = f".largebatch-probe-{token}-{who}"
    try:
        store.write(own, token.encode())
    except OSError as refusal:
        problem = f"cannot be written ({' '.join(str(refusal).split())[:200]})"
    group_wait()
    try:
        if problem is None and store.read(f".largebatch-probe-{token}-0") != token.encode():
            problem = "does not hold what worker 0 wrote there"
    except OSError as refusal:
        problem = f"cannot be read ({' '.join(str(refusal).split())[:200]})"
    group_wait()
    with contextlib.suppress(OSError):
        store.remove(own)
    return problem


class StoredRun:
    """Keeps a stored copy of one run's folder; a context manager.

    Args: notify: told in words when the storage refuses, and when it answers again.
    """

    def __init__(self, store: str, run_dir: Path, notify: Callable[[str], None]) -> None:
        self.uri = f"{store.rstrip('/')}/{run_dir.name}"
        self._storage, self._run_dir, self._notify = Storage(store), run_dir, notify
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
        if not kept:
            return  # nothing here yet says what may go there
        for name in [name for name in self._storage.sizes(self._run_dir.name) if name.startswith(f"{run_folder.CHECKPOINTS}/")]:
            if name.rpartition("/")[2] not in kept:
                self._storage.remove(f"{self._run_dir.name}/{name}")

    def _try(self) -> bool:
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
        while not self._over.wait(PUSH_EVERY_S):
            self._try()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._over.set()
        self._thread.join()
        ends_at = time.monotonic() + (PATIENCE_S if kind is None else 0.0)
        while not self._try():
            if time.monotonic() >= ends_at:
                if kind is None:
                    raise StorageError(
                        self.uri, "cannot be written.", f"The whole run is in {self._run_dir}: copy it there when the storage answers."
                    )
                return
            time.sleep(1.0)
