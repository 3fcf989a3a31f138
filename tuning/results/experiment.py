"""From an MLflow experiment to the same tidy table that run folders give."""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from largebatch.jobs.errors import FaultError, InputError
from largebatch.jobs.run.records import RunSummary
from largebatch.jobs.tracking.folder_mirror import SWEEP_TAG
from largebatch.jobs.tracking.mlflow_store import brief, import_mlflow, sqlite_database
from largebatch.jobs.tracking.params import CURVE_TAG, RUN_TAG, SUMMARY_TAG, as_resumed
from largebatch.tuning.results.run_result import Evaluation, RunResult


class Experiment(NamedTuple):
    """What an MLflow experiment holds."""

    results: list[RunResult]
    """Of ended runs, oldest first."""
    num_unended: int
    num_foreign: int
    """Runs that somebody else's program made; there is no telling what they measured."""


def collect_experiment(uri: str, name: str) -> Experiment:
    """The results of an MLflow experiment's runs.

    Raises: FaultError if MLflow does not answer; InputError if it has no such experiment.
    """
    database = sqlite_database(uri)
    if database is not None and not database.exists():  # MLflow would make an empty one
        raise InputError("--mlflow-uri", f"there is no file {database}.", "Example: sqlite:///runs/mlflow.db.")
    try:
        client = import_mlflow().MlflowClient(tracking_uri=uri)
    except Exception as error:  # an address of a kind that it does not know
        raise InputError("--mlflow-uri", f"MLflow cannot use {uri}: {brief(error)}.", "Example: sqlite:///runs/mlflow.db.") from error
    try:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            names = sorted(other.name for other in client.search_experiments())
            raise InputError("--experiment", f"MLflow at {uri} has no experiment {name!r}.", f"It has: {', '.join(names)}.")
        runs = [run for run in _runs(client, experiment.experiment_id) if SWEEP_TAG not in run.data.tags]
        ours = [run for run in runs if RUN_TAG in run.data.tags]
        ended = [run for run in ours if SUMMARY_TAG in run.data.tags]
        return Experiment([_read(client, run) for run in ended], len(ours) - len(ended), len(runs) - len(ours))
    except InputError:
        raise
    except Exception as error:  # MLflow raises its own, requests' and SQLAlchemy's errors
        raise FaultError("--mlflow-uri", f"MLflow at {uri} does not answer: {brief(error)}.", "Check the address.") from error


def _runs(client: Any, experiment_id: str) -> Iterable[Any]:
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=1000, order_by=["attributes.start_time ASC"], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _read(client: Any, run: Any) -> RunResult:
    tags = run.data.tags
    summary = RunSummary.model_validate_json(tags[SUMMARY_TAG])
    curve = _curve(client, run, summary) if CURVE_TAG not in tags else tuple(Evaluation(*point) for point in json.loads(tags[CURVE_TAG]))
    peak = tags.get("largebatch.peak_learning_rate")
    return RunResult.of(as_resumed(run.data.params, tags), summary, curve, tags["largebatch.device"], float(peak) if peak else None)


def _curve(client: Any, run: Any, summary: RunSummary) -> tuple[Evaluation, ...]:
    """From the metrics' histories, two requests a run: of long curves, and of runs that an earlier version mirrored."""
    samples = {metric.step: int(metric.value) for metric in client.get_metric_history(run.info.run_id, "test_samples_seen")}
    return tuple(
        Evaluation(metric.step, samples.get(metric.step, metric.step * summary.global_batch_size), (metric.timestamp - run.info.start_time) / 1000,
                   metric.value)
        for metric in sorted(client.get_metric_history(run.info.run_id, "test_accuracy"), key=lambda metric: metric.step)
    )  # fmt: skip
