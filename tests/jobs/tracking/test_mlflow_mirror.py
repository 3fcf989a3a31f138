"""The MLflow mirror against real stores and a real server: nothing lost, nothing twice, no training step waited for."""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_records
import pytest
import small_runs
from forked import Forked
from made_records import drop_end
from ports import free_port
from small_runs import ROOT, wait_for

from largebatch.jobs.errors import FaultError, InputError
from largebatch.jobs.launch.local import train_locally
from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.journal import Journal, evaluations, read_records, steps
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import RunSummary, StartRecord, StepRecord
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.tracking.folder_mirror import sync_folder
from largebatch.jobs.tracking.follower import catch_up_others
from largebatch.jobs.tracking.mirror_process import MirrorProcess
from largebatch.jobs.tracking.mirror_state import MirrorState
from largebatch.jobs.tracking.mlflow_mirror import Mirror, sync_run

STEP_METRICS = {"loss", "learning_rate", "gradient_norm", "global_batch_size", "samples_seen", "epoch", "training_seconds"}


@pytest.fixture(scope="module")
def server(store: str, client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server on the same store."""
    port, folder = free_port(), tmp_path_factory.mktemp("server")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
             "--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, cwd=folder, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        uri, patience = f"http://127.0.0.1:{port}", time.monotonic() + 90
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < patience, "the server does not come up"
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=1):
                break
            time.sleep(0.1)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Door:
    """A port that leads to the server while it is open, and refuses while it is shut: a server that is away."""

    def __init__(self, server: str) -> None:
        self.target = ("127.0.0.1", int(server.rpartition(":")[2]))
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._is_open = False
        self._threads: list[threading.Thread] = []

    def open(self) -> None:
        self._is_open = True
        listener = socket.create_server(("127.0.0.1", self.port))
        listener.settimeout(0.05)
        self._start(self._accept, listener)

    def shut(self) -> None:
        """Refuse new connections and cut those that are there."""
        self._is_open = False
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _start(self, work: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while self._is_open:
                with contextlib.suppress(TimeoutError):
                    near, _ = listener.accept()
                    self._start(self._pass_on, near, socket.create_connection(self.target))

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        with near, far, contextlib.suppress(OSError):
            while self._is_open:
                for ready in select.select([near, far], [], [], 0.05)[0]:
                    content = ready.recv(65536)
                    if not content:
                        return
                    (far if ready is near else near).sendall(content)


@pytest.fixture
def door(server: str) -> Iterator[Door]:
    made = Door(server)
    yield made
    made.shut()


def document(uri: str | None, **parts: Any) -> dict[str, Any]:
    return small_runs.document(**{**parts, "tracking": {"mlflow_uri": uri, "step_every_seconds": 0.0, **parts.get("tracking", {})}})


def unmirrored(given: dict[str, Any], run_dir: Path, *, stop_after: int = 0, resumes: bool = False) -> RunSummary:
    """Train without a mirror, as on a machine whose network is away; `sync_run` comes later."""
    done: list[StepRecord] = []
    listener = Listener(
        on_record=lambda record: done.append(record) if isinstance(record, StepRecord) else None,
        should_stop=lambda: len(done) == stop_after,
    )
    return small_runs.trained(small_runs.prepared(**given), run_dir, listener, resumes=resumes)


def mirrored(given: dict[str, Any], runs: Path) -> tuple[RunSummary, list[str]]:
    """Train with the mirror's own process beside; what was said comes along."""
    said: list[str] = []
    options = TrainOptions(data_dir=Path("nowhere"), output_dir=runs, device="cpu")
    return train_locally(small_runs.prepared(**given), options, Listener(on_notice=said.append)), said


def assert_holds_the_journal(client: Any, run_dir: Path, status: str = "FINISHED") -> Any:
    """Every step and evaluation of the journal once, at the training clock's time. Returns MLflow's run."""
    state = MirrorState.read(run_dir)
    run = client.get_run(state.run_id)
    assert run.info.status == status
    records = read_records(run_dir)
    base_ms = next(int(record.at_s * 1000) for record in records if isinstance(record, StartRecord))
    assert (state.base_ms, run.info.start_time) == (base_ms, base_ms)

    def sent(name: str) -> list[tuple[int, float, int]]:
        history = [(metric.step, metric.value, metric.timestamp) for metric in client.get_metric_history(state.run_id, name)]
        return sorted(history)

    def want(record: Any, name: str) -> tuple[int, float, int]:
        return record.step, float(getattr(record, name)), base_ms + round(record.training_seconds * 1000)

    for name in STEP_METRICS:
        assert sent(name) == [want(record, name) for record in steps(records)], name
    assert sent("evaluation_seconds") == [want(record, "evaluation_seconds") for record in evaluations(records)]
    assert sent("test_accuracy") == [want(record, "score") for record in evaluations(records)]
    assert sent("test_loss") == [want(record, "loss") for record in evaluations(records)]
    return run


def artifacts(client: Any, run_id: str) -> set[str]:
    return {file.path for file in client.list_artifacts(run_id)}


def test_a_run_beside_its_own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Any, store: str) -> None:
    """With no address given it is MLFLOW_TRACKING_URI; the mirror runs in a process of its own, which is told of any folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    summary, said = mirrored(document(None, loss={"label_smoothing": 0.1}), tmp_path / 'two\nlines and "words"')
    run_dir = Path(summary.run_dir)
    assert said == []
    run = assert_holds_the_journal(client, run_dir)
    assert summary.mlflow_run_id == run.info.run_id
    assert json.loads((run_dir / "summary.json").read_text())["mlflow_run_id"] == run.info.run_id
    assert run.info.run_name == run_dir.name
    params = run.data.params
    assert (params["batch.global_batch_size"], params["loss.label_smoothing"], params["optimizer.name"]) == ("16", "0.1", "sgd")
    assert (params["dataset.arguments.shape"], params["stop.steps"]) == ("[1, 4, 4]", "8")
    assert "optimizer.trust_coefficient" not in params, "sgd reads none"
    tags = run.data.tags
    assert (tags["largebatch.recipe"], tags["largebatch.run_id"], tags["largebatch.outcome"]) == ("run", run_dir.name, "completed")
    assert (tags["largebatch.global_batch_size"], tags["largebatch.optimizer"], tags["largebatch.dataset"]) == ("16", "sgd", "synthetic")
    assert tags["largebatch.device"].startswith("cpu")
    assert run.data.metrics["final_wall_seconds"] == pytest.approx(summary.wall_seconds)
    assert "final_time_to_target_seconds" not in run.data.metrics, "without a target there is no time to it"
    state = MirrorState.read(run_dir)
    assert state.is_complete
    assert state.uri == store
    assert (state.last_step, state.bytes_read) == (8, (run_dir / "records.jsonl").stat().st_size)


def test_a_stopped_run_goes_on_in_the_same_mlflow_run(tmp_path: Path, client: Any, store: str) -> None:
    run_dir = tmp_path / "stopped-and-resumed"
    unmirrored(document(store), run_dir, stop_after=3)
    first = sync_run(run_dir)
    assert first.is_complete
    run = assert_holds_the_journal(client, run_dir, "KILLED")
    assert run.data.tags["largebatch.outcome"] == "stopped"
    unmirrored(document(store), run_dir, resumes=True)
    again = sync_run(run_dir)
    assert again.run_id == first.run_id
    assert_holds_the_journal(client, run_dir)
    assert sync_run(run_dir) == again, "a further sync has nothing to do"
    assert_holds_the_journal(client, run_dir)


def test_steps_that_a_resumed_run_repeats_are_not_sent_twice(tmp_path: Path, client: Any, store: str) -> None:
    """The mirror was quick, the checkpoint was not: MLflow has steps 1 ... 5, the run goes on from 2."""
    run_dir = tmp_path / "repeated"
    given = document(store, checkpoint={"every_steps": 2, "keep": 9}, stop={"steps": 5})
    unmirrored(given, run_dir)
    sync_run(run_dir)
    for path in (run_dir / "checkpoints").iterdir():
        if int(path.name[5:13]) > 2:
            path.unlink()
    unmirrored({**given, "stop": {"steps": 7}}, run_dir, resumes=True)
    state = sync_run(run_dir)
    history = client.get_metric_history(state.run_id, "loss")
    assert sorted(metric.step for metric in history) == [1, 2, 3, 4, 5, 6, 7]
    # The repeated steps have the same losses to the last bit: those of the first process stand for both.
    assert [metric.value for metric in sorted(history, key=lambda m: m.step)] == [record.loss for record in steps(read_records(run_dir))]


def test_a_diverged_run_has_failed(tmp_path: Path, client: Any, store: str) -> None:
    unmirrored(document(store, learning_rate={"base": 1e20}, stop={"steps": 20, "target_accuracy": 1.0}), tmp_path / "diverged")
    run = assert_holds_the_journal(client, tmp_path / "diverged", "FAILED") if sync_run(tmp_path / "diverged").is_complete else None
    assert run is not None
    assert run.data.tags["largebatch.outcome"] == "diverged"
    assert not {"final_time_to_target_seconds", "final_train_accuracy"} & set(run.data.metrics)


def test_artifacts_and_the_checkpoint_that_was_asked_for(tmp_path: Path, client: Any, server: str) -> None:
    unmirrored(document(server, tracking={"log_checkpoint": True, "experiment": "made by the mirror"}), tmp_path / "artifacts")
    (tmp_path / "artifacts" / "figure.png").write_bytes(b"drawn")
    run_id = sync_run(tmp_path / "artifacts").run_id
    import mlflow

    far = mlflow.MlflowClient(tracking_uri=server)
    assert artifacts(far, run_id or "") == {"spec.json", "plan.json", "environment.json", "summary.json", "figure.png", "checkpoints"}
    (checkpoint,) = far.list_artifacts(run_id, "checkpoints")
    assert checkpoint.path.partition(".")[0].endswith("-00000008"), "the last step's, by either of its names"


def write_journal(run_dir: Path, *clocks: list[float]) -> None:
    """Another journal, without an end: of a process for each clock, which tells the training seconds of its steps."""
    (run_dir / run_folder.JOURNAL).unlink()
    with Journal(run_dir) as journal:
        for clock in clocks:
            journal.write(made_records.start(at_s=1000.0))
            for number, seconds in enumerate(clock, start=1):
                journal.write(made_records.step(number, seconds))


@pytest.mark.parametrize(("every_s", "sent"), [(0.0, [1, 2, 3, 4, 5, 6]), (1.0, [1, 4, 6]), (1.5, [1, 5, 6]), (100.0, [1, 6])])
def test_step_records_are_thinned_by_training_seconds_and_the_last_is_sent(
    every_s: float, sent: list[int], tmp_path: Path, client: Any, store: str
) -> None:
    run_dir = tmp_path / f"thinned-{every_s}"
    unmirrored(document(store, tracking={"step_every_seconds": every_s}), run_dir)
    write_journal(run_dir, [0.25, 0.5, 1.0, 1.25, 2.0, 2.25])
    state = sync_run(run_dir)
    assert [metric.step for metric in client.get_metric_history(state.run_id, "loss")] == sent
    assert not state.is_complete, "the journal has no end"


def test_a_clock_that_runs_behind_the_one_before_skips_nothing(tmp_path: Path, client: Any, store: str) -> None:
    """Killed at 9 s into step 2, repeated in a fraction of that: step 3 is new although its clock is younger."""
    run_dir = tmp_path / "younger"
    unmirrored(document(store), run_dir)
    write_journal(run_dir, [1.0, 9.0], [1.0, 2.0, 3.0])
    state = sync_run(run_dir)
    assert sorted(metric.step for metric in client.get_metric_history(state.run_id, "loss")) == [1, 2, 3]


def test_many_steps_go_in_several_requests(tmp_path: Path, client: Any, store: str) -> None:
    """MLflow takes at most 1000 metrics at a time; 150 steps are 1050."""
    run_dir = tmp_path / "many"
    unmirrored(document(store, stop={"steps": 150}), run_dir)
    sync_run(run_dir)
    assert_holds_the_journal(client, run_dir)


@pytest.mark.parametrize("fails_at", ["create_run", "log_batch", "log_artifact", "set_terminated"])
def test_whatever_request_fails_the_next_try_brings_everything(fails_at: str, tmp_path: Path, client: Any, store: str) -> None:
    """The same mirror goes on after the error, as it does beside a run; each kind of request fails once, then a second time."""
    run_dir = tmp_path / f"failing-{fails_at}"
    unmirrored(document(store), run_dir)
    mirror = Mirror(run_dir)
    working = getattr(mirror.client, fails_at)
    calls = 0

    def failing(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in {1, 3}:
            raise ConnectionError("the server is away")
        return working(*given, **named)

    setattr(mirror.client, fails_at, failing)
    for _ in range(2):
        with contextlib.suppress(ConnectionError):
            mirror.catch_up()
    mirror.catch_up()
    assert calls >= 2
    run = assert_holds_the_journal(client, run_dir)
    assert run.data.params["batch.global_batch_size"] == "16"
    assert {"spec.json", "plan.json", "environment.json", "summary.json"} <= artifacts(client, run.info.run_id)
    found = client.search_runs([run.info.experiment_id], f"tags.`largebatch.run_id` = '{run_dir.name}'")
    assert len(found) == 1, "one run in MLflow, however many tries"


# ---- which run in MLflow is which ---------------------------------------------------------------------------------


def runs_called(client: Any, name: str, tag: str = "largebatch.run_id") -> list[Any]:
    number = client.get_experiment_by_name("largebatch").experiment_id
    return list(client.search_runs([number], f"tags.`{tag}` = '{name}'"))


def test_one_run_id_in_two_folders_is_two_runs(tmp_path: Path, client: Any, store: str) -> None:
    run_dirs = [tmp_path / place / "the-same-id" for place in ("one", "two")]
    for run_dir, steps_wanted in zip(run_dirs, (3, 5), strict=True):
        unmirrored(document(store, stop={"steps": steps_wanted}), run_dir)
        sync_run(run_dir)
    found = [assert_holds_the_journal(client, run_dir) for run_dir in run_dirs]
    assert [run.data.params["stop.steps"] for run in found] == ["3", "5"]
    assert len(runs_called(client, "the-same-id")) == 2


def test_a_mirror_that_left_no_note_finds_its_run_again(tmp_path: Path, client: Any, store: str) -> None:
    run_dir = tmp_path / "it's noteless"
    unmirrored(document(store), run_dir)
    first = sync_run(run_dir)
    (run_dir / "mlflow.json").unlink()
    assert sync_run(run_dir).run_id == first.run_id
    assert_holds_the_journal(client, run_dir)


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path, client: Any, store: str) -> None:
    """Without the moment it began in its tags, but with a note of its run."""
    run_dir = tmp_path / "earlier"
    unmirrored(document(store), run_dir, stop_after=3)
    first = sync_run(run_dir)
    client.delete_tag(first.run_id, "largebatch.began_at_s")
    unmirrored(document(store), run_dir, resumes=True)
    assert sync_run(run_dir).run_id == first.run_id
    assert_holds_the_journal(client, run_dir)


def new_sweep(folder: Path, store: str, rate: float, **described: Any) -> Path:
    """A folder of one run, as a sweep leaves it; its only run is called like every such sweep's."""
    unmirrored(document(store, learning_rate={"base": rate}, stop={"steps": 2}), folder / "0000-batch-16-seed-0")
    parent = {"mlflow_uri": store, "experiment": "largebatch", "params": {"rate": rate}, **described}
    (folder / "parent.json").write_text(json.dumps(parent))
    return folder


def test_sweeps_of_one_name_with_runs_of_one_name_stay_apart(tmp_path: Path, client: Any, store: str) -> None:
    """Every study's sweep lies in a folder `sweep`."""
    folders = [new_sweep(tmp_path / name / "sweep", store, rate, began_at_s=rate, name=name) for name, rate in (("one", 0.01), ("two", 0.02))]
    states = [sync_folder(folder) for folder in folders]
    parents = [client.get_run(state.run_id) for state in states]
    assert len({parent.info.run_id for parent in parents}) == len(runs_called(client, "sweep", "largebatch.sweep")) == 2
    assert [(parent.info.run_name, parent.data.params) for parent in parents] == [("one", {"rate": "0.01"}), ("two", {"rate": "0.02"})]
    for folder, parent, rate in zip(folders, parents, ("0.01", "0.02"), strict=True):
        child = assert_holds_the_journal(client, folder / "0000-batch-16-seed-0")
        assert (child.data.params["learning_rate.base"], child.data.tags["mlflow.parentRunId"]) == (rate, parent.info.run_id)
    for path in tmp_path.rglob("mlflow.json"):
        path.unlink()
    assert [sync_folder(folder).run_id for folder in folders] == [state.run_id for state in states], "found again without a note"
    assert len(runs_called(client, "0000-batch-16-seed-0")) == 2


def test_a_sweep_of_an_earlier_version_is_called_as_its_folder(tmp_path: Path, client: Any, store: str) -> None:
    folder = new_sweep(tmp_path / "earlier-sweep", store, 0.03)
    state = sync_folder(folder)
    assert client.get_run(state.run_id).info.run_name == "earlier-sweep"
    assert sync_folder(folder).run_id == state.run_id


def test_a_server_that_is_away_costs_nothing_and_is_caught_up_later(tmp_path: Path, client: Any, door: Door) -> None:
    runs = tmp_path / "runs"
    first, said = mirrored(document(door.uri), runs)
    first_dir = Path(first.run_dir)
    without = unmirrored(document(None, tracking={"enabled": False}), tmp_path / "without")
    assert first.parameters_sha256 == without.parameters_sha256
    assert (first.outcome, first.steps, first.mlflow_run_id) == ("completed", 8, None)
    assert [line.partition(" (")[0] for line in said if "does not answer" in line] == [f"MLflow at {door.uri} does not answer"]
    assert any(f"largebatch sync {first_dir}" in line for line in said)
    with pytest.raises(FaultError, match=f"MLflow at {door.uri} does not answer"):
        sync_run(first_dir)
    assert not MirrorState.read(first_dir).is_complete

    door.open()
    second, said = mirrored(document(door.uri), runs)
    assert said == [f"MLflow now has run {first_dir.name} too."]
    for summary in (first, second):
        run = assert_holds_the_journal(client, Path(summary.run_dir))
    assert run.info.run_id == second.mlflow_run_id


def test_a_server_that_goes_away_in_the_middle_misses_nothing(tmp_path: Path, client: Any, door: Door) -> None:
    run_dir = tmp_path / "interrupted"
    unmirrored(document(door.uri), run_dir, stop_after=3)
    door.open()
    sync_run(run_dir)
    door.shut()
    unmirrored(document(door.uri), run_dir, resumes=True)
    with pytest.raises(FaultError, match="does not answer"):
        sync_run(run_dir)
    door.open()
    assert sync_run(run_dir).is_complete
    assert_holds_the_journal(client, run_dir)


def test_catching_up_leaves_alone_what_is_at_work_or_not_tracked(tmp_path: Path, store: str) -> None:
    busy, untracked, waiting, here = (tmp_path / name for name in ("busy", "untracked", "waiting", "here"))
    for run_dir in (busy, untracked, waiting):
        unmirrored(document(store, stop={"steps": 1}, tracking={"enabled": run_dir != untracked}), run_dir)
    here.mkdir()
    with run_folder.exclusive(busy, "train"):
        catch_up_others(here)
    assert [MirrorState.read(run_dir).is_complete for run_dir in (busy, untracked, waiting)] == [False, False, True]


def test_a_killed_run_is_caught_up_once(tmp_path: Path, client: Any, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    killed, here = tmp_path / "killed", tmp_path / "here"
    unmirrored(document(store), killed, stop_after=3)
    (killed / run_folder.SUMMARY).unlink(missing_ok=True)
    drop_end(killed, '{"kind":"st')  # as a kill leaves it
    here.mkdir()
    capsys.readouterr()
    for _ in range(2):
        catch_up_others(here)
    assert capsys.readouterr().out == "MLflow now has run killed too.\n"
    (run,) = runs_called(client, "killed")
    assert run.info.status == "KILLED"
    assert run.data.metrics["loss"] > 0


def test_a_folder_that_is_no_run_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run's folder"):
        sync_run(tmp_path)


def mirror_has_ended(run_dir: Path) -> bool:
    """The mirror holds this lock for as long as it lives."""
    try:
        with run_folder.exclusive(run_dir, "mirror"):
            return True
    except InputError:
        return False


def test_when_the_trainer_is_killed_the_mirror_says_so_and_ends(tmp_path: Path, client: Any, store: str) -> None:
    # Slow: it leaves the cores to the mirror, which runs only when one is idle.
    own = {"dataset": {"name": "digits"}, "model": {"entry_point": "slow:build", "arguments": {"until": str(tmp_path / "quick"), "width": 4}}}
    given = document(store, **own, stop={"steps": 10_000}, checkpoint={"every_steps": 10}, evaluation={"every_epochs": 1000.0})
    (tmp_path / "spec.json").write_text(json.dumps(given))
    words = ["-m", "largebatch.jobs", tmp_path / "spec.json", "--device", "cpu", "--output-dir", tmp_path / "runs"]
    trainer = Forked(*words, folder=tmp_path, PYTHONPATH=f"{ROOT}:{ROOT / 'tests/jobs/launch'}")
    try:
        wait_for(lambda: [file for file in tmp_path.glob("runs/*/mlflow.json") if MirrorState.read(file.parent).last_step >= 10], 100, trainer)
    finally:
        trainer.kill()
        trainer.communicate()
    (run_dir,) = tmp_path.glob("runs/spec-*")
    wait_for(lambda: mirror_has_ended(run_dir), 100)
    state = MirrorState.read(run_dir)
    assert client.get_run(state.run_id).info.status == "KILLED"
    assert not state.is_complete
    (tmp_path / "quick").touch()
    done = max(record.step for record in steps(read_records(run_dir)))
    assert state.last_step == done, "the mirror's last act is to read to the journal's end"

    unmirrored({**given, "stop": {"steps": done + 5}}, run_dir, resumes=True)
    resumed = sync_run(run_dir)
    assert (resumed.run_id, resumed.is_complete) == (state.run_id, True)
    assert client.get_run(resumed.run_id).info.status == "FINISHED"
    sent = sorted(metric.step for metric in client.get_metric_history(resumed.run_id, "loss"))
    assert sent == list(range(1, done + 6)), "each step once"


def test_without_mlflow_it_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said: list[str] = []
    with MirrorProcess(build_spec(document(None))) as mirror:
        mirror.follow(tmp_path, said.append)
        assert mirror.finish() is None
    assert said == ["MLflow is not installed: this run is kept in its folder alone."]


def test_a_mirror_that_dies_at_once_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    false = shutil.which("false")
    monkeypatch.setattr(sys, "executable", false)
    with MirrorProcess(build_spec(document(None))) as mirror:
        assert mirror.process.wait() == 1
        mirror.follow(tmp_path, lambda text: None)
        assert mirror.finish() is None


def test_the_mirror_needs_no_torch_and_stays_in_its_parents_session() -> None:
    modules = ("jobs.tracking.follower", "jobs.tracking.mirror_process", "jobs.launch.options")
    code = f"import sys, {', '.join(f'largebatch.{module}' for module in modules)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    with MirrorProcess(build_spec(document(None))) as mirror:
        process = mirror.process
        assert os.getsid(process.pid) == os.getsid(0), "Linux shares the cores out by session, whatever the priorities"
        assert os.getpgid(process.pid) != os.getpgid(0), "a terminal's Ctrl-C must not reach it"
    assert process.returncode == -signal.SIGKILL, "a mirror that was told of no run is ended"


IMPORTED = """
import os, sys
from largebatch.jobs.tracking.mlflow_store import get_ready
for uri, environment in {cases!r}:
    os.environ["MLFLOW_TRACKING_URI"] = environment
    get_ready(uri)
    print("sqlalchemy.orm" in sys.modules)
"""


@pytest.mark.parametrize("uri", ["", pytest.param("sqlite:///some.db", marks=pytest.mark.slow)])
def test_a_mirror_has_imported_what_it_needs_before_training_begins(uri: str) -> None:
    """For a server, which one process is told of first, less than for a store in a file."""
    cases = [("", "http://somewhere"), ("https://somewhere", ""), (uri, "http://somewhere" if uri else "")]
    done = subprocess.run([sys.executable, "-c", IMPORTED.format(cases=cases)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True"]


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="only root may take a process out of Linux's idle priority")
def test_the_mirror_gives_way_until_training_is_over(store: str, tmp_path: Path) -> None:
    unmirrored(document(store), tmp_path / "run")
    seen: set[tuple[int, int]] = set()

    def look(process: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            while True:
                seen.add(priority(process))
                time.sleep(0.001)

    with MirrorProcess(build_spec(document(store))) as mirror:
        process = mirror.process
        assert priority(process.pid) == (os.SCHED_IDLE, 19)
        mirror.follow(tmp_path / "run", lambda text: None)
        watch = threading.Thread(target=look, args=(process.pid,))
        watch.start()
        assert mirror.finish()
        watch.join(30)
    assert process.returncode == 0
    assert (os.SCHED_OTHER, 0) in seen, "the same process, in a hurry"


def test_where_the_mirror_must_stay_idle_another_one_hurries(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unmirrored(document(store), tmp_path / "run")
    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    with MirrorProcess(build_spec(document(store)), polite_s=0.0) as mirror:
        first = mirror.process
        mirror.follow(tmp_path / "run", lambda text: None)
        assert mirror.finish()
    assert first.returncode == -signal.SIGKILL
    assert MirrorState.read(tmp_path / "run").is_complete


def priority(process: int) -> tuple[int, int]:
    return os.sched_getscheduler(process), os.getpriority(os.PRIO_PROCESS, process)


def forbidden(*_: object) -> None:
    raise PermissionError


def test_a_store_whose_making_was_cut_short_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = f"sqlite:///{tmp_path / 'cut' / 'mlflow.db'}"
    run_dir = tmp_path / "cut" / "run"
    unmirrored(document(store), run_dir)
    import mlflow

    # The kill comes while the first tables are there and the others are not.
    (tmp_path / "cut" / ".mlflow.db.7.part").write_bytes(b"half a database")
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "search_experiments", lambda *_, **__: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(FaultError):
            sync_run(run_dir)
    assert not (tmp_path / "cut" / "mlflow.db").exists()
    assert sync_run(run_dir).is_complete
    assert not list((tmp_path / "cut").glob(".*.part"))


def under_way(given: dict[str, Any], run_dir: Path, **options: Any) -> Mirror:
    """The mirror of a run that still trains: all that its journal lacks is the end."""
    unmirrored(given, run_dir)
    drop_end(run_dir)
    mirror = Mirror(run_dir, **options)
    mirror.catch_up()
    return mirror


def test_the_machine_of_the_mirror_is_watched_while_the_run_trains(store: str, client: Any, tmp_path: Path) -> None:
    """The mirror is a child of rank 0, so of many machines it is rank 0's."""
    mirror = under_way(document(store), tmp_path / "watched", machine_every_s=0.05)
    run_id = mirror.state.run_id

    def measured() -> dict[str, float]:
        return {name: value for name, value in client.get_run(run_id).data.metrics.items() if name.startswith("system/")}

    mirror.watch_machine()
    watch = mirror.machine_watch
    mirror.watch_machine()
    assert mirror.machine_watch is watch, "one is enough"
    wait_for(measured, 30)
    mirror.mark_killed()
    watch.join(30)
    assert not watch.is_alive(), "it ends when MLflow's run does"
    found = measured()
    assert 0 <= found["system/cpu_utilization_percentage"] <= 100
    assert 0 < found["system/system_memory_usage_percentage"] <= 100
    assert {"system/network_receive_megabytes", "system/network_transmit_megabytes"} <= found.keys()


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_machine_that_nobody_asked_about_or_that_trains_no_more_is_not_watched(store: str, tmp_path: Path, has_ended: bool) -> None:
    if has_ended:
        unmirrored(document(store), tmp_path / "ended")
        sync_run(tmp_path / "ended")
        mirror = Mirror(tmp_path / "ended")
    else:
        mirror = under_way(document(store, tracking={"system_metrics": False}), tmp_path / "unasked")
    mirror.watch_machine()
    assert mirror.machine_watch is None
