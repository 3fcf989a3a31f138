"""What a worker is told."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from largebatch.jobs.launch.options import TrainOptions, Workers


@dataclass(frozen=True)
class WorkerConfig:
    """One worker group's part of a launch."""

    group: int
    """Its number."""
    run_channel: Any
    spec: dict[str, Any]
    run_dir: Path
    data_dir: Path
    import_paths: list[str]
    """Folders where a person's own modules are."""
    options: TrainOptions
    workers: Workers
    uses_gpu: bool
    num_threads: int
    reasons: list[str]
    """Why there is a new group; empty for the first."""
    has_trained: bool
    """Whether workers have trained before."""
    draw: Callable[[Path], None]
    """Draws the run's figure; called on rank 0's machine."""
