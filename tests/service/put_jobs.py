"""Jobs that are over, put into a service as it would have left them: without a process of their own, which would import torch for longer than
it trains."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from made_records import evaluation, start, step
from servers import Service
from small_runs import CPU, trained
from sweep_folders import write_sweep

from largebatch.jobs.job import prepare
from largebatch.jobs.run.journal import Journal
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.service.api.requests import RunSubmit, StudySubmit, SweepSubmit, job_of_run, job_of_study, job_of_sweep
from largebatch.service.backends.base import prepare as prepare_folder
from largebatch.service.job import State
from largebatch.service.present.progress import final_progress
from largebatch.service.settings import Settings

SETTINGS = Settings(cpus=2.0)


def put_ended(service: Service, recipe: str = "digits-small-batch", owner: str = "local", **fields: Any) -> str:
    """A run that succeeded, trained in this process."""
    asked = RunSubmit.model_validate({"recipe": recipe, "set": {"tracking.enabled": False, **fields}})
    job = job_of_run(asked, owner, SETTINGS)
    summary = trained(prepare(TrainSpec.model_validate(job.spec), CPU, service.runs_dir), service.runs_dir / job.id)
    ended = {
        "outcome": str(summary.outcome),
        "summary": summary.model_dump(mode="json"),
        "progress": {"step": summary.steps, "epoch": summary.epochs},
    }
    service.put(job.model_copy(update={"state": State.SUCCEEDED, "attempt": 1, **ended}))
    return job.id


def put_fallen(service: Service, **progress: Any) -> str:
    """A run that has met its target, and went on until it was far below. Args: progress: what its journal here does not tell."""
    job = job_of_run(RunSubmit(recipe="digits-large-batch"), "local", SETTINGS)
    folder = service.runs_dir / job.id
    folder.mkdir()
    with Journal(folder) as journal:
        for record in (start(), evaluation(1, score=0.5), evaluation(2, score=0.97), step(3), evaluation(3, score=0.26)):
            journal.write(record)
    ended = {"state": State.SUCCEEDED, "attempt": 1, "outcome": "reached", "progress": {**final_progress(job, folder), **progress}}
    service.put(job.model_copy(update=ended))
    return job.id


def put_short_study(service: Service) -> str:
    """A study that had too little time."""
    job = job_of_study(StudySubmit(recipe="digits-small-batch", budget_s=12.0), "local", SETTINGS)
    reason = f"InputError: --budget: 12 s hold no sweep of this recipe. Use: largebatch remote resume {job.id} --budget 7m."
    job = job.model_copy(update={"state": State.FAILED, "attempt": 1, "reason": reason})
    prepare_folder(job, service.runs_dir)
    service.put(job)
    return job.id


def put_cancelled(service: Service, like: str) -> str:
    """A run that was cancelled, as far as another has come."""
    asked = RunSubmit.model_validate({"recipe": "digits-small-batch", "set": {"batch.global_batch_size": 64}})
    job = job_of_run(asked, "local", SETTINGS).model_copy(update={"state": State.CANCELLED, "attempt": 1})
    shutil.copytree(service.runs_dir / like, service.runs_dir / job.id, ignore=shutil.ignore_patterns("summary.json"))
    service.put(job)
    return job.id


def put_sweep(service: Service, write: Callable[[Path, dict[str, Any] | None], None] = write_sweep) -> str:
    """A sweep that succeeded. Args: write: its folder; default four runs: three ended, one of them without its target, and one pruned."""
    sweep = SweepSubmit.model_validate({"sweep": {"recipe": "digits-small-batch", "each": {"batch.global_batch_size": [32, 64]}}})
    job = job_of_sweep(sweep, "local", SETTINGS).model_copy(
        update={"state": State.SUCCEEDED, "attempt": 1, "progress": {"runs": 4, "runs_over": 4, "running": {}}}
    )
    write(service.runs_dir / job.id, job.base)
    service.put(job)
    return job.id
