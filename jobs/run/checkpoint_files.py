"""A run's checkpoint files, told by their names alone: nothing here needs torch, so the mirror starts quickly."""

import re
from pathlib import Path
from typing import NamedTuple

NAME = re.compile(r"^(step|best)-(\d{8,})\.([0-9a-f]{32})\.pt$")


class Checkpoint(NamedTuple):
    """One file, told by its name."""

    path: Path
    kind: str
    step: int
    digest: str


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """All whole checkpoints in the folder, newest first."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = NAME.match(path.name)
        if match:
            found.append(Checkpoint(path, match[1], int(match[2]), match[3]))
    return sorted(found, key=lambda checkpoint: (checkpoint.step, checkpoint.path.stat().st_mtime_ns), reverse=True)


def prune(folder: Path, keep: int, saved: Path) -> None:
    """Remove all but the newest `keep` and the newest best.

    Checkpoints that stand in line after `saved`, which was written just now, are of an earlier process that had come
    further; this one went on from before them because they could not be read. They count for nothing and go first.
    """
    found = list_checkpoints(folder)
    newest = next(checkpoint for checkpoint in found if checkpoint.path == saved)
    for checkpoint in found:
        if checkpoint.step >= newest.step and checkpoint.digest != newest.digest:
            checkpoint.path.unlink(missing_ok=True)
    found = list_checkpoints(folder)
    steps = [checkpoint for checkpoint in found if checkpoint.kind == "step"]
    bests = [checkpoint for checkpoint in found if checkpoint.kind == "best"]
    for checkpoint in (*steps[keep:], *bests[1:]):
        checkpoint.path.unlink(missing_ok=True)
    for partial in folder.glob(".*.part"):
        partial.unlink(missing_ok=True)
