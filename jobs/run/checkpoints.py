"""Checkpoints: whole or not at all, and the newest readable one wins.

`step-00000120.0123456789abcdef.pt`: the step, and the first half of the SHA-256 of the file's bytes. Name and
content appear together by one rename, so a file under such a name is complete, and a damaged one is found out.
`best-...` has the highest test accuracy so far. Loading is `weights_only`: tensors and plain numbers.
"""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from largebatch.jobs.errors import CheckpointError
from largebatch.jobs.run.checkpoint_files import NAME, list_checkpoints, prune
from largebatch.jobs.run.run_folder import storage_errors, write_whole
from largebatch.jobs.spec.train_spec import TrainSpec

MAY_CHANGE = (
    "name", "description", "stop", "checkpoint", "tracking", "evaluation", "dataset.download", "dataset.num_workers", "dataset.may_change", "compile",
)  # fmt: skip
"""What a resumed run may set anew: nothing that changes the mathematics of a step but the budget."""


def save(folder: Path, state: dict[str, Any], spec: TrainSpec, *, is_best: bool) -> Path:
    """Write one checkpoint and remove those that are no longer kept. Raises: StorageError; the older ones stay."""
    step = state["progress"]["step"]
    buffer = io.BytesIO()
    torch.save({"spec": spec.model_dump(mode="json"), "state": state}, buffer)
    content = buffer.getbuffer()
    digest = hashlib.sha256(content).hexdigest()[:32]
    path = folder / f"step-{step:08d}.{digest}.pt"
    _write(path, content)
    if is_best:
        _write(folder / f"best-{step:08d}.{digest}.pt", content, link_to=path)
    prune(folder, spec.checkpoint.keep, path)
    return path


def _write(path: Path, content: Any, link_to: Path | None = None) -> None:
    if link_to is not None:
        with storage_errors(path):
            try:
                path.unlink(missing_ok=True)
                path.hardlink_to(link_to)
                return
            except OSError:
                pass  # file systems without hard links get a second copy
    with write_whole(path) as file:
        file.write(content)


def load_newest(folder: Path, device: torch.device, report: Callable[[str], None]) -> dict[str, Any]:
    """The content of the newest checkpoint that can be read.

    Args: report: told in words about each damaged one that was passed over.
    Raises: CheckpointError if there is none.
    """
    found = list_checkpoints(folder)
    damaged = 0
    for checkpoint in found:
        try:
            return load(checkpoint.path, device)
        except CheckpointError as error:
            damaged += 1
            report(f"{error.problem} Using the one before it.")
    if damaged:
        raise CheckpointError("--resume", f"none of the {damaged} checkpoints in {folder} can be read.", "Start the run again from its spec.json.")
    raise CheckpointError(
        "--resume", f"there is no checkpoint in {folder}.", "The run was stopped before its first; start it again from its spec.json."
    )


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """One checkpoint's content: `spec` and `state`. Raises: CheckpointError if it is damaged."""
    match = NAME.match(path.name)
    try:
        content = path.read_bytes()
        if match is None or hashlib.sha256(content).hexdigest()[:32] != match[3]:
            raise CheckpointError("--resume", f"Checkpoint {path.name} is damaged: its content does not match the checksum in its name.")
        loaded: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # unpickling damaged bytes raises almost anything
        raise CheckpointError("--resume", f"Checkpoint {path.name} cannot be read: {error}.") from error
    return loaded


def refuse_other_spec(saved: dict[str, Any], spec: TrainSpec) -> None:
    """Raise CheckpointError, naming the first field, if `spec` differs from the saved one in what must not change."""
    now = spec.model_dump(mode="json")
    for field, (before, after) in sorted(_differences(saved, now).items()):
        if not any(field == free or field.startswith(f"{free}.") for free in MAY_CHANGE):
            raise CheckpointError(
                field,
                f"the checkpoint was made with {before!r}, and the spec now says {after!r}.",
                f"A resumed run may change {', '.join(MAY_CHANGE)}; for anything else start a new run.",
            )


def _differences(before: Any, after: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for name in {*before, *after}:
            found.update(_differences(before.get(name), after.get(name), f"{prefix}.{name}" if prefix else name))
        return found
    return {} if before == after else {prefix: (before, after)}
