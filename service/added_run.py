"""A run that was trained elsewhere, as `largebatch remote add` sends it: which files of its folder, and how large each may be."""

from pathlib import Path

from largebatch.jobs.errors import InputError
from largebatch.jobs.run.run_folder import JOURNAL, PLAN, SPEC, SUMMARY

PATH, PART, KIND_OF_BODY = "/v1/runs/add", "files", "multipart/form-data"
"""Where the files come in, as parts of one name, each under its own file name: plain, so that nothing expands when it is read."""
RUN_DIR = "RUN_DIR"
"""What the command calls a run's folder."""
LARGEST_BYTES = {SPEC: 256 << 10, SUMMARY: 256 << 10, PLAN: 1 << 20, JOURNAL: 64 << 20}
"""The files that are taken, by name, with their bounds: what is told of a run, and no weights."""
NEEDED = (SPEC, JOURNAL)
MOST_BYTES = sum(LARGEST_BYTES.values())
HINT = "Send the folder that a run of largebatch or a recording has left: largebatch remote add RUN_DIR"


def is_added_run(method: str, path: str, content_type: str) -> bool:
    """Whether a request may bring a run's files."""
    return method == "POST" and path == PATH and content_type.startswith(KIND_OF_BODY)


def refuse_file(name: str, num_bytes: int) -> None:
    """Raise InputError for a file that is none of a run's, or larger than it may be."""
    if name not in LARGEST_BYTES:
        raise InputError(PART, f"{name[:100]!r} is not a file of a run that is taken: {', '.join(LARGEST_BYTES)}.", HINT)
    if num_bytes > LARGEST_BYTES[name]:
        raise InputError(name, f"is larger than {LARGEST_BYTES[name] / 2**20:g} MiB.", "A recording that writes fewer steps is smaller.")


def refuse_missing(names: set[str], field: str = PART, folder: str = "this") -> None:
    """Raise InputError where the files are not those of a run. Args: field, folder: what the person gave."""
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise InputError(field, f"{folder} is not a run's folder: it has no {missing[0]}.", HINT)


def files_of(run_dir: Path) -> dict[str, Path]:
    """The files of a run's folder that are sent, by name. Raises: InputError for what is no run's folder, a link, or too large."""
    if not run_dir.is_dir():
        raise InputError(RUN_DIR, f"{run_dir} is not a folder.", HINT)
    paths = {name: run_dir / name for name in LARGEST_BYTES}
    for name, path in paths.items():
        if path.is_symlink():
            raise InputError(RUN_DIR, f"{path} is a link.", "Put the file itself in its place.")
        if path.is_file():
            refuse_file(name, path.stat().st_size)
    found = {name: path for name, path in paths.items() if path.is_file()}
    refuse_missing(set(found), RUN_DIR, str(run_dir))
    return found
