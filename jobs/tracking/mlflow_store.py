"""MLflow's store as the mirror meets it: its address, its database file, experiments and runs by identity.

What was deleted in MLflow is told from a server that is away: the one waits for a person, the other for a while.
"""

import importlib
import logging
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import unquote

from filelock import FileLock

from largebatch.jobs.errors import InputError
from largebatch.jobs.tracking.metrics import Point

SQLITE = "sqlite:///"
ARTIFACTS = "mlflow-artifacts"
"""The folder beside a database file that holds its experiments' artifacts."""
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Lets MLflow's page open on training runs, not on traces of language models."""
BEGAN_TAG = "largebatch.began_at_s"
"""When it first began, in Unix seconds: names are given again (every sweep has a `0000-batch-32-seed-0`), moments are not."""
GONE, REFUSED = "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"
"""MLflow's codes for what its store does not hold, not even as deleted, and for a request it refuses, one to a deleted run for instance."""
MOST_METRICS, MOST_PARAMS = 800, 100
"""In one request; MLflow takes at most 1000 of all kinds, 100 parameters, and 100 tags."""
DELETED = "deleted"
"""MLflow's lifecycle stage of what can be restored."""


class DeletedError(InputError):
    """The experiment or the run was deleted in MLflow: nothing can be sent before a person restores it, or names another experiment."""


def import_mlflow() -> Any:
    """MLflow, quiet and quick to give up; its import takes seconds."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # standard output is for --json
    import mlflow

    logging.getLogger("alembic").setLevel(logging.ERROR)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    return mlflow


def get_ready(uri: str) -> None:
    """Import what a mirror will need; beside training, on cores that are never idle, that takes many times as long.

    Args: uri: the spec's address of MLflow; empty if it has none.
    """
    import_mlflow()
    if not (uri or os.environ.get("MLFLOW_TRACKING_URI", "")).startswith("http"):
        importlib.import_module("mlflow.store.tracking.sqlalchemy_store")  # or the first request does, for 0.6 s


def connect(uri: str, folder: Path) -> Any:
    """MLflow's client. Args: folder: see `experiment_id`."""
    mlflow = import_mlflow()
    _make_database(mlflow, uri, folder)
    return mlflow.MlflowClient(tracking_uri=uri)


# ---- addresses --------------------------------------------------------------------------------------------------------


def default_uri(run_dir: Path) -> str:
    """MLFLOW_TRACKING_URI, or an SQLite file beside the runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(run_dir.resolve().parent / "mlflow.db")


def sqlite_uri(database: Path) -> str:
    """The address of an SQLite file. In an address `?` begins options and `%` an escape; a file's name may hold both."""
    return f"{SQLITE}{str(database).replace('%', '%25').replace('?', '%3F')}"


def sqlite_database(uri: str) -> Path | None:
    """The file that an SQLite address leads to, as SQLAlchemy reads it; None for any other address, and for SQLite's own `file:` form."""
    name = unquote(uri.removeprefix(SQLITE).partition("?")[0])
    return Path(name) if uri.startswith(SQLITE) and name and not name.startswith(("file:", ":memory:")) else None


def _one_at_a_time(folder: Path) -> FileLock:
    """The lock of runs that start together: they must not create the experiment, or its database, twice."""
    return FileLock(folder / ".mlflow.lock")


def _make_database(mlflow: Any, uri: str, folder: Path) -> None:
    """An empty store for a SQLite address that has none; whole or not at all: one whose first migrations a kill cut short never opens again."""
    database = sqlite_database(uri)
    if database is None or database.exists():
        return
    with _one_at_a_time(folder):
        if database.exists():  # another process has made it meanwhile
            return
        database.parent.mkdir(parents=True, exist_ok=True)
        for left in database.parent.glob(f".{database.name}.*.part"):
            left.unlink()
        # A name of its own for each try: MLflow remembers stores by their address.
        partial = database.with_name(f".{database.name}.{time.time_ns()}.part")
        mlflow.MlflowClient(tracking_uri=sqlite_uri(partial)).search_experiments(max_results=1)
        partial.replace(database)


# ---- experiments and runs ---------------------------------------------------------------------------------------------


def experiment_id(client: Any, name: str, uri: str, folder: Path) -> str:
    """MLflow's number of an experiment, which is made if it is not there.

    Args: folder: where runs that begin together meet.
    Raises: DeletedError.
    """
    with _one_at_a_time(folder):
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            _refuse_deleted_experiment(experiment, uri)
            return str(experiment.experiment_id)
        # MLflow's own default for a database is ./mlruns, wherever this process happens to stand.
        database = sqlite_database(uri)
        artifacts = (database.resolve().parent / ARTIFACTS).as_uri() if database else None
        return str(client.create_experiment(name, artifact_location=artifacts, tags=EXPERIMENT_TAGS))


class Ensured(NamedTuple):
    """A run that MLflow has."""

    run_id: str
    is_new: bool
    """Whether it was made just now, so that it has nothing but its tags."""


def ensure_run(client: Any, experiment: str, tags: dict[str, str], identity: str, run_name: str, start_ms: int) -> Ensured:
    """The run that has the same `identity` tag and began at the same moment; made if there is none.

    A mirror that was killed right after creating the run left it without a note of its own.
    """
    # The name is compared here: a folder's may hold what a filter cannot.
    for run in client.search_runs([experiment], f"tags.`{BEGAN_TAG}` = '{tags[BEGAN_TAG]}'"):
        if run.data.tags.get(identity) == tags[identity]:
            return Ensured(str(run.info.run_id), is_new=False)
    return Ensured(str(client.create_run(experiment, start_ms, tags=tags, run_name=run_name).info.run_id), is_new=True)


def holds_run(client: Any, run_id: str, uri: str) -> bool:
    """Whether MLflow can take more of a run; False if it has no such run (any more). Raises: DeletedError if it could be restored."""
    try:
        run = client.get_run(run_id)
    except Exception as error:
        if not is_refusal(error, GONE):
            raise
        return False
    _refuse_deleted_experiment(client.get_experiment(run.info.experiment_id), uri)
    if run.info.lifecycle_stage == DELETED:
        raise DeletedError(
            "tracking", f"run {run_id} is deleted in MLflow at {uri}.", f"Restore it by `{_command(uri, 'runs', 'restore', '--run-id', run_id)}`."
        )
    return True


def send(
    client: Any,
    run_id: str | None,
    points: Sequence[Point] = (),
    base_ms: int = 0,
    params: Mapping[str, str] = MappingProxyType({}),
    tags: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Send metrics, parameters and tags of a run, in requests no larger than MLflow takes. Args: base_ms: the time of zero training seconds."""
    from mlflow.entities import Metric, Param, RunTag  # optional, and slow to import

    metrics = [Metric(name, float(value), base_ms + max(round(seconds * 1000), 0), step) for name, value, seconds, step in points]
    requests = zip_longest(
        _batches(metrics, MOST_METRICS),
        _batches([Param(name, value) for name, value in params.items()], MOST_PARAMS),
        _batches([RunTag(name, value) for name, value in tags.items()], MOST_PARAMS),
        fillvalue=(),
    )
    for request in requests:  # of all kinds at once: each request takes longer than what it carries
        client.log_batch(run_id, *request)


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _refuse_deleted_experiment(experiment: Any, uri: str) -> None:
    if experiment.lifecycle_stage == DELETED:
        restore = _command(uri, "experiments", "restore", "--experiment-id", str(experiment.experiment_id))
        raise DeletedError(
            "tracking.experiment",
            f"experiment {experiment.name!r} is deleted in MLflow at {uri}.",
            f"Restore it by `{restore}`, or set tracking.experiment to another one.",
        )


def _command(uri: str, *words: str) -> str:
    return f"MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow {shlex.join(words)}"


def is_refusal(error: BaseException, *codes: str) -> bool:
    """Whether MLflow answered, and said no. Args: codes: for one of these reasons."""
    return getattr(error, "error_code", None) in codes


def brief(error: BaseException) -> str:
    """The first line of what an error says."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]
