"""What a run has left, for its page: the plan in words, the checkpoints whose weights can be fetched, and the files."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.run_folder import CHECKPOINTS

MOST_FILES = 1000
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


class Artifact(BaseModel):
    """One file of a job's folder."""

    path: str
    bytes: int


class Weights(NamedTuple):
    """Weights that can be fetched."""

    which: str
    """newest or best."""
    step: int


def is_shown(path: Path) -> bool:
    """Whether a file is one for people. Args: path: below the job's folder."""
    return CHECKPOINTS not in path.parts and not any(part.startswith(".") for part in path.parts)


def files_in(folder: Path) -> list[Artifact]:
    """The files of a job's folder, checkpoints left out."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink() and is_shown(path.relative_to(folder)))
    return [Artifact(path=str(path.relative_to(folder)), bytes=_size(path)) for path in islice(paths, MOST_FILES)]


def weights_in(folder: Path) -> list[Weights]:
    """The best checkpoint of a run's folder where one is kept, and the newest."""
    checkpoints = list_checkpoints(folder / CHECKPOINTS)
    best = next((checkpoint.step for checkpoint in checkpoints if checkpoint.kind == "best"), None)
    newest = [Weights("newest", max(checkpoint.step for checkpoint in checkpoints))] if checkpoints else []
    return newest if best is None else [Weights("best", best), *newest]


def size_in_words(size_bytes: float) -> str:
    """`12.3 KiB`."""
    for unit in UNITS:
        if size_bytes < 1024 or unit == UNITS[-1]:
            break
        size_bytes /= 1024
    return f"{size_bytes:.0f} {unit}" if unit == UNITS[0] else f"{size_bytes:.1f} {unit}"


def plan_in_words(plan: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """What a run's plan decided, of plan.json."""
    if plan is None:
        return
    known = {name: value for name, value in plan.items() if value not in (None, [], {})}
    if {"total_steps", "total_samples"} <= known.keys():
        yield "steps", f"{known['total_steps']:,}, over {known['total_samples']:,.0f} samples"
    if {"global_batch_size", "world_size", "gradient_accumulation_steps", "micro_batch_size"} <= known.keys():
        workers, micro = known["world_size"], known["gradient_accumulation_steps"]
        split = f"{workers} worker{'s' * (workers > 1)}, {micro} micro-batch{'es' * (micro > 1)} of up to {known['micro_batch_size']:,} on each"
        yield "global batch", f"{known['global_batch_size']:,} samples: {split}"
    if "peak_learning_rate" in known:
        reason, warmup = known.get("learning_rate_reason"), known.get("warmup_epochs")
        why = f" ({reason})" if reason else ""
        yield "learning rate", f"{known['peak_learning_rate']:.4g} at its peak{why}{f', after {warmup:g} epochs of warm-up' if warmup else ''}"
    for name, of in known.get("optimizer_options", {}).items():
        span = f", {of['least']:.4g} to {of['most']:.4g} by the samples of a step" if of["least"] != of["most"] else ""
        yield name.replace("_", " "), f"{of['first']:.4g}{span}"
    if "batch_norm_span" in known:
        yield "batch-norm", f"statistics over {known['batch_norm_span']:,} samples"
    if known.get("noise_every_steps"):
        yield "noise scale", f"measured every {known['noise_every_steps']:,} steps"
    counts = [f"{known[f'num_{part}_samples']:,} {words}" for part, words in (("train", "to train on"), ("validation", "to validate with"),
              ("test", "to test with")) if f"num_{part}_samples" in known]  # fmt: skip
    yield "samples", ", ".join(counts)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # gone since it was listed
