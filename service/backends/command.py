"""The command of a job: the one that a person would type."""

import math
from dataclasses import replace
from pathlib import Path

from largebatch.jobs.launch.options import TrainOptions, read_workers
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.service.job import Job, Kind
from largebatch.tuning.sweep.ledger import SWEEP, begin_sweep
from largebatch.tuning.sweep.spec import SweepSpec

SPEC = "LARGEBATCH_SPEC"
"""The variable of a job's environment that holds its spec."""
SHARES_PER_CPU = 10_000
"""Ray counts no finer."""


def job_arguments(job: Job, output_dir: Path | str, data_dir: Path) -> list[str]:
    """What follows `python`; the spec of a run comes in the environment, a sweep's lies in its folder.

    Args: output_dir: where run folders go, a folder or a URI.
    """
    if job.kind is Kind.SWEEP:
        return ["-m", "largebatch", "sweep", "--resume", f"{output_dir}/{job.id}", "--data-dir", str(data_dir), "--device", job.device]
    options = TrainOptions(recipe=f"env:{SPEC}", run_id=job.id, data_dir=data_dir, device=job.device).storing(output_dir)
    if job.workers:
        # All workers together, at most, hold what the job holds. Without GPUs that is said: a launch that is told nothing takes what the cluster has.
        workers = read_workers(job.workers)
        cpus = max(math.floor(job.cpus / workers.most * SHARES_PER_CPU + 1e-6), 1) / SHARES_PER_CPU
        options = replace(options, workers=workers, cpus_per_worker=cpus, gpus_per_worker=job.gpus / workers.most)
    return ["-m", "largebatch.jobs", *options.arguments()]


def prepare(job: Job, runs_dir: Path) -> None:
    """Write down what a sweep is to do, once. Raises: StorageError."""
    folder = runs_dir / job.id
    if job.kind is Kind.SWEEP and not (folder / SWEEP).is_file():
        begin_sweep(folder, SweepSpec.model_validate(job.spec), TrainSpec.model_validate(job.base))
