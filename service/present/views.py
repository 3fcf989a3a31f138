"""What the network sees of a job, with the addresses outside the service that its page links to.

These are only what an operator said, or what follows from it, with http or https: never an address that a request brought.
"""

from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import ConfigDict, Field, field_validator

from largebatch.jobs.errors import InputError
from largebatch.jobs.tracking.mirror_state import MirrorState
from largebatch.service.db.listing import BriefRow, columns_of
from largebatch.service.db.store import Page
from largebatch.service.job import Described, Job, JobFacts
from largebatch.service.settings import Settings

REMEMBERED = 10_000
"""Rows whose JSON is kept: 2 kB each, 20 at most, with the longest notes that there may be."""


class JobView(JobFacts):
    """A job in lists and events."""

    model_config = ConfigDict(from_attributes=True, json_schema_serialization_defaults_required=True)

    created_at: Annotated[datetime, Field(validation_alias="created_at_s")]
    started_at: Annotated[datetime | None, Field(validation_alias="started_at_s")]
    ended_at: Annotated[datetime | None, Field(validation_alias="ended_at_s")]
    deadline_at: Annotated[datetime | None, Field(validation_alias="deadline_at_s")]


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


class JobPage(Described):
    """A page of a list."""

    items: list[JobView]
    next_cursor: str | None
    total: int | None = None
    """How many there are on all pages together, where that was asked."""


def page_as_json(page: Page) -> bytes:
    """A `JobPage`, of rows that were read just now."""
    rest = JobPage(items=[], next_cursor=page.next_cursor, total=page.total).model_dump_json(exclude={"items"})
    return b'{"items":[' + b",".join(map(_view_as_json, page.rows)) + b"]," + rest.removeprefix("{").encode()


@lru_cache(REMEMBERED)
def _view_as_json(row: BriefRow) -> bytes:
    """A `JobView`. It follows from the whole row, which is what it is remembered by, and so is never old, whoever changed the job."""
    return JobView.model_validate(columns_of(row)).model_dump_json().encode()


def details(job: Job, settings: Settings) -> JobDetails:
    """What is shown of a job alone."""
    links = {"mlflow_url": mlflow_run(settings, job), "ray_dashboard_url": ray_job(settings, job)}
    return JobDetails.model_validate(job).model_copy(update=links)


def refuse_unless_public(option: str, address: str) -> None:
    """Raise InputError for an operator's address that people's browsers cannot open."""
    if public(address) is None:
        raise InputError(option, f"{address!r} is no address that a browser can open.", "Example: https://mlflow.example.org")


def public(address: str | None) -> str | None:
    """An address as it may be shown: http or https, without user, password, query and fragment; None for any other."""
    try:
        parts = urlsplit(address or "")
        _ = parts.port  # raises for one that is no number
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return None
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def mlflow_run(settings: Settings, job: Job) -> str | None:
    """A run's or sweep's page in MLflow, once its mirror has made one."""
    base = public(settings.mlflow_url) or public(settings.tracking_uri)
    if base is None:
        return None
    try:
        state = MirrorState.read(settings.runs_dir / job.id)
    except (OSError, ValueError, TypeError):
        return None
    is_there = settings.mlflow_url is not None or public(state.uri) is not None
    run_id = state.run_id or (job.summary or {}).get("mlflow_run_id")
    is_there = is_there or (state.run_id is None and run_id is not None)
    return f"{base}/#/runs/{quote(str(run_id), safe='')}" if run_id and is_there else None


def ray_job(settings: Settings, job: Job) -> str | None:
    """The newest attempt's page on Ray's dashboard."""
    base = public(settings.ray_dashboard_url) or public(settings.ray_address)
    return f"{base}/#/jobs/{quote(f'{job.id}.{job.attempt}', safe='')}" if base and job.attempt else None
