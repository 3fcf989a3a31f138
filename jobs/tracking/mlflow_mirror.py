"""The MLflow mirror: brings MLflow up to a run's journal, as often as need be.

`follow` does it while a run trains, `sync_run` once, for a run whose server was away. Everything sent is a
function of the journal and of `mlflow.json`.

MLflow's time axis is the training clock: a metric's timestamp is the run's start plus its training seconds.
"""

import fcntl
import importlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs import run_folder
from jobs.checkpoint_files import list_checkpoints
from jobs.errors import FaultError, InputError
from jobs.records import EndRecord, EvalRecord, JournalRecord, Outcome, StartRecord, StepRecord
from jobs.spec import TrainSpec
from jobs.spec_reader import build_spec
from jobs.tracking.journal import evaluations, parse_line, read_records
from jobs.tracking.mirror_state import MirrorState

BATCH = 900
"""Metrics in one request; MLflow takes at most 1000."""
MACHINE_EVERY_S = 10.0
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Lets MLflow's page open on training runs, not on traces of language models."""
RUN_TAG = "largebatch.run_id"
"""The run's folder's name; what has it is ours, and no sweep's parent."""
BEGAN_TAG = "largebatch.began_at_s"
"""When it first began, in Unix seconds: names are given again (every sweep has a `0000-batch-32-seed-0`), moments are not."""
SUMMARY_TAG = "largebatch.summary"
"""The whole summary, so that an analysis gets a thousand runs in one answer."""
CURVE_TAG = "largebatch.curve"
"""[step, samples, training seconds, test accuracy] of every evaluation, for the same reason; left out where it is too long for a tag."""
LONGEST_TAG = 5000
STATUS = {Outcome.DIVERGED: "FAILED", Outcome.STOPPED: "KILLED"}


def sync_run(run_dir: Path) -> MirrorState:
    """Bring MLflow up to a run's journal. Raises: FaultError if the server does not answer; nothing is lost then."""
    if not (run_dir / run_folder.SPEC).is_file():
        raise InputError(str(run_dir), f"is not a run's folder: it has no {run_folder.SPEC}.")
    with run_folder.exclusive(run_dir, "mirror"):
        mirror = Mirror(run_dir)
        try:
            mirror.catch_up()
        except Exception as error:  # MLflow raises its own, requests' and SQLAlchemy's errors
            raise FaultError(
                "tracking.mlflow_uri", f"MLflow at {mirror.uri} does not answer: {brief(error)}.", "The journal keeps everything; try again later."
            ) from error
        return mirror.state


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


def default_uri(run_dir: Path) -> str:
    """MLFLOW_TRACKING_URI, or an SQLite file beside the runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run_dir.resolve().parent / 'mlflow.db'}"


class Mirror:
    """One run's way into MLflow. Any method may raise whatever MLflow raises; calling again goes on from there."""

    def __init__(self, run_dir: Path, uri: str | None = None, parent_run_id: str | None = None) -> None:
        self.run_dir, self._parent_run_id = run_dir, parent_run_id
        self.spec: TrainSpec = build_spec(json.loads((run_dir / run_folder.SPEC).read_text()))
        self.state = MirrorState.read(run_dir)
        self.uri = uri or self.spec.tracking.mlflow_uri or self.state.uri or default_uri(run_dir)
        self._client: Any = None
        self._monitor: Any = None

    def catch_up(self) -> None:
        """Send what the journal has and MLflow has not."""
        try:
            for records, end in self._unread():
                if not records:
                    continue
                self._ensure_run(records)
                self._send(records)
                self.state.bytes_read = end
                self.state.write(self.run_dir)
        except BaseException:
            # What was not sent must not count as weighed; MLflow keeps one of what it gets twice.
            self.state = MirrorState.read(self.run_dir)
            raise

    def has_news(self) -> bool:
        """Whether the journal has grown since the last look."""
        path = self.run_dir / run_folder.JOURNAL
        return path.is_file() and path.stat().st_size > self.state.bytes_read

    def mark_killed(self) -> None:
        """Tell MLflow that the process is gone without an end record."""
        if self.state.run_id and not self.state.is_complete:
            self._connect().set_terminated(self.state.run_id, "KILLED")

    def watch_machine(self) -> None:
        """Send this machine's CPU, memory, network and GPU too, as MLflow measures them; goes on by itself until the run ends."""
        watches = self._monitor is not None and self._monitor._process is not None and self._monitor._process.is_alive()
        if watches or not self.spec.tracking.system_metrics or self.state.run_id is None or self.state.is_complete:
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(self.state.run_id, MACHINE_EVERY_S, resume_logging=True, tracking_uri=self.uri)
        self._monitor.start()

    def leave_machine(self) -> None:
        """Watch no longer."""
        if self._monitor is not None:
            self._monitor._shutdown_event.set()

    def _unread(self) -> Iterator[tuple[list[JournalRecord], int]]:
        """Whole lines of the journal that were not read, some hundred at a time, with the place after them."""
        path = self.run_dir / run_folder.JOURNAL
        if not path.is_file():
            return
        with path.open("rb") as file:
            file.seek(self.state.bytes_read)
            while True:
                lines = [line for line in file.readlines(200_000) if line.endswith(b"\n")]
                if not lines:
                    return
                records = [record for line in lines if (record := parse_line(line.decode(errors="replace"))) is not None]
                end = self.state.bytes_read + sum(map(len, lines))
                yield records, end
                file.seek(end)

    def _connect(self) -> Any:
        if self._client is None:
            mlflow = import_mlflow()
            make_database(mlflow, self.uri, self.run_dir.parent)
            self._client = mlflow.MlflowClient(tracking_uri=self.uri)
        return self._client

    def _ensure_run(self, records: list[JournalRecord]) -> None:
        client, state = self._connect(), self.state
        if state.run_id is not None:
            return
        started = next((record.at_s for record in records if isinstance(record, StartRecord)), 0.0)
        state.base_ms, state.uri = int(started * 1000), self.uri
        number = experiment_id(client, self.spec.tracking.experiment, self.uri, self.run_dir.parent)
        state.run_id = ensure_run(client, number, {**self._tags(), BEGAN_TAG: str(started)}, RUN_TAG, self.run_dir.name, state.base_ms)
        from mlflow.entities import Param

        params = [Param(name, str(value)[:6000]) for name, value in flat(self.spec.model_dump(mode="json")).items() if value not in (None, {}, [])]
        for start in range(0, len(params), 100):
            client.log_batch(state.run_id, params=params[start : start + 100])
        for name in (run_folder.SPEC, run_folder.PLAN, run_folder.ENVIRONMENT):
            client.log_artifact(state.run_id, str(self.run_dir / name))
        state.write(self.run_dir)

    def _tags(self) -> dict[str, str]:
        environment = json.loads((self.run_dir / run_folder.ENVIRONMENT).read_text())
        plan = json.loads((self.run_dir / run_folder.PLAN).read_text())
        return {
            "largebatch.recipe": self.spec.name,
            RUN_TAG: self.run_dir.name,
            "largebatch.global_batch_size": str(plan["global_batch_size"]),
            "largebatch.peak_learning_rate": str(plan["peak_learning_rate"]),
            "largebatch.optimizer": self.spec.optimizer.name,
            "largebatch.dataset": str(self.spec.dataset.name or self.spec.dataset.entry_point),
            "largebatch.device": environment["device"],
            **({"mlflow.parentRunId": self._parent_run_id} if self._parent_run_id else {}),
            "largebatch.clock": "training seconds; evaluation, checkpoints and kernel warm-up are not counted",
        }

    def _send(self, records: list[JournalRecord]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, float(value), self.state.base_ms + max(round(seconds * 1000), 0), step)
            for record in records
            for name, value, seconds, step in self._metrics(record)
        ]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self.state.run_id, metrics=metrics[start : start + BATCH])
        turns = [record for record in records if isinstance(record, (StartRecord, EndRecord))]
        if turns and isinstance(turns[-1], EndRecord):
            self._finish(turns[-1])
        elif turns:
            self._client.update_run(self.state.run_id, status="RUNNING")
            self.state.is_complete = False

    def _metrics(self, record: JournalRecord) -> Iterator[tuple[str, float, float, int]]:
        """(name, value, training seconds, step) of what MLflow keeps of a record."""
        state = self.state
        if isinstance(record, StepRecord) and record.step > state.last_step:
            state.last_step = record.step
            every = self.spec.tracking.step_every_seconds
            # A run that was killed and repeats steps faster is behind the clock of the last one sent; that is no reason to skip.
            if state.last_sent_s is not None and 0 <= record.training_seconds - state.last_sent_s < every:
                return
            state.last_sent_s = record.training_seconds
            names: tuple[str, ...] = (
                "loss",
                "learning_rate",
                "gradient_norm",
                "global_batch_size",
                "samples_seen",
                "epoch",
                "training_seconds",
                "gain",
            )
        elif isinstance(record, EvalRecord) and record.step > state.last_evaluation_step:
            state.last_evaluation_step = record.step
            names = ("test_accuracy", "test_loss", "evaluation_seconds")
            # Under a name of its own: step records, which are sent now and then, have samples_seen at this step too.
            yield "test_samples_seen", record.samples_seen, record.training_seconds, record.step
        else:
            return
        for name in names:
            value = getattr(record, name)
            if value is not None:
                yield name, value, record.training_seconds, record.step

    def _finish(self, record: EndRecord) -> None:
        client, run_id, summary = self._client, self.state.run_id, record.summary
        from mlflow.entities import Metric

        at_ms = self.state.base_ms + round(summary.training_seconds * 1000)
        names = (
            "samples_per_second", "time_to_accuracy_seconds", "steps_to_accuracy", "best_test_accuracy", "train_accuracy",
            "gradient_noise_scale", "wall_seconds",
        )  # fmt: skip
        values = {f"final_{name}": getattr(summary, name) for name in names}
        client.log_batch(run_id, metrics=[Metric(name, float(value), at_ms, summary.steps) for name, value in values.items() if value is not None])
        client.set_tag(run_id, "largebatch.outcome", summary.outcome.value)
        client.set_tag(run_id, SUMMARY_TAG, summary.model_dump_json())
        points = evaluations(read_records(self.run_dir))
        curve = json.dumps([[at.step, at.samples_seen, round(at.training_seconds, 4), at.test_accuracy] for at in points], separators=(",", ":"))
        if len(curve) <= LONGEST_TAG:
            client.set_tag(run_id, CURVE_TAG, curve)
        for name in (run_folder.PLAN, run_folder.FIGURE, run_folder.SUMMARY):
            if (self.run_dir / name).is_file():
                client.log_artifact(run_id, str(self.run_dir / name))
        newest = [checkpoint for checkpoint in list_checkpoints(self.run_dir / run_folder.CHECKPOINTS) if checkpoint.kind == "step"]
        if self.spec.tracking.log_checkpoint and newest:
            client.log_artifact(run_id, str(newest[0].path), "checkpoints")
        client.set_terminated(run_id, STATUS.get(summary.outcome, "FINISHED"))
        self.state.is_complete = True
        self.state.write(self.run_dir)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Runs that start together must not create the experiment, or its database, twice."""
    with (folder / ".mlflow.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def experiment_id(client: Any, name: str, uri: str, folder: Path) -> str:
    """MLflow's number of an experiment, which is made if it is not there. Args: folder: where runs that begin together meet."""
    with _one_at_a_time(folder):
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        # MLflow's own default for a database is ./mlruns, wherever this process happens to stand.
        database = uri.removeprefix("sqlite:///") if uri.startswith("sqlite:///") else None
        artifacts = (Path(database).resolve().parent / "mlflow-artifacts").as_uri() if database else None
        return str(client.create_experiment(name, artifact_location=artifacts, tags=EXPERIMENT_TAGS))


def ensure_run(client: Any, experiment: str, tags: dict[str, str], identity: str, run_name: str, start_ms: int) -> str:
    """MLflow's id of the run that has the same `identity` tag and began at the same moment; made if there is none.

    A mirror that was killed right after creating the run left it without a note of its own.
    """
    # The name is compared here: a folder's may hold what a filter cannot.
    found = client.search_runs([experiment], f"tags.`{BEGAN_TAG}` = '{tags[BEGAN_TAG]}'")
    for run in found:
        if run.data.tags.get(identity) == tags[identity]:
            return str(run.info.run_id)
    return str(client.create_run(experiment, start_ms, tags=tags, run_name=run_name).info.run_id)


def make_database(mlflow: Any, uri: str, folder: Path) -> None:
    """An empty store for a SQLite address that has none. Args: folder: see `experiment_id`."""
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not database.exists():
        with _one_at_a_time(folder):
            _make_whole(mlflow, database)


def _make_whole(mlflow: Any, database: Path) -> None:
    """Whole or not at all: one whose first migrations were cut short by a kill never opens again."""
    if database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    for left in database.parent.glob(f".{database.name}.*.part"):
        left.unlink()
    # A name of its own for each try: MLflow remembers stores by their address.
    partial = database.with_name(f".{database.name}.{time.time_ns()}.part")
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{partial}").search_experiments(max_results=1)
    partial.replace(database)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields under dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found


def brief(error: BaseException) -> str:
    """The first line of what an error says."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]
