"""The MLflow mirror: brings MLflow up to a run's journal, as often as need be.

`follow` does it while a run trains, `sync_run` once, for a run whose server was away. Everything sent is a
function of the journal and of `mlflow.json`.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from largebatch.jobs.errors import FaultError, InputError, LargebatchError
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.journal import parse_line, read_records, steps
from largebatch.jobs.run.json_lines import read_lines
from largebatch.jobs.run.records import EndRecord, JournalRecord, Outcome, StartRecord
from largebatch.jobs.tracking import mlflow_store, params
from largebatch.jobs.tracking.metrics import Point, end_points, points_of, step_points
from largebatch.jobs.tracking.mirror_state import MirrorState
from largebatch.jobs.tracking.model import log_model

MACHINE_EVERY_S = 10.0
STATUS = {Outcome.DIVERGED: "FAILED", Outcome.FAILED: "FAILED", Outcome.STOPPED: "KILLED"}


def sync_run(run_dir: Path) -> MirrorState:
    """Bring MLflow up to a run's journal.

    Raises: FaultError if the server does not answer, DeletedError if a person must restore something there; nothing is lost then.
    """
    if not (run_dir / run_folder.SPEC).is_file():
        raise InputError(str(run_dir), f"is not a run's folder: it has no {run_folder.SPEC}.")
    with run_folder.exclusive(run_dir, "mirror"):
        mirror = Mirror(run_dir)
        with mlflow_faults(mirror.uri):
            mirror.catch_up()
            if not mirror.look_up():
                mirror.catch_up()
            mirror.send_last_step()
        return mirror.state


@contextmanager
def mlflow_faults(uri: str) -> Iterator[None]:
    """Turns whatever MLflow raises into one FaultError."""
    try:
        yield
    except LargebatchError:
        raise
    except Exception as error:  # MLflow raises its own, requests' and SQLAlchemy's errors
        raise FaultError(
            "tracking.mlflow_uri", f"MLflow at {uri} does not answer: {mlflow_store.brief(error)}.", "The journal keeps everything; try again later."
        ) from error


class Mirror:
    """One run's way into MLflow. Any method may raise whatever MLflow raises, and DeletedError; calling again goes on from there.

    Args: name: that MLflow shows; None: the folder's; machine_every_s: seconds between two measurements of the machine.
    """

    def __init__(
        self,
        run_dir: Path,
        uri: str | None = None,
        parent_run_id: str | None = None,
        name: str | None = None,
        machine_every_s: float = MACHINE_EVERY_S,
    ) -> None:
        self.run_dir, self._own_uri, self._parent_run_id, self._name = run_dir, uri, parent_run_id, name or run_dir.name
        self.state = MirrorState.read(run_dir)
        self._client: Any = None
        self._machine_every_s = machine_every_s
        self.machine_watch: threading.Thread | None = None
        self.uri = ""
        self._read_spec()

    def _read_spec(self) -> None:
        """The spec and the address of MLflow, which a resume may have changed."""
        self.spec = run_folder.begun_spec(self.run_dir)
        uri = self._own_uri or self.spec.tracking.mlflow_uri or self.state.uri or mlflow_store.default_uri(self.run_dir)
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
                may_be_gone = self.state.run_id is not None and mlflow_store.is_refusal(error, mlflow_store.GONE, mlflow_store.REFUSED)
                if is_last_try or not may_be_gone or self.look_up():
                    raise

    def look_up(self) -> bool:
        """Whether MLflow has this run; where it was deleted for good, or never was, the run begins anew there. Raises: DeletedError."""
        if self.state.run_id is None:
            return False
        if mlflow_store.holds_run(self.client, self.state.run_id, self.uri):
            return True
        self._begin_anew()
        return False

    def has_news(self) -> bool:
        """Whether the journal has grown since the last look."""
        path = self.run_dir / run_folder.JOURNAL
        return path.is_file() and path.stat().st_size > self.state.bytes_read

    def send_last_step(self) -> None:
        """Send the journal's last step, if it was left out: what MLflow shows of a metric is its last value."""
        points = self._last_step() if self.state.run_id is not None else []
        if points:
            self._send_points(points)
            self.state.write(self.run_dir)

    def _last_step(self) -> list[Point]:
        if self.state.last_sent_step >= self.state.last_step:
            return []
        last = max(steps(read_records(self.run_dir)), key=lambda record: record.step, default=None)
        return [*step_points(last, self.state)] if last is not None and last.step > self.state.last_sent_step else []

    def mark_killed(self) -> None:
        """Tell MLflow that the process is gone without an end record."""
        if self.state.run_id and not self.state.is_complete:
            self.send_last_step()
            self._mark_undone_steps()
            self.client.set_terminated(self.state.run_id, "KILLED")

    def watch_machine(self) -> None:
        """Send this machine's CPU, memory, network and GPU too, as MLflow measures them; ends when MLflow's run does."""
        is_watched = self.machine_watch is not None and self.machine_watch.is_alive()
        if is_watched or not self.spec.tracking.system_metrics or self.state.run_id is None or self.state.is_complete:
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor  # optional, as MLflow is

        monitor = SystemMetricsMonitor(self.state.run_id, self._machine_every_s, resume_logging=True, tracking_uri=self.uri)
        self.machine_watch = threading.Thread(target=monitor.monitor, daemon=True)
        self.machine_watch.start()

    @property
    def client(self) -> Any:
        """MLflow's client, connected when it is first needed."""
        if self._client is None:
            self._client = mlflow_store.connect(self.uri, self.run_dir.parent)
        return self._client

    def _begin_anew(self) -> None:
        """From the journal's first line, as another run in MLflow."""
        self.state = MirrorState()
        self.state.write(self.run_dir)

    def _send_unread(self) -> None:
        """Send the journal's records that were not read, some hundred at a time."""
        end = self.state.bytes_read
        while lines := read_lines(self.run_dir / run_folder.JOURNAL, end):
            end = lines[-1].end
            records = [record for line in lines if (record := parse_line(line.content)) is not None]
            if records:
                self._send(records)
                self.state.bytes_read = end
                self.state.write(self.run_dir)

    def _send(self, records: Sequence[JournalRecord]) -> None:
        begins = self.state.run_id is None
        is_made = begins and self._begin(records)
        turns = [record for record in records if isinstance(record, (StartRecord, EndRecord))]
        files = set()
        if begins or any(isinstance(record, StartRecord) for record in records):
            self._describe(is_made)
            files = {run_folder.SPEC, run_folder.PLAN, run_folder.ENVIRONMENT}
        every_s = self.spec.tracking.step_every_seconds
        points = [point for record in records for point in points_of(record, self.state, every_s)]
        if turns and isinstance(turns[-1], EndRecord):
            self._finish(turns[-1], points, files | {run_folder.PLAN, run_folder.FIGURE, run_folder.SUMMARY}, is_made)
            return
        self._send_points(points)
        self._send_files(files)
        if turns:
            self._mark_undone_steps(is_made)
            self.client.update_run(self.state.run_id, status="RUNNING")
            self.state.is_complete = False

    def _send_points(self, points: Sequence[Point]) -> None:
        mlflow_store.send(self.client, self.state.run_id, points=points, base_ms=self.state.base_ms)

    def _begin(self, records: Sequence[JournalRecord]) -> bool:
        """Make the run in MLflow, or find the one that a mirror has made which left no note. Returns whether it was made."""
        client, state, experiment = self.client, self.state, self.spec.tracking.experiment
        began_at_s = next((record.at_s for record in records if isinstance(record, StartRecord)), 0.0)
        state.base_ms, state.uri, state.experiment = int(began_at_s * 1000), self.uri, experiment
        number = mlflow_store.experiment_id(client, experiment, self.uri, self.run_dir.parent)
        tags = {**self._tags(), mlflow_store.BEGAN_TAG: str(began_at_s)}
        state.run_id, is_made = mlflow_store.ensure_run(client, number, tags, params.RUN_TAG, self._name, state.base_ms)
        return is_made

    def _tags(self) -> dict[str, str]:
        parent = {params.PARENT_TAG: self._parent_run_id} if self._parent_run_id else {}
        return params.run_tags(self.spec, self.run_dir) | parent

    def _describe(self, is_made: bool) -> None:
        """Parameters and tags; of a run that is resumed otherwise than it began, what has changed. Args: is_made: just now, with its tags."""
        client, run_id = self.client, self.state.run_id
        now, known_params, known_tags = params.spec_params(self.spec), {}, self._tags()
        if not is_made:
            known = client.get_run(run_id).data
            known_params, known_tags = known.params, known.tags
        tags = self._tags() | params.resumed_tags(now, known_params, known_tags.get(params.NOTE_TAG, ""))
        for tag in known_tags:
            if tag == params.FAILURE_TAG or (tag.startswith(params.RESUMED) and tag not in tags):  # it goes on
                client.delete_tag(run_id, tag)
        new_params = {name: value for name, value in now.items() if name not in known_params}
        new_tags = {name: value for name, value in tags.items() if known_tags.get(name) != value}
        mlflow_store.send(client, run_id, params=new_params, tags=new_tags)
        self.state.write(self.run_dir)

    def _send_files(self, names: Iterable[str]) -> None:
        for name in sorted(names):
            if (self.run_dir / name).is_file():
                self.client.log_artifact(self.state.run_id, str(self.run_dir / name))

    def _mark_undone_steps(self, is_made: bool = False) -> None:
        """Say from which step on MLflow's metrics are of steps that a resume has undone: it deletes none, and shows those of the highest step."""
        client, state = self.client, self.state
        if state.step is None:
            return
        is_undone = state.step < max(state.last_sent_step, state.last_evaluation_step)
        if is_made and not is_undone:
            return
        known = client.get_run(state.run_id).data.tags
        if not is_undone and params.SUPERSEDED_TAG not in known:
            return
        tags = {params.SUPERSEDED_TAG: str(state.step + 1)} if is_undone else {}
        note = params.undone_note(known.get(params.NOTE_TAG, ""), state.step + 1 if is_undone else None)
        if note is not None and note != known.get(params.NOTE_TAG, ""):
            tags[params.NOTE_TAG] = note
        mlflow_store.send(client, state.run_id, tags=tags)
        if not is_undone:
            client.delete_tag(state.run_id, params.SUPERSEDED_TAG)

    def _finish(self, record: EndRecord, points: Sequence[Point], files: Iterable[str], is_made: bool) -> None:
        client, run_id, summary = self.client, self.state.run_id, record.summary
        points = [*points, *self._last_step(), *end_points(summary)]
        mlflow_store.send(client, run_id, points, self.state.base_ms, tags=params.end_tags(self.run_dir, summary))
        self._mark_undone_steps(is_made)
        self._send_files(files)
        newest = next((path for path, kind, *_ in list_checkpoints(self.run_dir / run_folder.CHECKPOINTS) if kind == "step"), None)
        if self.spec.tracking.log_checkpoint and newest is not None:
            client.log_artifact(run_id, str(newest), "checkpoints")
        if self.spec.tracking.logs_model and not self.state.has_model:
            log_model(self.run_dir, self.spec, self.uri, str(run_id))
            self.state.has_model = True
        client.set_terminated(run_id, STATUS.get(summary.outcome, "FINISHED"))
        self.state.is_complete = True
        self.state.write(self.run_dir)
