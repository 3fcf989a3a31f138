"""A bundle: a person's own code as one zip, which a job unpacks. What comes over the network is checked here before anything of it is kept."""

import contextlib
import hashlib
import inspect
import io
import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from largebatch.jobs.errors import InputError, SpecError
from largebatch.jobs.import_paths import hides_ours
from largebatch.service.job import Described

FIELD = "code"
LARGEST_BYTES = 20 << 20
"""Of a bundle as it is sent, and of its files together: so no file can be a bomb."""
MOST_FILES = 1000
LONGEST_PATH = 200
PACKAGE = "largebatch"
"""It lies beside a bundle where a cluster's jobs unpack it: nothing is put into it."""
DIGEST = r"[0-9a-f]{64}"
END, END_OF_64_BITS = b"PK\x05\x06", b"PK\x06\x07"
END_BYTES, LOCATOR_BYTES = 22, 20
LARGEST_ENTRY_BYTES = 512
"""Of the list of files at a zip's end, for each: 46, its path, and what systems add."""
ZIPPED_AT = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can tell: the same files make the same bytes, whenever they are packed."""
PIECE = 1 << 16
UPLOADS = {"/v1/code": "", "/runs/new": "multipart/form-data", "/sweeps/new": "multipart/form-data", "/studies/new": "multipart/form-data"}
"""Where bundles come in, and in what kind of body: their routes find out who asks before they read it, and keep it on disk."""
HINT = "Pack the folder of your code: largebatch remote submit RECIPE --code FOLDER; or with any zip program."

CODE_ALONE = "Send code alone; data sets belong into the operator's --data-dir."


class BundleFile(Described):
    """One file of a bundle."""

    path: str
    bytes: int


def is_upload(method: str, path: str, content_type: str) -> bool:
    """Whether a request may bring a bundle."""
    return method == "POST" and content_type.startswith(UPLOADS.get(path, "-"))


def digest_of_bundle(packed: bytes) -> str:
    """What a bundle is called: the SHA-256 of its zip."""
    return hashlib.sha256(packed).hexdigest()


def pack(source: Path, files: Collection[Path]) -> bytes:
    """Files of a folder as a zip. Args: files: relative to the folder."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(files):
            entry = zipfile.ZipInfo(file.as_posix(), ZIPPED_AT)
            entry.external_attr, entry.compress_type = (stat.S_IFREG | 0o644) << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, (source / file).read_bytes())
    return packed.getvalue()


def files_in_bundle(packed: bytes) -> list[BundleFile]:
    """A bundle's files, each read whole once. Raises: InputError for what is no zip of code, leads out of its folder, or is too large or too many."""
    return [BundleFile(path=path, bytes=size) for path, size in _each_file(packed, None)]


def unpack(packed: bytes, folder: Path) -> None:
    """Write a bundle's files below a folder. Raises: InputError, as `files_in_bundle`; OSError."""
    for _ in _each_file(packed, folder):
        pass


def unpack_once(packed: bytes, folder: Path) -> None:
    """A new folder with a bundle's files, which appears whole or not at all; nothing in it can be changed. Raises: InputError, OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        unpack(packed, partial)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for inner, _, names in os.walk(folder, topdown=False):
        for name in names:
            os.chmod(Path(inner) / name, 0o400)
        os.chmod(inner, 0o500)


def remove_with_code(folder: Path) -> None:
    """Remove a job's folder with the code in it that nobody may change."""
    for inner, folders, _ in os.walk(folder):
        for name in folders:
            with contextlib.suppress(OSError):  # of a link that the job made, what it leads to is left as it is
                if not (Path(inner) / name).is_symlink():
                    os.chmod(Path(inner) / name, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def references_in(document: Any) -> set[str]:
    """Everything in a spec, a sweep or a part of one that names a person's own code, as "module:function"."""
    if isinstance(document, dict):
        named = [value for key, value in document.items() if str(key).rpartition(".")[2] in {"entry_point", "optimizer"}]
        texts = [text for value in named for text in (value if isinstance(value, list) else [value]) if isinstance(text, str) and ":" in text]
        return {*texts, *(reference for value in document.values() for reference in references_in(value))}
    return {reference for value in document for reference in references_in(value)} if isinstance(document, list) else set()


def module_of(reference: str) -> str:
    """The module or package of an entry point that lies at the top: what is looked for in a bundle."""
    return reference.partition(":")[0].partition(".")[0]


def refuse_misplaced(files: Collection[BundleFile], references: Collection[str]) -> None:
    """Raises: SpecError for a module that is not at the top of a bundle, but inside a folder of it: a job would look for it in vain."""
    paths = [file.path for file in files]
    for module in sorted(map(module_of, references)):
        names = (f"{module}.py", f"{module}/__init__.py")
        deeper = [path for path in paths for name in names if path.endswith(f"/{name}")]
        if deeper and not any(path.startswith((f"{module}.py", f"{module}/")) for path in paths):
            problem = f"the bundle has {module} as {deeper[0]}, and jobs look for it at the top."
            raise SpecError(FIELD, problem, "Zip what is in the folder, not the folder.")


def _each_file(packed: bytes, folder: Path | None) -> Iterator[tuple[str, int]]:
    """Paths and sizes of a bundle's files, each written below a folder where there is one. Raises: InputError, OSError."""
    try:
        with zipfile.ZipFile(io.BytesIO(_with_a_short_list(packed))) as archive:
            entries = _files(archive)
            room_bytes = LARGEST_BYTES
            for entry in entries:
                target = None if folder is None else folder / entry.filename
                size = _read(archive, entry, target, room_bytes)
                room_bytes -= size
                yield entry.filename, size
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, UnicodeError) as error:
        raise InputError(FIELD, f"is no zip file that can be read ({str(error)[:100] or type(error).__name__}).", HINT) from error


def _with_a_short_list(packed: bytes) -> bytes:
    """The same bytes. Raises: InputError where they are too many, or their list of files is: `zipfile` would read all of it first."""
    if len(packed) > LARGEST_BYTES:
        raise InputError(FIELD, f"is larger than {LARGEST_BYTES >> 20} MiB.", CODE_ALONE)
    end = packed[-END_BYTES:]
    if len(end) < END_BYTES or not end.startswith(END) or not end.endswith(b"\0\0"):
        raise InputError(FIELD, "is no zip file, or one that is cut short or has a comment.", HINT)
    num_bytes = int.from_bytes(end[12:16], "little")
    if packed[-END_BYTES - LOCATOR_BYTES :].startswith(END_OF_64_BITS) or num_bytes > MOST_FILES * LARGEST_ENTRY_BYTES:
        raise _too_many()
    return packed


def _files(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files of a zip, whose paths, kinds and sizes are in order. Raises: InputError."""
    entries = archive.infolist()
    if len(entries) > MOST_FILES:
        raise _too_many()
    files = list[zipfile.ZipInfo]()
    taken = set[str]()
    for entry in entries:
        _refuse_entry(entry)
        path = entry.filename.rstrip("/")
        if path.casefold() in taken:
            raise InputError(FIELD, f"holds {path[:LONGEST_PATH]!r} twice.", HINT)
        taken.add(path.casefold())
        if not entry.is_dir():
            files.append(entry)
    names = {file.filename.casefold() for file in files}
    for file in files:
        if any(parent.as_posix().casefold() in names for parent in Path(file.filename).parents):
            raise InputError(FIELD, f"holds {file.filename!r} below what is a file in it, too.", HINT)
    if sum(file.file_size for file in files) > LARGEST_BYTES:
        raise InputError(FIELD, f"holds more than {LARGEST_BYTES >> 20} MiB, unpacked.", CODE_ALONE)
    if not any(file.filename.endswith(".py") for file in files):
        raise InputError(FIELD, "holds no Python file.", HINT)
    return files


def is_path(path: str) -> bool:
    """Whether a bundle takes a file of this path."""
    return _is_plain(path) and len(os.fsencode(path)) <= LONGEST_PATH and not any(part in {"", ".", ".."} for part in path.split("/"))


def _is_plain(path: str) -> bool:
    return path.isprintable() and "\\" not in path and ":" not in path


def _refuse_entry(entry: zipfile.ZipInfo) -> None:
    """Raises: InputError for a path that leads out of a folder, and for what is neither a file nor a folder."""
    path = entry.filename
    shown, parts = path[:LONGEST_PATH], path.removesuffix("/").split("/")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    # Some versions of Python take the name from a second place of the entry, or cut it at a null: what is written is `filename`.
    if not is_path(path.removesuffix("/")) or not _is_plain(entry.orig_filename) or len(os.fsencode(path)) > LONGEST_PATH:
        raise InputError(FIELD, f"holds the path {shown!r}; paths lead downwards, by / alone, in at most {LONGEST_PATH} bytes.", HINT)
    if kind not in {0, stat.S_IFDIR if entry.is_dir() else stat.S_IFREG}:
        raise InputError(FIELD, f"holds {shown!r}, which is a link or a device, not a file.", "Put the file itself in its place.")
    if entry.flag_bits & 1 or entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise InputError(FIELD, f"holds {shown!r} encrypted, or packed in a way that is not usual.", HINT)
    top, *below = parts
    module = top if below else inspect.getmodulename(top) or ""
    if top == PACKAGE or (hides_ours(module) and (not below or inspect.getmodulename(below[0]) == "__init__")):
        raise InputError(FIELD, f"holds {shown!r}, which Python would take for its own or our module {module or top!r}.", "Call it by another name.")


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path | None, room_bytes: int) -> int:
    """Read a file of a zip to its end, and write it. Returns its bytes. Raises: InputError where it is more than it said."""
    size = 0
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(archive.open(entry))
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(target.open("xb"))
        while piece := source.read(PIECE):
            size += len(piece)
            if size > room_bytes:
                raise InputError(FIELD, f"holds more than {LARGEST_BYTES >> 20} MiB, unpacked.", CODE_ALONE)
            if target is not None:
                file.write(piece)
    return size


def _too_many() -> InputError:
    return InputError(FIELD, f"holds more than {MOST_FILES} files.", "Send code alone: no environments, and no data in many files.")


def is_digest(text: str) -> bool:
    """Whether a text can be a bundle's name."""
    return re.fullmatch(DIGEST, text) is not None
