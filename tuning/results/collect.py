"""From run folders or an MLflow experiment to one tidy table: a row per run, with its accuracy curve.

Runs that are compared were trained and tested on the same data, or they are told apart: each run loads its data in a process of its own, and
what `load` draws without a seed makes another test set of every one.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pydantic

from largebatch.jobs.data.fingerprint import DatasetFingerprint, read_fingerprint
from largebatch.jobs.data.same_data import difference_between_runs
from largebatch.jobs.errors import FaultError, InputError
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.journal import evaluations, read_records, steps
from largebatch.jobs.run.records import EvalRecord, JournalRecord, RunSummary, StartRecord, StepRecord
from largebatch.jobs.tracking.folder_mirror import SWEEP_TAG
from largebatch.jobs.tracking.mlflow_store import brief, import_mlflow, sqlite_database
from largebatch.jobs.tracking.params import CURVE_TAG, PARENT_TAG, RUN_TAG, SUMMARY_TAG, as_resumed, flat
from largebatch.tuning.results.foreign_runs import AskNames, foreign_runs, read_foreign
from largebatch.tuning.results.run_result import Evaluation, NoiseEstimate, RunResult
from largebatch.tuning.sweep.ledger import SEARCH_SEED_TAG, STUDY_TAG, search_seed


class Collected(NamedTuple):
    """The runs that a person named."""

    runs: list[RunResult]
    """Of ended runs."""
    missing: list[str]
    """What is not there, or not there yet, in sentences."""


def collect(run_dirs: Iterable[Path]) -> list[RunResult]:
    """The results of ended runs, in the order given. Raises: InputError for a folder that holds none.

    A run whose data are not those of an earlier run of that data set's name gets a data set of another name. Runs of earlier versions kept
    no fingerprint, and are taken as they say. One on another processor than the first run's gets a device of another name in
    the same way.
    """
    firsts: dict[str, list[tuple[str, DatasetFingerprint, str]]] = {}
    search_seed_of = cache(search_seed)
    first_models: dict[str, str] = {}
    results = (_with_own_processor(_marked(_read(run_dir), search_seed_of(run_dir.resolve().parent)), first_models) for run_dir in run_dirs)
    return [_told_apart(result, firsts.setdefault(result.dataset, [])) for result in results]


def _marked(result: RunResult, search_seed: int | None) -> RunResult:
    """The run, marked where its sweep chose by it. Args: search_seed: of the sweep's runs that choose; None: of no sweep, or they count."""
    return replace(result, chose=True) if result.seed == search_seed else result


def unreadable_in_words(error: Exception) -> str:
    """Why a file that a program wrote is not what it should be, in a few words without a full stop."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, pydantic.ValidationError):
        first = error.errors(include_url=False)[0]
        return ": ".join(part for part in (".".join(map(str, first["loc"])), first["msg"]) if part)
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _read(run_dir: Path) -> RunResult:
    if not (run_dir / run_folder.SUMMARY).is_file():
        raise InputError(
            str(run_dir), f"has no {run_folder.SUMMARY}: it is no run's folder, or the run has not ended.", "Resume it, or leave it out."
        )
    try:
        summary = RunSummary.model_validate_json((run_dir / run_folder.SUMMARY).read_text())
        plan = _mapping(run_dir / run_folder.PLAN) if (run_dir / run_folder.PLAN).is_file() else {}
        records = read_records(run_dir)
        curve = tuple(Evaluation(at.step, at.samples_seen, at.training_seconds, at.score, at.evaluation_seconds) for at in evaluations(records))
        estimates = tuple(
            NoiseEstimate(record.step, record.covariance_trace, record.gradient_norm_squared)
            for record in steps(records)
            if record.covariance_trace is not None and record.gradient_norm_squared is not None
        )
        fields, device = flat(_mapping(run_dir / run_folder.SPEC)), _mapping(run_dir / run_folder.ENVIRONMENT)["device"]
        return RunResult.of(fields, summary, curve, _trained_on(records) or device, plan.get("peak_learning_rate"), run_dir, estimates)
    except (OSError, ValueError, KeyError, TypeError) as error:
        which = f"{Path(error.filename).name}: " if isinstance(error, OSError) and error.filename else ""
        why = f"cannot be read, its files are damaged ({which}{unreadable_in_words(error)})."
        raise InputError(str(run_dir), why, "Remove it, or leave it out.") from error


def _trained_on(records: Sequence[JournalRecord]) -> str | None:
    """The devices and numbers of workers on which a run's steps were trained, one after the other; None where they were the same throughout.

    Its seconds are those of no one of them. What a later start undid, and a start after which no step came, does not count.
    """
    starts = [record for record in records if isinstance(record, StartRecord)]
    ends = [min(later.step for later in starts[number + 1 :]) for number in range(len(starts) - 1)]
    last = max((record.step for record in records if isinstance(record, StepRecord | EvalRecord)), default=0)
    parts = [(start.device, start.world_size) for start, end in zip(starts, [*ends, last], strict=False) if end > start.step]
    if len(set(parts)) < 2:
        return None
    names = [f"{device} with {workers} {'worker' if workers == 1 else 'workers'}" for device, workers in parts]
    return ", then ".join(name for name, _ in itertools.groupby(names))


def _with_own_processor(result: RunResult, firsts: dict[str, str]) -> RunResult:
    """The run, its device named by its processor where that is another than the first run's. Args: firsts: of each device, to which one is added."""
    if result.folder is None or not result.device.startswith("cpu"):
        return result
    model = _mapping(result.folder / run_folder.ENVIRONMENT).get("cpu_model")
    if model is None or firsts.setdefault(result.device, model) == model:
        return result
    return replace(result, device=f"{result.device}, {model}")


def _told_apart(result: RunResult, firsts: list[tuple[str, DatasetFingerprint, str]]) -> RunResult:
    """Args: firsts: of each kind of data the first run, its fingerprint, and what the data set is called; a new kind is added."""
    fingerprint = read_fingerprint(result.folder) if result.folder else None
    if fingerprint is None:
        return result
    run_id, name, first_difference = result.summary.run_id, result.dataset, None
    for first_id, first_fingerprint, first_name in firsts:
        difference = difference_between_runs(fingerprint, first_fingerprint, (run_id, first_id))
        if difference is None:
            return replace(result, dataset=first_name)
        first_difference = first_difference or difference
    if first_difference is not None:
        name = f"{name} (other data: {first_difference})"
    firsts.append((run_id, fingerprint, name))
    return replace(result, dataset=name)


def _mapping(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text())
    if not isinstance(document, dict):
        raise ValueError(f"{path.name} holds no mapping")
    return document


def collect_experiment(uri: str, name: str, ask_names: AskNames = lambda runs: None) -> Collected:
    """The results of an MLflow experiment's ended runs, oldest first, ours before others'.

    Args: ask_names: asked what names mean where there are runs that largebatch did not make.
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
        everything = list(_runs(client, experiment.experiment_id))
        seeds = {run.info.run_id: int(run.data.tags[SEARCH_SEED_TAG]) for run in everything if SEARCH_SEED_TAG in run.data.tags}
        studies = {run.info.run_id for run in everything if STUDY_TAG in run.data.tags}  # whose own runs are beside their sweeps'
        runs = [run for run in everything if SWEEP_TAG not in run.data.tags and run.data.tags.get(PARENT_TAG) not in studies]
        ours = [run for run in runs if RUN_TAG in run.data.tags]
        ended = [run for run in ours if SUMMARY_TAG in run.data.tags]
        missing = [f"Left out: {len(ours) - len(ended)} runs that have not ended."] if len(ended) < len(ours) else []
        results = [_marked(_from_mlflow(client, run), seeds.get(run.data.tags.get(PARENT_TAG))) for run in ended]
        if others := [run for run in runs if RUN_TAG not in run.data.tags]:  # there is no telling what somebody else's program measured
            meanings = ask_names(foreign_runs(name, others, has_ours=bool(ours)))
            if meanings is None:
                missing.append(f"Not read: {len(others)} runs that largebatch did not make; --mapping says what their parameters mean.")
            else:
                read, left_out = read_foreign(client, others, meanings, name)
                results, missing = [*results, *read], [*missing, *left_out]
        return Collected(results, missing)
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


def _from_mlflow(client: Any, run: Any) -> RunResult:
    tags = run.data.tags
    summary = RunSummary.model_validate_json(tags[SUMMARY_TAG])
    curve = _curve(client, run, summary) if CURVE_TAG not in tags else tuple(Evaluation(*point) for point in json.loads(tags[CURVE_TAG]))
    peak = tags.get("largebatch.peak_learning_rate")
    return RunResult.of(as_resumed(run.data.params, tags), summary, curve, tags["largebatch.device"], float(peak) if peak else None)


def _curve(client: Any, run: Any, summary: RunSummary) -> tuple[Evaluation, ...]:
    """From the metrics' histories, two requests a run: of long curves, and of runs that an earlier version mirrored."""
    part = summary.evaluated_on
    samples = {metric.step: int(metric.value) for metric in client.get_metric_history(run.info.run_id, f"{part}_samples_seen")}
    return tuple(
        Evaluation(metric.step, samples.get(metric.step, metric.step * summary.global_batch_size), (metric.timestamp - run.info.start_time) / 1000,
                   metric.value)
        for metric in sorted(client.get_metric_history(run.info.run_id, f"{part}_{summary.headline.name}"), key=lambda metric: metric.step)
    )  # fmt: skip
