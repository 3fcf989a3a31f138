"""How far a job is, from the end of its journal alone: cheap enough to ask of every running job every second."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from largebatch.jobs.run.checkpoint_files import list_checkpoints
from largebatch.jobs.run.journal import parse_line
from largebatch.jobs.run.records import EvalRecord, StartRecord, StepRecord
from largebatch.jobs.run.run_folder import CHECKPOINTS, JOURNAL, SUMMARY
from largebatch.service.job import Job, Kind
from largebatch.tuning.sweep.ledger import LEDGER

TAIL_BYTES = 16_384
MOST_SHOWN = 16
"""Runs of a sweep whose progress is told live."""


def read_progress(job: Job, folder: Path) -> dict[str, Any]:
    """The newest of everything; empty if nothing is there yet."""
    return _of_sweep(folder) if job.kind is Kind.SWEEP else _of_run(folder, job.progress)


def saved_at_s(job: Job, folder: Path) -> float:
    """When a run wrote its newest checkpoint; when it began, if there is none yet. Unix time."""
    began_s = job.started_at_s or job.created_at_s
    try:
        return max([began_s, *(checkpoint.path.stat().st_mtime for checkpoint in list_checkpoints(folder / CHECKPOINTS))])
    except OSError:  # one of them was just removed for a newer one: the next look sees that
        return time.time()


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
    over = {path for path in runs if (path / SUMMARY).exists()}
    begun = sorted(set(runs) - over)
    failed = _ended_otherwise(folder) if begun else set()
    running = {path.name: of_trial(path) for path in begun if path.name not in failed}
    return {"runs": len(runs), "runs_over": len(over) + len(begun) - len(running), "running": dict(list(running.items())[:MOST_SHOWN])}


def _ended_otherwise(folder: Path) -> set[str]:
    """Runs that the ledger says were pruned or have failed."""
    names: dict[int, str] = {}
    ended: set[str] = set()
    try:
        lines = (folder / LEDGER).read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # cut short by a kill
            found = json.loads(line)
            if "how" in found:
                ended.add(names[found["number"]])
            else:
                names[found["number"]] = found["run_id"]
    return ended


def of_trial(folder: Path) -> dict[str, Any]:
    """How far one run of a sweep is: the facts that a table shows."""
    found = _of_run(folder, {})
    return {name: found[name] for name in ("step", "epoch", "test_accuracy", "training_seconds") if name in found}


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            start = max(0, path.stat().st_size - TAIL_BYTES)
            file.seek(start)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return lines[1:] if start else lines
