"""The MLflow mirror: brings MLflow up to a run's journal, as often as need be.

`follow` does it while a run trains, `sync_run` once, for a run whose server was away. Everything sent is a
function of the journal and of `mlflow.json`.

MLflow's time axis is the training clock: a metric's timestamp is the run's start plus its training seconds.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from largebatch.jobs.errors import FaultError, InputError, LargebatchError
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.journal import evaluations, failure, parse_line, read_records, steps
from largebatch.jobs.run.json_lines import read_lines
from largebatch.jobs.run.records import EndRecord, EvalRecord, JournalRecord, Outcome, StartRecord, StepRecord
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.mirror_state import MirrorState
from largebatch.jobs.tracking.mlflow_store import (
    BEGAN_TAG,
    GONE,
    REFUSED,
    brief,
    connect,
    default_uri,
    ensure_run,
    experiment_id,
    holds_run,
    is_refusal,
)

BATCH = 900
"""Metrics in one request; MLflow takes at most 1000."""
MACHINE_EVERY_S = 10.0
RUN_TAG = "largebatch.run_id"
"""The run's folder's name; what has it is ours, and no sweep's parent."""
SUMMARY_TAG = "largebatch.summary"
"""The whole summary, so that an analysis gets a thousand runs in one answer."""
CURVE_TAG = "largebatch.curve"
"""[step, samples, training seconds, test accuracy] of every evaluation, for the same reason; left out where it is too long for a tag."""
RESUMED = "resumed."
"""Begins the tag of a parameter that a resume has changed, such as `resumed.stop.epochs`: a parameter in MLflow keeps its first value."""
NO_VALUE = "null"
"""Such a tag's value where the spec has the field no longer."""
NOTE_TAG, NOTE, UNDONE = "mlflow.note.content", "Resumed with ", "Undone: "
"""MLflow's description of a run, and how our paragraphs of it begin."""
SUPERSEDED_TAG = "largebatch.superseded_from_step"
"""The first step whose metrics MLflow keeps although a resume has undone it, and the run has not come so far again."""
STEP_METRICS = (
    "loss", "learning_rate", "gradient_norm", "global_batch_size", "samples_seen", "epoch", "training_seconds", "gain",
)  # fmt: skip
LONGEST_TAG = 5000
LONGEST_PARAM = 6000
FAILURE_TAG = "largebatch.failure"
"""What a run failed of."""
STATUS = {Outcome.DIVERGED: "FAILED", Outcome.FAILED: "FAILED", Outcome.STOPPED: "KILLED"}


class Point(NamedTuple):
    """One value of a metric."""

    name: str
    value: float
    training_seconds: float
    step: int


def sync_run(run_dir: Path) -> MirrorState:
    """Bring MLflow up to a run's journal.

    Raises: FaultError if the server does not answer, DeletedError if a person must restore something there; nothing is lost then.
    """
    if not (run_dir / run_folder.SPEC).is_file():
        raise InputError(str(run_dir), f"is not a run's folder: it has no {run_folder.SPEC}.")
    with run_folder.exclusive(run_dir, "mirror"):
        mirror = Mirror(run_dir)
        with unanswered_in_words(mirror.uri):
            mirror.catch_up()
            if not mirror.look_up():
                mirror.catch_up()
            mirror.send_last_step()
        return mirror.state


@contextmanager
def unanswered_in_words(uri: str) -> Iterator[None]:
    """Turns whatever MLflow raises into one FaultError."""
    try:
        yield
    except LargebatchError:
        raise
    except Exception as error:  # MLflow raises its own, requests' and SQLAlchemy's errors
        raise FaultError(
            "tracking.mlflow_uri", f"MLflow at {uri} does not answer: {brief(error)}.", "The journal keeps everything; try again later."
        ) from error


class Mirror:
    """One run's way into MLflow. Any method may raise whatever MLflow raises, and DeletedError; calling again goes on from there."""

    def __init__(self, run_dir: Path, uri: str | None = None, parent_run_id: str | None = None) -> None:
        self.run_dir, self._given_uri, self._parent_run_id = run_dir, uri, parent_run_id
        self.state = MirrorState.read(run_dir)
        self._client: Any = None
        self._monitor: Any = None
        self.uri = ""
        self._read_spec()

    def _read_spec(self) -> None:
        """The spec and the address of MLflow, which a resume may have changed."""
        self.spec: TrainSpec = run_folder.begun_spec(self.run_dir)
        uri = self._given_uri or self.spec.tracking.mlflow_uri or self.state.uri or default_uri(self.run_dir)
        if uri != self.uri:
            self.uri, self._client = uri, None

    def catch_up(self) -> None:
        """Send what the journal has and MLflow has not."""
        for is_last_try in (False, True):
            if not self.has_news():
                return
            try:
                self._read_spec()
                if self.state.experiment not in {None, self.spec.tracking.experiment}:
                    self._begin_anew()
                self._send_unread()
            except Exception as error:
                # What was not sent must not count as weighed; MLflow keeps one of what it gets twice.
                self.state = MirrorState.read(self.run_dir)
                may_be_gone = self.state.run_id is not None and is_refusal(error, GONE, REFUSED)
                if is_last_try or not may_be_gone or self.look_up():
                    raise

    def look_up(self) -> bool:
        """Whether MLflow has this run; where it was deleted for good, or never was, the run begins anew there. Raises: DeletedError."""
        if self.state.run_id is None:
            return False
        if holds_run(self._connect(), self.state.run_id, self.uri):
            return True
        self._begin_anew()
        return False

    def _begin_anew(self) -> None:
        """From the journal's first line, as another run in MLflow."""
        self.state = MirrorState()
        self.state.write(self.run_dir)

    def _send_unread(self) -> None:
        for records, end in self._unread():
            if not records:
                continue
            is_new = self.state.run_id is None
            if is_new:
                self._begin(records)
            if is_new or any(isinstance(record, StartRecord) for record in records):
                self._describe()
            self._send(records)
            self.state.bytes_read = end
            self.state.write(self.run_dir)

    def has_news(self) -> bool:
        """Whether the journal has grown since the last look."""
        path = self.run_dir / run_folder.JOURNAL
        return path.is_file() and path.stat().st_size > self.state.bytes_read

    def send_last_step(self) -> None:
        """Send the journal's last step, if it was left out: what MLflow shows of a metric is its last value."""
        if self.state.run_id is None or self.state.last_sent_step >= self.state.last_step:
            return
        last = max(steps(read_records(self.run_dir)), key=lambda record: record.step, default=None)
        if last is not None and last.step > self.state.last_sent_step:
            self._connect()
            self._log(self._step_metrics(last))
            self.state.write(self.run_dir)

    def mark_killed(self) -> None:
        """Tell MLflow that the process is gone without an end record."""
        if self.state.run_id and not self.state.is_complete:
            self.send_last_step()
            self._tell_what_is_undone()
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
        """The journal's records that were not read, some hundred at a time, each time with the offset after them."""
        end = self.state.bytes_read
        while lines := read_lines(self.run_dir / run_folder.JOURNAL, end):
            end = lines[-1].end
            yield [record for line in lines if (record := parse_line(line.content)) is not None], end

    def _connect(self) -> Any:
        if self._client is None:
            self._client = connect(self.uri, self.run_dir.parent)
        return self._client

    def _begin(self, records: list[JournalRecord]) -> None:
        """Make the run in MLflow, or find the one that a mirror has made which left no note."""
        client, state, experiment = self._connect(), self.state, self.spec.tracking.experiment
        started = next((record.at_s for record in records if isinstance(record, StartRecord)), 0.0)
        state.base_ms, state.uri, state.experiment = int(started * 1000), self.uri, experiment
        number = experiment_id(client, experiment, self.uri, self.run_dir.parent)
        state.run_id = ensure_run(client, number, {**self._tags(), BEGAN_TAG: str(started)}, RUN_TAG, self.run_dir.name, state.base_ms)

    def _describe(self) -> None:
        """Parameters, tags and files; of a run that is resumed otherwise than it began, what has changed."""
        from mlflow.entities import Param, RunTag

        client, run_id = self._connect(), self.state.run_id
        known = client.get_run(run_id).data
        values = {name: str(value) for name, value in flat(self.spec.model_dump(mode="json")).items() if value not in (None, {}, [])}
        params = [Param(name, value[:LONGEST_PARAM]) for name, value in values.items() if name not in known.params]
        for start in range(0, len(params), 100):
            client.log_batch(run_id, params=params[start : start + 100])
        changed = {name: values.get(name, NO_VALUE) for name, first in known.params.items() if values.get(name, NO_VALUE)[:LONGEST_PARAM] != first}
        for tag in known.tags:
            if tag == FAILURE_TAG or (tag.startswith(RESUMED) and tag.removeprefix(RESUMED) not in changed):  # it goes on
                client.delete_tag(run_id, tag)
        tags = self._tags() | {f"{RESUMED}{name}": value[:LONGEST_TAG] for name, value in changed.items()}
        what = ", ".join(f"{name} {value}" for name, value in changed.items())
        told = f"{NOTE}{what}: the parameters show what the run began with, for MLflow's cannot change."
        if changed and (note := with_paragraph(known.tags.get(NOTE_TAG, ""), NOTE, told)) is not None:
            tags[NOTE_TAG] = note
        news = [RunTag(name, value) for name, value in tags.items() if known.tags.get(name) != value]
        if news:
            client.log_batch(run_id, tags=news)
        for file in (run_folder.SPEC, run_folder.PLAN, run_folder.ENVIRONMENT):
            client.log_artifact(run_id, str(self.run_dir / file))
        self.state.write(self.run_dir)

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
        self._log(metric for record in records for metric in self._metrics(record))
        turns = [record for record in records if isinstance(record, (StartRecord, EndRecord))]
        if turns and isinstance(turns[-1], EndRecord):
            self._finish(turns[-1])
        elif turns:
            self._tell_what_is_undone()
            self._client.update_run(self.state.run_id, status="RUNNING")
            self.state.is_complete = False

    def _tell_what_is_undone(self) -> None:
        """Say from which step on MLflow's metrics are of steps that a resume has undone: it deletes none, and shows those of the highest step."""
        from mlflow.entities import RunTag

        client, state = self._connect(), self.state
        if state.step is None:
            return
        told = client.get_run(state.run_id).data.tags
        is_undone = state.step < max(state.last_sent_step, state.last_evaluation_step)
        if not is_undone and SUPERSEDED_TAG not in told:
            return
        first = str(state.step + 1)
        words = f"{UNDONE}steps from {first} on, by a resume from an earlier one. MLflow keeps their metrics; final_* are the run's own, at its end."
        tags = {SUPERSEDED_TAG: first} if is_undone else {}
        note = with_paragraph(told.get(NOTE_TAG, ""), UNDONE, words if is_undone else "")
        if note is not None and note != told.get(NOTE_TAG, ""):
            tags[NOTE_TAG] = note
        client.log_batch(state.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        if not is_undone:
            client.delete_tag(state.run_id, SUPERSEDED_TAG)

    def _log(self, points: Iterable[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, float(value), self.state.base_ms + max(round(seconds * 1000), 0), step) for name, value, seconds, step in points]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self.state.run_id, metrics=metrics[start : start + BATCH])

    def _metrics(self, record: JournalRecord) -> Iterator[Point]:
        """What MLflow keeps of a record as it comes."""
        state = self.state
        if isinstance(record, (StartRecord, StepRecord)):
            state.step = record.step
        if isinstance(record, StepRecord) and record.step > state.last_step:
            state.last_step = record.step
            every = self.spec.tracking.step_every_seconds
            # A run that was killed and repeats steps faster is behind the clock of the last one sent; that is no reason to skip.
            if state.last_sent_s is None or not 0 <= record.training_seconds - state.last_sent_s < every:
                yield from self._step_metrics(record)
        elif isinstance(record, EvalRecord) and record.step > state.last_evaluation_step:
            state.last_evaluation_step = record.step
            # Under a name of its own: step records, which are sent now and then, have samples_seen at this step too.
            yield Point("test_samples_seen", record.samples_seen, record.training_seconds, record.step)
            yield from _points(record, ("test_accuracy", "test_loss", "evaluation_seconds"))

    def _step_metrics(self, record: StepRecord) -> Iterator[Point]:
        self.state.last_sent_s, self.state.last_sent_step = record.training_seconds, record.step
        yield from _points(record, STEP_METRICS)

    def _finish(self, record: EndRecord) -> None:
        client, run_id, summary = self._client, self.state.run_id, record.summary
        from mlflow.entities import Metric

        at_ms = self.state.base_ms + round(summary.training_seconds * 1000)
        names = (
            "samples_per_second", "time_to_accuracy_seconds", "steps_to_accuracy", "best_test_accuracy", "train_accuracy",
            "gradient_noise_scale", "wall_seconds", "steps", "epochs", "samples_seen", "training_seconds", "test_accuracy",
        )  # fmt: skip
        values = {f"final_{name}": getattr(summary, name) for name in names}
        client.log_batch(run_id, metrics=[Metric(name, float(value), at_ms, summary.steps) for name, value in values.items() if value is not None])
        self.send_last_step()
        self._tell_what_is_undone()
        client.set_tag(run_id, "largebatch.outcome", summary.outcome.value)
        client.set_tag(run_id, SUMMARY_TAG, summary.model_dump_json())
        records = read_records(self.run_dir)
        reason = failure(records) if summary.outcome is Outcome.FAILED else None
        if reason is not None:
            client.set_tag(run_id, FAILURE_TAG, reason[:LONGEST_TAG])
        points = evaluations(records)
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


def _points(record: StepRecord | EvalRecord, names: Iterable[str]) -> Iterator[Point]:
    for name in names:
        value = getattr(record, name)
        if value is not None:
            yield Point(name, value, record.training_seconds, record.step)


def with_paragraph(note: str, beginning: str, text: str) -> str | None:
    """A run's description with a paragraph of ours in place of the one that begins so; empty: without. None: a person wrote it, and it stays."""
    paragraphs = [paragraph for paragraph in note.split("\n\n") if paragraph]
    if not all(paragraph.startswith((NOTE, UNDONE)) for paragraph in paragraphs):
        return None
    kept = [paragraph for paragraph in paragraphs if not paragraph.startswith(beginning)]
    return "\n\n".join([*kept, *filter(None, [text])])[:LONGEST_TAG]


def as_resumed(params: dict[str, str], tags: dict[str, str]) -> dict[str, str]:
    """The parameters of a run in MLflow as its last resume left them."""
    changed = {name.removeprefix(RESUMED): value for name, value in tags.items() if name.startswith(RESUMED)}
    return {name: value for name, value in (params | changed).items() if value != NO_VALUE}


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields under dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found
