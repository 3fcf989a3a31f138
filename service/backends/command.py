"""The command of a job: the one that a person would type."""

import math
from pathlib import Path

from largebatch.jobs.launch.options import read_workers
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.service.job import Job, Kind

SPEC = "LARGEBATCH_SPEC"
SMALLEST_SHARE = 1e-4
"""Of a core; Ray counts no finer."""


def job_arguments(job: Job, place: Path | str, data_dir: Path) -> list[str]:
    """What follows `python`; the spec of a run comes in the environment, a sweep's lies in its folder.

    Args: place: where run folders go, a folder or a URI.
    """
    if job.kind is Kind.SWEEP:
        return ["-m", "largebatch", "sweep", "--resume", f"{place}/{job.id}", "--data-dir", str(data_dir), "--device", job.device]
    places = ["--run-id", job.id, "--output-dir", str(place), "--data-dir", str(data_dir), "--device", job.device]
    return ["-m", "largebatch.jobs", f"env:{SPEC}", *places, *(_shares(job, job.workers) if job.workers else [])]


def _shares(job: Job, workers: str) -> list[str]:
    """What each worker gets, so that all of them, at most, hold what the job holds.

    Without GPUs it says so: a launch that is told nothing takes what the cluster has.
    """
    most = read_workers(workers).most
    cpus = max(math.floor(job.cpus / most / SMALLEST_SHARE + 1e-6) * SMALLEST_SHARE, SMALLEST_SHARE)
    return ["--workers", workers, "--cpus-per-worker", f"{cpus:.4f}", "--gpus-per-worker", f"{job.gpus / most:g}"]


def prepare(job: Job, runs_dir: Path) -> None:
    """Write down what a sweep is to do, once. Raises: StorageError."""
    from largebatch.tuning.sweep.ledger import SWEEP
    from largebatch.tuning.sweep.spec import SweepSpec
    from largebatch.tuning.sweep.sweep import begin_sweep

    folder = runs_dir / job.id
    if job.kind is Kind.SWEEP and not (folder / SWEEP).is_file():
        begin_sweep(folder, SweepSpec.model_validate(job.spec), TrainSpec.model_validate(job.base))
