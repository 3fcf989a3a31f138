"""A person's own code that travels with a submitted job: which files of the current folder are sent, and which are not."""

import os
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from largebatch.jobs.errors import SpecError
from largebatch.jobs.import_paths import refuse_hiding

LARGEST_CODE_BYTES = 20 * 2**20
LARGEST_OTHER_FILE_BYTES = 2**20
"""What lies beside code, such as labels or a vocabulary, and is larger is data."""
NOT_CODE = {"data", "runs", "node_modules", "tests", "build", "dist"}
"""Folders that are left out where no version control says what is: of the current folder alone, and no packages."""
GIT_S = 20
NAMES_SHOWN = 6


class OwnCode(NamedTuple):
    """What is sent, and what is not."""

    files: list[Path]
    """Relative to the current folder."""
    left_out: list[str]
    """Each with its reason."""

    def sentence(self) -> str:
        """What a person is told of what is left out; empty where nothing is."""
        if not self.left_out:
            return ""
        more = len(self.left_out) - NAMES_SHOWN
        return f"Not sent along: {', '.join(self.left_out[:NAMES_SHOWN])}{f' and {more} more' if more > 0 else ''}."


def own_code(source: Path, modules: Collection[str]) -> OwnCode:
    """The Python files below a folder, and the small files of other kinds in what the recipe names.

    Left out are hidden folders; at the root what git ignores or, without git, what is called as data and results are; and what does not fit into
    20 MiB. Whatever the recipe names goes along.

    Args: modules: what the recipe names, up to the first dot.
    Raises: InputError if that is too much to be code, or a file would be taken for a module of Python's or ours.
    """
    refuse_hiding(source)
    entries = [entry for entry in sorted(source.iterdir()) if not _is_hidden(entry.name)]
    named = [entry for entry in entries if entry.stem in modules]
    parcel, left_out = _Parcel(), []
    for entry in named:
        if not parcel.takes(_files(entry, is_python=True)):
            problem = f"{entry} holds more than {LARGEST_CODE_BYTES >> 20} MiB of Python files."
            raise SpecError("entry_point", problem, "Submit from your code's own folder, without environments or data in it.")
    is_ignored, reason = _what_is_ignored(source)
    for entry in entries:
        if entry in named or (entry.is_file() and entry.suffix != ".py"):
            continue
        if is_ignored(entry):
            left_out.append(f"{entry.name} ({reason})")
        elif not parcel.takes(_files(entry, is_python=True)):
            left_out.append(f"{entry.name} (beyond {LARGEST_CODE_BYTES >> 20} MiB)")
    for path in (path for entry in named for path in _files(entry, is_python=False)):
        size_bytes = path.stat().st_size
        if size_bytes > LARGEST_OTHER_FILE_BYTES or not parcel.takes([path]):
            left_out.append(f"{path.relative_to(source)} ({size_bytes / 2**20:.1f} MiB)")
    return OwnCode([path.relative_to(source) for path in parcel.files], left_out)


class _Parcel:
    """The files that are sent, as long as they fit."""

    def __init__(self) -> None:
        self.files: list[Path] = []
        self._room_bytes = LARGEST_CODE_BYTES

    def takes(self, paths: Iterable[Path]) -> bool:
        """Add files if all of them fit."""
        fitting, room_bytes = [], self._room_bytes
        for path in paths:
            room_bytes -= path.stat().st_size
            if room_bytes < 0:
                return False
            fitting.append(path)
        self.files += fitting
        self._room_bytes = room_bytes
        return True


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"


def _files(entry: Path, *, is_python: bool) -> Iterator[Path]:
    """The Python files of a file or folder, or all others."""
    if entry.is_file():
        yield from [entry] if (entry.suffix == ".py") is is_python else []
    for folder, folders, files in os.walk(entry):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for path in (Path(folder) / name for name in sorted(files)):
            if (path.suffix == ".py") is is_python and not _is_hidden(path.name) and path.is_file():
                yield path


def _what_is_ignored(source: Path) -> tuple[Callable[[Path], bool], str]:
    """Whether something at the root of a folder is left out, and in what words."""
    try:
        command = ["git", "-C", str(source), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, capture_output=True, timeout=GIT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        listed = b""
    kept = {os.fsdecode(path).split("/")[0] for path in listed.split(b"\0") if path}
    if kept:  # none: no repository, or a folder that its repository ignores whole
        return (lambda entry: entry.name not in kept), "git ignores it"
    return (lambda entry: entry.name in NOT_CODE and not (entry / "__init__.py").is_file()), "by its name"
