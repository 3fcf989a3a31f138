"""Shared storage by URI: `s3://bucket/runs`, or whatever else pyarrow's file systems know."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from largebatch.jobs.errors import InputError, StorageError
from largebatch.jobs.whole_files import write_whole

T = TypeVar("T")

PATIENCE_S = 120.0
"""How long a run that has begun waits for its storage, when it goes on and at its end."""
PIECE_BYTES = 8 << 20


class Storage:
    """A folder by path or URI, as far as runs need one. Raises: InputError for a URI that no file system here knows."""

    def __init__(self, uri: str) -> None:
        from pyarrow import fs  # optional: the engine runs without it

        self.uri = uri.rstrip("/")
        try:
            self._fs, self._base = fs.FileSystem.from_uri(uri if "://" in uri else str(Path(uri).resolve()))
        except (OSError, ValueError) as error:
            raise InputError("--output-dir", f"{uri} cannot be used as storage: {error}.", "Example: s3://bucket/runs.") from error

    def _path(self, name: str) -> str:
        return f"{self._base.rstrip('/')}/{name}"

    def _open_output(self, name: str) -> Any:
        path = self._path(name)
        if self._fs.type_name == "local":  # object stores know no folders
            self._fs.create_dir(path.rpartition("/")[0], recursive=True)
        return self._fs.open_output_stream(path)

    def write(self, name: str, content: bytes) -> None:
        """Store a small file whole. Raises: OSError."""
        with self._open_output(name) as stream:
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
        with source.open("rb") as file, self._open_output(name) as stream:
            shutil.copyfileobj(file, stream, PIECE_BYTES)

    def download(self, name: str, target: Path) -> None:
        """Fetch a file, whole or not at all. Raises: OSError, StorageError."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._fs.open_input_stream(self._path(name)) as stream, write_whole(target) as file:
            shutil.copyfileobj(stream, file, PIECE_BYTES)

    def pieces(self, name: str, start: int, end: int) -> Iterator[bytes]:
        """A file's bytes from one offset to another, in pieces. Raises: OSError."""
        with self._fs.open_input_file(self._path(name)) as file:
            file.seek(start)
            while start < end and (piece := file.read(min(PIECE_BYTES, end - start))):
                yield piece
                start += len(piece)

    def states(self, folder: str) -> dict[str, tuple[int, int]]:
        """Every file below a folder, by its path from there: its bytes, and when it was written (Unix ns). Raises: OSError."""
        from pyarrow import fs  # optional, as above

        base = self._path(folder).strip("/")
        files = self._fs.get_file_info(fs.FileSelector(self._path(folder), allow_not_found=True, recursive=True))
        return {file.path.strip("/").removeprefix(base).lstrip("/"): (file.size, file.mtime_ns or 0) for file in files if file.is_file}

    def sizes(self, folder: str) -> dict[str, int]:
        """Every file below a folder, by its path from there, with its bytes. Raises: OSError."""
        return {name: size for name, (size, _) in self.states(folder).items()}

    def remove(self, name: str) -> None:
        """Make a file not be there. Raises: OSError."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(self._path(name))


def read_patiently(uri: str, attempt: Callable[[], T], patience_s: float) -> T:
    """What `attempt` reads of a storage; it is called again while the storage refuses.

    Args: patience_s: for how long; 0: once.
    Raises: StorageError; where nothing is waited for, InputError for an address that is none: with patience it has been one.
    """
    retrying = Retrying(
        retry=retry_if_exception_type((OSError, InputError)),
        stop=stop_after_delay(patience_s),
        wait=wait_fixed(min(1.0, patience_s)),
        reraise=True,
    )
    try:
        return retrying(attempt)
    except InputError as error:
        if not patience_s:
            raise
        raise StorageError(error.field, error.problem, error.hint) from error
    except OSError as error:
        raise StorageError(uri, f"cannot be read ({error}).", "Check the address, the keys and the network.") from error


def probe(storage: Storage, token: str, rank: int, wait_for_ranks: Callable[[], None]) -> str | None:
    """Whether this rank can write there, and sees what rank 0 wrote; returns what is wrong, in words."""
    problem = None
    own = f".largebatch-probe-{token}-{rank}"
    try:
        storage.write(own, token.encode())
    except OSError as error:
        problem = f"cannot be written ({' '.join(str(error).split())[:200]})"
    wait_for_ranks()
    try:
        if problem is None and storage.read(f".largebatch-probe-{token}-0") != token.encode():
            problem = "does not hold what worker 0 wrote there"
    except OSError as error:
        problem = f"cannot be read ({' '.join(str(error).split())[:200]})"
    wait_for_ranks()
    with contextlib.suppress(OSError):
        storage.remove(own)
    return problem
