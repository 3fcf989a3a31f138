"""From run folders to one tidy table: a row per run, with its accuracy curve."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pydantic

from largebatch.jobs.errors import InputError
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.journal import evaluations, read_records, steps
from largebatch.jobs.run.records import RunSummary
from largebatch.jobs.tracking.params import flat
from largebatch.tuning.results.run_result import Evaluation, NoiseEstimate, RunResult


def collect(run_dirs: Iterable[Path]) -> list[RunResult]:
    """The results of ended runs, in the order given. Raises: InputError for a folder that holds none."""
    return [_read(run_dir) for run_dir in run_dirs]


def noise_estimates(run: RunResult) -> tuple[NoiseEstimate, ...]:
    """Of every step that measured them, by rising step; none of a run from MLflow, where they are not kept together."""
    return tuple(
        NoiseEstimate(record.step, record.covariance_trace, record.gradient_norm_squared)
        for record in steps(read_records(run.folder) if run.folder else [])
        if record.covariance_trace is not None and record.gradient_norm_squared is not None
    )


def unreadable_in_words(error: Exception) -> str:
    """Why a file that a program wrote is not what it should be, in a few words without a full stop."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, pydantic.ValidationError):
        first = error.errors(include_url=False)[0]
        return ": ".join(part for part in (".".join(map(str, first["loc"])), first["msg"]) if part)
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _read(run_dir: Path) -> RunResult:
    if not (run_dir / run_folder.SUMMARY).is_file():
        raise InputError(
            str(run_dir), f"has no {run_folder.SUMMARY}: it is no run's folder, or the run has not ended.", "Resume it, or leave it out."
        )
    try:
        summary = RunSummary.model_validate_json((run_dir / run_folder.SUMMARY).read_text())
        plan = _mapping(run_dir / run_folder.PLAN) if (run_dir / run_folder.PLAN).is_file() else {}
        curve = tuple(
            Evaluation(record.step, record.samples_seen, record.training_seconds, record.test_accuracy)
            for record in evaluations(read_records(run_dir))
        )
        fields, device = flat(_mapping(run_dir / run_folder.SPEC)), _mapping(run_dir / run_folder.ENVIRONMENT)["device"]
        return RunResult.of(fields, summary, curve, device, plan.get("peak_learning_rate"), run_dir)
    except (OSError, ValueError, KeyError, TypeError) as error:
        which = f"{Path(error.filename).name}: " if isinstance(error, OSError) and error.filename else ""
        why = f"cannot be read, its files are damaged ({which}{unreadable_in_words(error)})."
        raise InputError(str(run_dir), why, "Remove it, or leave it out.") from error


def _mapping(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text())
    if not isinstance(document, dict):
        raise ValueError(f"{path.name} holds no mapping")
    return document
