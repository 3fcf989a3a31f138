"""From run folders to one tidy table: a row per run, and its accuracy curve."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import run_folder
from jobs.errors import InputError
from jobs.records import RunSummary
from jobs.tracking.journal import evaluations, read_records


@dataclass(frozen=True)
class RunResult:
    """One run, as far as comparing goes."""

    name: str
    summary: RunSummary
    curve: tuple[tuple[float, float], ...]
    """(training seconds, test accuracy) at every evaluation."""
    optimizer: str
    seed: int
    device: str


def collect(run_dirs: Iterable[Path]) -> list[RunResult]:
    """The results of ended runs, in the order given. Raises: InputError for a folder that holds none."""
    return [_read(run_dir) for run_dir in run_dirs]


def _read(run_dir: Path) -> RunResult:
    path = run_dir / run_folder.SUMMARY
    if not path.is_file():
        raise InputError(
            str(run_dir), f"has no {run_folder.SUMMARY}: it is no run's folder, or the run has not ended.", "Resume it, or leave it out."
        )
    summary = RunSummary.model_validate_json(path.read_text())
    spec: dict[str, Any] = json.loads((run_dir / run_folder.SPEC).read_text())
    environment: dict[str, Any] = json.loads((run_dir / run_folder.ENVIRONMENT).read_text())
    curve = tuple((record.training_seconds, record.test_accuracy) for record in evaluations(read_records(run_dir)))
    return RunResult(spec["name"], summary, curve, spec["optimizer"]["name"], spec["seed"], environment["device"])
