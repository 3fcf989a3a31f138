"""From run folders, or an MLflow experiment, to one tidy table: a row per run, with its accuracy curve."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pydantic

from largebatch.jobs.errors import FaultError, InputError
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.journal import evaluations, read_records, steps
from largebatch.jobs.run.records import RunSummary
from largebatch.jobs.tracking.mlflow_mirror import CURVE_TAG, RUN_TAG, SUMMARY_TAG, as_resumed, flat
from largebatch.jobs.tracking.mlflow_store import brief, import_mlflow, sqlite_database

ASIDE = (
    "seed", "name", "description", "tracking.", "checkpoint.", "dataset.download", "dataset.num_workers", "dataset.may_change",
    "batch.micro_batch_size", "stop.target_accuracy", "stop.at_target", "stop.max_seconds",
)  # fmt: skip
"""Fields that may differ between two runs of one configuration: they change no step's mathematics. `stop.epochs` and `stop.steps` do: they
are the horizon of the learning rate's decay."""


SWEEP_TAG = "largebatch.sweep"
"""What a sweep's own run carries in MLflow."""


class Evaluation(NamedTuple):
    """One point of a run's curve."""

    step: int
    samples: int
    training_seconds: float
    test_accuracy: float


class NoiseEstimate(NamedTuple):
    """What one step measured of its gradient's noise."""

    step: int
    covariance_trace: float
    """tr(Sigma), unbiased."""
    gradient_norm_squared: float
    """|G|^2, unbiased; can be negative."""


class Costs(NamedTuple):
    """What a run had spent at some evaluation."""

    seconds: float
    """On the training clock."""
    steps: int
    samples: int


@dataclass(frozen=True)
class RunResult:
    """One run, as far as comparing goes."""

    name: str
    summary: RunSummary
    evaluations: tuple[Evaluation, ...]
    dataset: str
    """Name or entry point, with its arguments."""
    model: str
    """Name or entry point alone: arguments may be what a sweep searches, and stay on one axis."""
    optimizer: str
    momentum: float | None
    """The value of the optimizer's `momentum_option`."""
    learning_rate: float
    """At the peak of the schedule."""
    seed: int
    device: str
    settings: tuple[tuple[str, str], ...]
    """Every field of the spec that changes the mathematics, but the seed."""
    folder: Path | None = None
    """Where it was read from; None: from MLflow."""

    @property
    def curve(self) -> tuple[tuple[float, float], ...]:
        """(training seconds, test accuracy) at every evaluation."""
        return tuple((point.training_seconds, point.test_accuracy) for point in self.evaluations)

    def costs_to(self, target: float) -> Costs | None:
        """What it took to the first evaluation that met `target`; None on a miss."""
        for point in self.evaluations:
            if point.test_accuracy >= target:
                return Costs(point.training_seconds, point.step, point.samples)
        return None


def collect(run_dirs: Iterable[Path]) -> list[RunResult]:
    """The results of ended runs, in the order given. Raises: InputError for a folder that holds none."""
    return [_read(run_dir) for run_dir in run_dirs]


def noise_estimates(run: RunResult) -> tuple[NoiseEstimate, ...]:
    """Of every step that measured them, by rising step; none of a run from MLflow, where they are not kept together."""
    return tuple(
        NoiseEstimate(record.step, record.covariance_trace, record.gradient_norm_squared)
        for record in steps(read_records(run.folder) if run.folder else [])
        if record.covariance_trace is not None and record.gradient_norm_squared is not None
    )


def has_result(run_dir: Path) -> bool:
    """Whether a run came to an end that a resume would not change."""
    path = run_dir / run_folder.SUMMARY
    return path.is_file() and RunSummary.model_validate_json(path.read_text()).outcome.is_result


def ended_runs(folder: Path) -> list[Path]:
    """The folders of ended runs in `folder`, by name; itself, if it is one."""
    if (folder / run_folder.SUMMARY).is_file() and (folder / run_folder.SPEC).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{run_folder.SUMMARY}") if (path.parent / run_folder.SPEC).is_file())


def unended_runs(folder: Path) -> list[Path]:
    """The folders in `folder` of runs that were begun and have no result yet."""
    return sorted(path.parent for path in folder.glob(f"*/{run_folder.SPEC}") if not (path.parent / run_folder.SUMMARY).is_file())


def unreadable_in_words(error: Exception) -> str:
    """Why a file that a program wrote is not what it should be, in a few words without a full stop."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, pydantic.ValidationError):
        first = error.errors(include_url=False)[0]
        return ": ".join(part for part in (".".join(map(str, first["loc"])), first["msg"]) if part)
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _mapping(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text())
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no mapping")
    return found


def _read(run_dir: Path) -> RunResult:
    try:
        return _read_whole(run_dir)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        which = f"{Path(error.filename).name}: " if isinstance(error, OSError) and error.filename else ""
        why = f"cannot be read, its files are damaged ({which}{unreadable_in_words(error)})."
        raise InputError(str(run_dir), why, "Remove it, or leave it out.") from error


def _read_whole(run_dir: Path) -> RunResult:
    path = run_dir / run_folder.SUMMARY
    if not path.is_file():
        raise InputError(
            str(run_dir), f"has no {run_folder.SUMMARY}: it is no run's folder, or the run has not ended.", "Resume it, or leave it out."
        )
    summary = RunSummary.model_validate_json(path.read_text())
    fields = flat(_mapping(run_dir / run_folder.SPEC))
    environment = _mapping(run_dir / run_folder.ENVIRONMENT)
    plan = _mapping(run_dir / run_folder.PLAN) if (run_dir / run_folder.PLAN).is_file() else {}
    points = tuple(
        Evaluation(record.step, record.samples_seen, record.training_seconds, record.test_accuracy) for record in evaluations(read_records(run_dir))
    )
    return replace(_row(fields, summary, points, environment["device"], plan.get("peak_learning_rate")), folder=run_dir)


class Collected(NamedTuple):
    """What an MLflow experiment holds."""

    results: list[RunResult]
    """Of ended runs, oldest first."""
    num_unended: int
    num_foreign: int
    """Runs that somebody else's program made; there is no telling what they measured."""


def collect_experiment(uri: str, experiment: str) -> Collected:
    """The results of an MLflow experiment's runs.

    Raises: FaultError if MLflow does not answer; InputError if it has no such experiment.
    """
    database = sqlite_database(uri)
    if database is not None and not database.exists():  # MLflow would make an empty one
        raise InputError("--mlflow-uri", f"there is no file {database}.", "Example: sqlite:///runs/mlflow.db.")
    mlflow = import_mlflow()
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
    except Exception as error:  # an address of a kind that it does not know
        raise InputError("--mlflow-uri", f"MLflow cannot use {uri}: {brief(error)}.", "Example: sqlite:///runs/mlflow.db.") from error
    try:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            names = sorted(other.name for other in client.search_experiments())
            raise InputError("--experiment", f"MLflow at {uri} has no experiment {experiment!r}.", f"It has: {', '.join(names)}.")
        runs = [run for run in _runs(client, found.experiment_id) if SWEEP_TAG not in run.data.tags]
        ours = [run for run in runs if RUN_TAG in run.data.tags]
        ended = [run for run in ours if SUMMARY_TAG in run.data.tags]
        return Collected([_read_mlflow(client, run) for run in ended], len(ours) - len(ended), len(runs) - len(ours))
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


def _read_mlflow(client: Any, run: Any) -> RunResult:
    tags = run.data.tags
    summary = RunSummary.model_validate_json(tags[SUMMARY_TAG])
    points = _curve(client, run, summary) if CURVE_TAG not in tags else tuple(Evaluation(*point) for point in json.loads(tags[CURVE_TAG]))
    peak = tags.get("largebatch.peak_learning_rate")
    return _row(as_resumed(run.data.params, tags), summary, points, tags["largebatch.device"], float(peak) if peak else None)


def _curve(client: Any, run: Any, summary: RunSummary) -> tuple[Evaluation, ...]:
    """From the metrics' histories, two requests a run: of long curves, and of runs that an earlier version mirrored."""
    samples = {metric.step: int(metric.value) for metric in client.get_metric_history(run.info.run_id, "test_samples_seen")}
    return tuple(
        Evaluation(metric.step, samples.get(metric.step, metric.step * summary.global_batch_size), (metric.timestamp - run.info.start_time) / 1000,
                   metric.value)
        for metric in sorted(client.get_metric_history(run.info.run_id, "test_accuracy"), key=lambda metric: metric.step)
    )  # fmt: skip


def described(fields: Mapping[str, Any], part: str) -> str:
    """A spec's data set or model in words: `digits`, or `mlp (depth 2, width 512)`.

    Args: fields: of the spec, flat; part: "dataset" or "model".
    """
    return with_arguments(plain_name(fields, part), arguments_of(fields, part))


def plain_name(fields: Mapping[str, Any], part: str) -> str:
    """Name or entry point, without arguments."""
    return str(fields.get(f"{part}.name") or fields.get(f"{part}.entry_point"))


def arguments_of(fields: Mapping[str, Any], part: str) -> dict[str, str]:
    """Keyword arguments, in the order of their names."""
    begin = f"{part}.arguments."
    given = {name.removeprefix(begin): str(value) for name, value in fields.items() if name.startswith(begin) and value not in (None, {}, [])}
    return dict(sorted(given.items()))


def with_arguments(name: str, arguments: Mapping[str, str]) -> str:
    """`mlp (width 512)`; the name alone where there are no arguments."""
    return f"{name} ({', '.join(f'{key} {value}' for key, value in arguments.items())})" if arguments else name


def _row(fields: Mapping[str, Any], summary: RunSummary, points: tuple[Evaluation, ...], device: str, peak: float | None) -> RunResult:
    momentum = fields.get("optimizer.momentum")
    if momentum is None:
        momentum = fields.get("optimizer.beta1")
    kept = {name: str(value) for name, value in fields.items() if not name.startswith(ASIDE) and value not in (None, {}, [])}
    return RunResult(
        name=str(fields["name"]),
        summary=summary,
        evaluations=points,
        dataset=described(fields, "dataset"),
        model=plain_name(fields, "model"),
        optimizer=str(fields["optimizer.name"]),
        momentum=None if momentum is None else float(momentum),
        learning_rate=float(fields["learning_rate.base"]) if peak is None else peak,
        seed=int(fields["seed"]),
        device=device,
        settings=tuple(sorted(kept.items())),
    )
