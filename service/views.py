"""What the network sees of a job."""

from datetime import UTC, datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from service.job import Job, Kind
from service.states import State


class JobView(BaseModel):
    """A job in lists and events."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    kind: Kind
    name: str
    owner: str
    recipe: str | None
    state: State
    reason: str | None
    """Why it is recovering, failed or cancelled."""
    is_cancel_asked: bool
    global_batch_size: int | None
    priority: int
    attempt: int
    failures: int
    cpus: float
    gpus: int
    workers: str | None
    device: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    deadline_at: datetime | None
    progress: dict[str, Any]
    """Of a run: step, epoch, loss, test_accuracy, training_seconds; of a sweep: runs, runs_over."""
    outcome: str | None
    """reached, missed, completed or diverged, once it ended by itself."""

    @classmethod
    def of(cls, job: Job) -> Self:
        """The view of a job."""
        return cls(**_fields(job))


class JobDetails(JobView):
    """A job alone, with what it was asked to do."""

    spec: dict[str, Any]
    """The TrainSpec, or the SweepSpec."""
    base: dict[str, Any] | None
    """Sweeps: the TrainSpec that every run begins from."""
    summary: dict[str, Any] | None
    """The run's summary, once it ended by itself."""

    @classmethod
    def of(cls, job: Job) -> Self:
        """The view of a job."""
        # Where the run's folder lies on the server is the operator's business.
        summary = None if job.summary is None else {name: value for name, value in job.summary.items() if name != "run_dir"}
        return cls(**_fields(job), spec=job.spec, base=job.base, summary=summary)


class JobPage(BaseModel):
    """A page of a list."""

    items: list[JobView]
    next_cursor: str | None


def _fields(job: Job) -> dict[str, Any]:
    found = {name: getattr(job, name) for name in JobView.model_fields if name in Job.model_fields}
    for name in ("created_at", "started_at", "ended_at", "deadline_at"):
        at_s = getattr(job, f"{name}_s")
        found[name] = None if at_s is None else datetime.fromtimestamp(at_s, UTC)
    return found
