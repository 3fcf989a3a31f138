"""What the service needs of a place where jobs run, and the command of a job there: the one that a person would type."""

import math
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from largebatch.jobs.errors import FaultError, InputError
from largebatch.jobs.launch.options import TrainOptions, read_workers
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.service.job import Capacity, Job, Kind, Machine
from largebatch.tuning.files import STUDY
from largebatch.tuning.study.options import begin_study
from largebatch.tuning.sweep.ledger import SWEEP, begin_sweep
from largebatch.tuning.sweep.spec import SweepSpec

SPEC = "LARGEBATCH_SPEC"
"""The variable of a job's environment that holds its spec."""
SHARES_PER_CPU = 10_000
"""Ray counts no finer."""


class Presence(StrEnum):
    """What a backend has of a job's newest attempt."""

    ABSENT = "absent"
    """Nothing that runs, and nothing that says how it ended."""
    PRESENT = "present"
    """It waits there or runs."""
    ENDED = "ended"


class Seen(NamedTuple):
    """One look at one job."""

    presence: Presence
    exit_code: int | None = None
    """ENDED: as `python -m largebatch.jobs` gives it; negative for a signal; None if nobody knows."""
    message: str = ""
    """ENDED: what it said last."""


class BackendDown(FaultError):
    """The place does not answer; nothing can be said about its jobs."""


class CannotStart(FaultError):
    """One job cannot be started; others can."""


class Backend(Protocol):
    """A place where jobs run. Everything may raise BackendDown."""

    name: str

    def capacity(self) -> Capacity:
        """What there is in all."""

    def machines(self) -> list[Machine]:
        """The same, machine by machine."""

    def start(self, job: Job) -> None:
        """Begin the job's attempt, or do nothing if that attempt was begun before; an older attempt never runs after.

        Raises: CannotStart.
        """

    def fence(self, job: Job) -> bool:
        """Make sure that an attempt that is absent never begins; False if it has begun."""

    def look(self, jobs: Sequence[Job]) -> dict[str, Seen]:
        """How the newest attempts stand, by job id."""

    def stop(self, job: Job, is_urgent: bool) -> bool:
        """Ask the attempt to finish its step, save and end; urgent: end it at once. Returns whether it was asked."""

    def logs(self, job: Job, attempt: int, offset: int, limit: int) -> bytes:
        """What an attempt has printed, from a byte on; empty if there is no more."""


def no_code(sha256: str) -> bytes:
    """In place of a bundle where no code is taken. Raises: InputError."""
    raise InputError("code", "no code of people's own is taken here.", "The operator allows it with: largebatch serve --allow-code")


def job_arguments(job: Job, output_dir: Path | str, data_dir: Path) -> list[str]:
    """What follows `python`; the spec of a run comes in the environment, a sweep's or study's lies in its folder.

    Args: output_dir: where run folders go, a folder or a URI.
    """
    if job.kind is not Kind.RUN:
        return ["-m", "largebatch", str(job.kind), "--resume", f"{output_dir}/{job.id}", "--data-dir", str(data_dir), "--device", job.device]
    options = TrainOptions(recipe=f"env:{SPEC}", run_id=job.id, data_dir=data_dir, device=job.device).storing(output_dir)
    if job.workers:
        # All workers together, at most, hold what the job holds. Without GPUs that is said: a launch that is told nothing takes what the cluster has.
        workers = read_workers(job.workers)
        cpus = max(math.floor(job.cpus / workers.most * SHARES_PER_CPU + 1e-6), 1) / SHARES_PER_CPU
        options = replace(options, workers=workers, cpus_per_worker=cpus, gpus_per_worker=job.gpus / workers.most)
    return ["-m", "largebatch.jobs", *options.arguments()]


def prepare(job: Job, runs_dir: Path) -> None:
    """Write down what a sweep or a study is to do, once. Raises: StorageError."""
    folder = runs_dir / job.id
    if job.kind is Kind.SWEEP and not (folder / SWEEP).is_file():
        begin_sweep(folder, SweepSpec.model_validate(job.spec), TrainSpec.model_validate(job.base))
    if job.kind is Kind.STUDY and not (folder / STUDY).is_file():
        begin_study(folder, TrainSpec.model_validate(job.base), job.spec["budget_s"], job.spec["optimizers"], may_exist=True)
