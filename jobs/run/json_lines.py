"""Files of JSON lines, such as a journal or a sweep's ledger: whole lines are appended, and read from any byte on.

A kill or a full disk can cut the last line short. That is no error: readers return whole lines alone, and whoever
appends next ends the cut line first, so it costs nothing but itself. `parse_object` says which line that was.
"""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

CHUNK_BYTES = 1 << 18


class Line(NamedTuple):
    """A whole line: its bytes without the newline, and the offset in the file of the byte after the newline."""

    content: bytes
    end: int


class LineAppender:
    """Appends whole lines to a file; each is with the operating system when `append` returns. Raises: OSError."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)
        if self._file.seek(0, os.SEEK_END):
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self.append(b"")

    def append(self, line: bytes) -> None:
        """Append a line and its newline."""
        rest = line + b"\n"
        while rest:  # a disk's last bytes are taken without an error; the next try gives the reason
            rest = rest[self._file.write(rest) :]

    def sync(self) -> None:
        """Ask the operating system to put everything on disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_lines(path: Path, start: int = 0, end: int | None = None, chunk_bytes: int = CHUNK_BYTES) -> list[Line]:
    """The whole lines of one chunk of a file, from a line's first byte on; none if there is no such file.

    Args: end: offset beyond which nothing is read. Raises: OSError.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            block = file.read(chunk_bytes if end is None else min(chunk_bytes, end - start))
            if block and b"\n" not in block:
                block += file.readline()  # a line longer than a chunk
    except (FileNotFoundError, NotADirectoryError):
        return []
    lines = []
    for content in block.split(b"\n")[:-1]:
        start += len(content) + 1
        lines.append(Line(content.rstrip(b"\r"), start))
    return lines


def read_all_lines(path: Path, start: int = 0, end: int | None = None) -> Iterator[Line]:
    """All whole lines of a file from a line's first byte on, a chunk in memory at a time. Raises: OSError."""
    while lines := read_lines(path, start, end):
        yield from lines
        start = lines[-1].end


def read_last_lines(path: Path, num_bytes: int = CHUNK_BYTES) -> list[Line]:
    """The whole lines among a file's last bytes; none if there is no such file. Raises: OSError."""
    try:
        start = max(0, path.stat().st_size - num_bytes)
    except (FileNotFoundError, NotADirectoryError):
        return []
    lines = read_lines(path, start, chunk_bytes=num_bytes)
    return lines[1:] if start else lines  # the first may have begun before


def parse_object(line: bytes) -> dict[str, Any] | None:
    """A line's JSON object; None for a line that a kill cut short, that is no object, or that no other reader of JSON would take."""
    try:
        value = json.loads(line, parse_constant=_refused, parse_float=_finite)
        if b"\\u" in line:
            json.dumps(value, ensure_ascii=False).encode()  # halves of a pair of surrogates are no text
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _refused(text)
