"""A run's checkpoint files: whole or not at all, the newest whole one wins, and only some are kept.

`step-00000120.0123456789abcdef.pt`: the step, and the first half of the SHA-256 of the file's bytes. Name and
content appear together by one rename, so a file under such a name is complete, and a damaged one is recognised.
`best-...` has the best score so far. `largebatch.jobs.resume` says what a file holds; nothing here needs torch.
"""

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

from largebatch.jobs.errors import CheckpointError
from largebatch.jobs.whole_files import write_whole

NAME = re.compile(r"^(step|best)-(\d{8,})\.([0-9a-f]{32})\.pt$")


class Checkpoint(NamedTuple):
    """One file, described by its name."""

    path: Path
    kind: str
    step: int
    digest: str


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """All whole checkpoints in the folder, newest first."""
    paths = folder.iterdir() if folder.is_dir() else ()
    checkpoints = [Checkpoint(path, match[1], int(match[2]), match[3]) for path in paths if (match := NAME.match(path.name))]
    return sorted(checkpoints, key=lambda checkpoint: (checkpoint.step, checkpoint.path.stat().st_mtime_ns), reverse=True)


def read_checkpoint(path: Path) -> bytes:
    """A checkpoint's bytes. Raises: CheckpointError if they are not those that its name promises, or cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError("--resume", f"Checkpoint {path.name} cannot be read: {error}.") from error
    match = NAME.match(path.name)
    if match is None or _digest(content) != match[3]:
        raise CheckpointError("--resume", f"Checkpoint {path.name} is damaged: its content does not match the checksum in its name.")
    return content


def write_checkpoint(folder: Path, step: int, content: Any, *, keep: int, is_best: bool) -> Path:
    """Write one checkpoint and remove those that are no longer kept. Args: content: a buffer. Raises: StorageError; the older ones stay."""
    path = folder / f"step-{step:08d}.{_digest(content)}.pt"
    _write(path, content)
    if is_best:
        _link(path, path.with_name(path.name.replace("step", "best", 1)), content)
    _prune(folder, keep, path)
    return path


def _digest(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _write(path: Path, content: Any) -> None:
    with write_whole(path) as file:
        file.write(content)


def _link(path: Path, name: Path, content: Any) -> None:
    """Give a file a second name; file systems without hard links get a second copy."""
    try:
        name.unlink(missing_ok=True)
        name.hardlink_to(path)
    except OSError:
        _write(name, content)


def _prune(folder: Path, keep: int, saved: Path) -> None:
    """Remove all but the newest `keep` and the newest best.

    Checkpoints that stand in line after `saved`, which was written just now, are of an earlier process that had come
    further; this one went on from before them because they could not be read. They count for nothing and go first.
    """
    checkpoints = list_checkpoints(folder)
    newest = next(checkpoint for checkpoint in checkpoints if checkpoint.path == saved)
    overtaken = [checkpoint for checkpoint in checkpoints if checkpoint.step >= newest.step and checkpoint.digest != newest.digest]
    kept = [checkpoint for checkpoint in checkpoints if checkpoint not in overtaken]
    steps = [checkpoint for checkpoint in kept if checkpoint.kind == "step"]
    bests = [checkpoint for checkpoint in kept if checkpoint.kind == "best"]
    for checkpoint in (*overtaken, *steps[keep:], *bests[1:]):
        checkpoint.path.unlink(missing_ok=True)
    for partial in folder.glob(".*.part"):
        partial.unlink(missing_ok=True)
