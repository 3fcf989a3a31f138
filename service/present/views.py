"""What the network sees of a job."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from largebatch.service.job import Job, Kind, State


class JobView(BaseModel):
    """A job in lists and events."""

    model_config = ConfigDict(use_attribute_docstrings=True, from_attributes=True)

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
    created_at: Annotated[datetime, Field(validation_alias="created_at_s")]
    started_at: Annotated[datetime | None, Field(validation_alias="started_at_s")]
    ended_at: Annotated[datetime | None, Field(validation_alias="ended_at_s")]
    deadline_at: Annotated[datetime | None, Field(validation_alias="deadline_at_s")]
    progress: dict[str, Any]
    """Of a run: step, epoch, loss, test_accuracy, training_seconds; of a sweep: runs, runs_over."""
    outcome: str | None
    """reached, missed, completed or diverged, once it ended by itself."""

    @classmethod
    def of(cls, job: Job) -> Self:
        """The view of a job."""
        return cls.model_validate(job)


class JobDetails(JobView):
    """A job alone, with what it was asked to do."""

    spec: dict[str, Any]
    """The TrainSpec, or the SweepSpec."""
    base: dict[str, Any] | None
    """Sweeps: the TrainSpec that every run begins from."""
    summary: dict[str, Any] | None
    """The run's summary, once it ended by itself."""
    mlflow_url: str | None = None
    """Its page in MLflow, once there is one and the operator's address for it is known."""
    ray_dashboard_url: str | None = None
    """Its newest attempt on Ray's dashboard."""

    @field_validator("summary")
    @classmethod
    def _without_folder(cls, summary: dict[str, Any] | None) -> dict[str, Any] | None:
        """Where the run's folder lies on the server is the operator's business."""
        return None if summary is None else {name: value for name, value in summary.items() if name != "run_dir"}


class JobPage(BaseModel):
    """A page of a list."""

    items: list[JobView]
    next_cursor: str | None
