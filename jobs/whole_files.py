"""Files that are written whole or not at all, and what the file system refuses, in words."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from largebatch.jobs.errors import StorageError

REFUSALS = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
RESUME_LATER = "The last checkpoint is whole: free some space or mend the folder, then resume the run."


@contextmanager
def storage_errors(path: Path, hint: str = RESUME_LATER) -> Iterator[None]:
    """Turns the file system's refusals into one StorageError that names the path."""
    try:
        yield
    except OSError as error:
        raise StorageError(str(path), f"cannot be written ({refusal(error)}).", hint) from error


def refusal(error: OSError) -> str:
    """Why the file system refuses, in words."""
    return REFUSALS.get(error.errno or 0) or error.strerror or str(error)


def write_text(path: Path, text: str) -> None:
    """Replace a small file whole. Raises: StorageError."""
    with write_whole(path) as file:
        file.write(text.encode())


@contextmanager
def write_whole(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under `path` only when it was written, flushed to disk and closed without error."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with storage_errors(path):
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
