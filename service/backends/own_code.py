"""A person's own code that travels with a submitted job: which files of the current folder are sent, and which are not."""

import os
import re
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from largebatch.jobs.errors import SpecError
from largebatch.jobs.import_paths import refuse_hiding
from largebatch.service.bundle import LONGEST_PATH, MOST_FILES, is_path

LARGEST_CODE_BYTES = 20 * 2**20
LARGEST_OTHER_FILE_BYTES = 2**20
"""What lies beside code, such as labels or a vocabulary, and is larger is data."""
NO_PYTHON = "holds no Python"
NOT_CODE = {"data", "runs", "node_modules", "tests", "build", "dist"}
"""Folders that are left out where no version control says what is: of the current folder alone, and no packages."""
SECRETS = re.compile(r".*\.(pem|key|p12|pfx|jks|kdbx)|id_(rsa|dsa|ecdsa|ed25519)|(credentials?|secrets?)(\..+)?", re.IGNORECASE)
"""Names of files that hold keys, as a rule: they stay, whatever they lie beside."""
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
        said = f"Not sent along: {', '.join(self.left_out[:NAMES_SHOWN])}{f' and {more} more' if more > 0 else ''}."
        if f"({NO_PYTHON})" not in " ".join(self.left_out):
            return said
        return f"{said} Small files that your code reads go along from beside it: from this folder itself, and from folders with Python in them."


def own_code(source: Path, modules: Collection[str]) -> OwnCode:
    """The Python files below a folder, and the small files of other kinds beside them: what a run that is started there would find.

    Left out are hidden files; at the root what git ignores or, without git, what is called as data and results are, and folders without any Python;
    and what does not fit into 20 MiB. Whatever the recipe names goes along, and first; other files go last, as far as a bundle takes so many.

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
    with_others = [*named]
    for entry in (entry for entry in entries if entry not in named):
        if is_ignored(entry):
            left_out.append(f"{entry.name} ({reason})")
        elif entry.is_dir() and next(_files(entry, is_python=True), None) is None:
            left_out += [f"{entry.name} ({NO_PYTHON})"] * (next(_files(entry, is_python=False), None) is not None)
        elif not parcel.takes(_files(entry, is_python=True)):
            left_out.append(f"{entry.name} (beyond {LARGEST_CODE_BYTES >> 20} MiB)")
        else:
            with_others.append(entry)
    for entry in with_others:
        left_out += _other_files(entry, source, parcel)
    return OwnCode([path.relative_to(source) for path in parcel.files], left_out)


def _other_files(entry: Path, source: Path, parcel: "_Parcel") -> list[str]:
    """Add a file or a folder's files of other kinds than Python. Returns what is left out of them, each with its reason."""
    left_out = []
    for path in _files(entry, is_python=False):
        size_bytes, inside = path.stat().st_size, path.relative_to(source)
        if size_bytes > LARGEST_OTHER_FILE_BYTES:
            left_out.append(f"{inside} ({size_bytes / 2**20:.1f} MiB)")
        elif SECRETS.fullmatch(path.name):
            left_out.append(f"{inside} (may be a secret)")
        elif not is_path(inside.as_posix()) or parcel.has(path):  # with one such name the service would take nothing of it all
            left_out.append(f"{inside.as_posix()[:LONGEST_PATH]!r} (for its name)")
        elif not os.access(path, os.R_OK):
            left_out.append(f"{inside} (cannot be read)")
        elif len(parcel.files) >= MOST_FILES or not parcel.takes([path]):
            of_these = f"more of {entry.name}" if entry.is_dir() else entry.name
            return [*left_out, f"{of_these} (beyond {LARGEST_CODE_BYTES >> 20} MiB or {MOST_FILES:,} files)"]
    return left_out


class _Parcel:
    """The files that are sent, as long as they fit."""

    def __init__(self) -> None:
        self.files: list[Path] = []
        self._room_bytes = LARGEST_CODE_BYTES
        self._names = set[str]()

    def has(self, path: Path) -> bool:
        """Whether a file is in it whose name differs in upper and lower case alone."""
        return str(path).casefold() in self._names

    def takes(self, paths: Iterable[Path]) -> bool:
        """Add files if all of them fit."""
        fitting, room_bytes = [], self._room_bytes
        for path in paths:
            room_bytes -= path.stat().st_size
            if room_bytes < 0:
                return False
            fitting.append(path)
        self.files += fitting
        self._names.update(str(path).casefold() for path in fitting)
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
