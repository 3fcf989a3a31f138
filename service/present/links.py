"""Addresses outside the service that its pages link to: a job's run in MLflow, and its page on Ray's dashboard.

Only what an operator said, or what follows from it, with http or https: never an address that a request brought.
"""

from urllib.parse import quote, urlsplit, urlunsplit

from largebatch.jobs.errors import InputError
from largebatch.jobs.tracking.mirror_state import MirrorState
from largebatch.service.job import Job
from largebatch.service.present.views import JobDetails
from largebatch.service.settings import Settings


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


def details(job: Job, settings: Settings) -> JobDetails:
    """What is shown of a job alone."""
    links = {"mlflow_url": mlflow_run(settings, job), "ray_dashboard_url": ray_job(settings, job)}
    return JobDetails.of(job).model_copy(update=links)
