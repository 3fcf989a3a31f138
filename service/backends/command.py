"""The command of a job: the one that a person would type."""

from pathlib import Path

from jobs.spec import TrainSpec
from service.job import Job, Kind

SPEC = "LARGEBATCH_SPEC"


def job_arguments(job: Job, runs_dir: Path, data_dir: Path) -> list[str]:
    """What follows `python`; the spec of a run comes in the environment, a sweep's lies in its folder."""
    if job.kind is Kind.SWEEP:
        return ["-m", "service.cli", "sweep", "--resume", f"{runs_dir}/{job.id}", "--data-dir", str(data_dir), "--device", job.device]
    places = ["--run-id", job.id, "--output-dir", str(runs_dir), "--data-dir", str(data_dir), "--device", job.device]
    return ["-m", "jobs", f"env:{SPEC}", *places, *(["--workers", job.workers] if job.workers else [])]


def prepare(job: Job, runs_dir: Path) -> None:
    """Write down what a sweep is to do, once. Raises: StorageError."""
    from tuning.ledger import SWEEP
    from tuning.spec import SweepSpec
    from tuning.sweep import begin_sweep

    folder = runs_dir / job.id
    if job.kind is Kind.SWEEP and not (folder / SWEEP).is_file():
        begin_sweep(folder, SweepSpec.model_validate(job.spec), TrainSpec.model_validate(job.base))
