"""One run of a study beside its sweep: kept in the study's folder, and gone on with where it was begun."""

from collections.abc import Callable
from pathlib import Path

from largebatch.jobs.job import run_job
from largebatch.jobs.prepared import Prepared
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import EvalRecord, Record


def train_kept(job: Prepared, run_dir: Path, on_fraction: Callable[[float, str], None], prefix: str = "") -> None:
    """Train a job in its folder. Args: on_fraction: told at each evaluation how much is done, and in words what was measured."""
    run_folder.create(run_dir.parent, run_dir.name, may_exist=True)

    def show(record: Record) -> None:
        if isinstance(record, EvalRecord):
            on_fraction(min(record.samples_seen / job.plan.total_progress, 1.0), f"{prefix}accuracy {record.test_accuracy:.4f}")

    with run_folder.exclusive(run_dir, "train"):
        run_job(job, run_dir, Listener(on_record=show), resumes=bool(list_checkpoints(run_dir / run_folder.CHECKPOINTS)))
