"""How far a job is, from the end of its journal alone: cheap enough to ask of every running job every second."""

from pathlib import Path
from typing import Any

from jobs.records import EvalRecord, StartRecord, StepRecord
from jobs.run_folder import JOURNAL
from jobs.tracking.journal import parse_line
from service.job import Job, Kind

TAIL_BYTES = 16_384


def read_progress(job: Job, folder: Path) -> dict[str, Any]:
    """The newest of everything; empty if nothing is there yet."""
    return _of_sweep(folder) if job.kind is Kind.SWEEP else _of_run(folder, job.progress)


def _of_run(folder: Path, before: dict[str, Any]) -> dict[str, Any]:
    found = dict(before)
    for line in _last_lines(folder / JOURNAL):
        record = parse_line(line)
        if isinstance(record, StartRecord):
            found |= {"step": record.step, "training_seconds": record.training_seconds, "world_size": record.world_size, "hardware": record.device}
        elif isinstance(record, StepRecord):
            found |= {"step": record.step, "epoch": record.epoch, "loss": record.loss, "training_seconds": record.training_seconds}
        elif isinstance(record, EvalRecord):
            found |= {"test_accuracy": record.test_accuracy, "training_seconds": record.training_seconds}
    return found


def _of_sweep(folder: Path) -> dict[str, Any]:
    try:
        runs = [path for path in folder.iterdir() if (path / JOURNAL).exists()]
    except OSError:
        return {}
    return {"runs": len(runs), "runs_over": sum((path / "summary.json").exists() for path in runs)}


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            start = max(0, path.stat().st_size - TAIL_BYTES)
            file.seek(start)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return lines[1:] if start else lines
