"""Ray Train's workers against one process, and what they survive. Real Ray, real signals."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import launch_runs as runs
import pytest
import slow
import torch
from launch_runs import Head
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from ray.util.state import list_actors

from largebatch.jobs.errors import CheckpointError, CodeError, DataError, FaultError, InputError, PlanError
from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.launch.on_ray.process_group import ProcessGroup, ProcessGroupBackend
from largebatch.jobs.launch.on_ray.train import StoppedError, ended_before
from largebatch.jobs.launch.options import Workers, read_workers
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.spec.read import build_spec

# Ray warns of its own old ways.
pytestmark = pytest.mark.filterwarnings("ignore")
TWO = Workers(2, 2)
PREEMPTION = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, head: Head) -> Path:
    """The run of two workers that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    summary = runs.train(folder, head.address, TWO, runs.document())
    assert (summary.outcome, summary.world_size, summary.steps) == (Outcome.COMPLETED, 2, runs.STEPS)
    return folder / "run"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points are found in the current folder."""
    monkeypatch.chdir(Path(__file__).parent)


@pytest.fixture(autouse=True)
def undrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine will be taken away, so no process of each run need watch for it; for `undisturbed`, test_storage and test_ray_jobs one does."""
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("one") / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run_job(prepare(build_spec(runs.document()), torch.device("cpu"), Path("data")), run_dir, Listener())
    torch.set_num_threads(threads)
    return run_dir


def test_one_worker_is_one_process_bit_for_bit(head: Head, one_process: Path, tmp_path: Path) -> None:
    watcher = runs.Watcher()
    summary = runs.train(tmp_path, head.address, Workers(1, 1), runs.document(), watcher)
    assert runs.same(runs.parameters(one_process), runs.parameters(tmp_path / "run"))
    assert runs.steps(tmp_path / "run") == list(range(1, runs.STEPS + 1))
    assert watcher.records[-1].kind == "end"  # type: ignore[attr-defined]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["parameters_sha256"] == summary.parameters_sha256
    assert not (tmp_path / ".ray").exists()


def test_two_workers_are_one_process_within_rounding(one_process: Path, undisturbed: Path) -> None:
    assert 0 < runs.distance(runs.parameters(one_process), runs.parameters(undisturbed)) < 1e-4
    assert runs.starts(undisturbed)[0].samples_per_rank == [125, 125]


def test_three_workers_of_an_uneven_batch(head: Head, one_process: Path, tmp_path: Path) -> None:
    summary = runs.train(tmp_path, head.address, Workers(3, 3), runs.document())
    assert (summary.world_size, summary.global_batch_size) == (3, 250)
    assert runs.starts(tmp_path / "run")[0].samples_per_rank == [75, 75, 100]
    assert runs.distance(runs.parameters(one_process), runs.parameters(tmp_path / "run")) < 1e-4


def kill_actor(head: Head, kind: str) -> None:
    """The one actor of that kind that is alive: this test's own, for tests on the shared head come one after the other."""
    alive = [actor for actor in list_actors(address=head.dashboard, filters=[("state", "=", "ALIVE")]) if actor.class_name.endswith(kind)]
    (actor,) = alive
    os.kill(actor.pid, signal.SIGKILL)


def test_a_preempted_worker_a_killed_controller_and_a_killed_worker_leave_the_same_run(head: Head, undisturbed: Path, tmp_path: Path) -> None:
    """On a Ray of others, with room for one group at a time."""
    given = runs.slow_document(tmp_path / "acted", checkpoint={"every_steps": 30, "every_seconds": None, "best": False, "keep": 99})

    def preempt() -> None:
        runs.kill_a_worker(tmp_path, signal.SIGTERM)
        watcher.then(32, kill_controller)

    def kill_controller() -> None:
        kill_actor(head, "TrainController")
        watcher.then(50, kill)

    def kill() -> None:
        runs.kill_a_worker(tmp_path)
        (tmp_path / "acted").touch()

    watcher = runs.Watcher(15, preempt)
    summary = runs.train(tmp_path, head.address, TWO, given, watcher, max_failures=2, cpus=1.5)
    assert summary.outcome is Outcome.COMPLETED, "preemptions are not counted as failures: together they would be too many"
    began, preempted, *killed = runs.starts(tmp_path / "run")
    assert [record.world_size for record in (began, preempted, *killed)] == [2, 2, 2, 2]
    assert preempted.step >= 15
    assert preempted.step != 30, "the signal saved, within its second: nothing was lost"
    newest = max(30, preempted.step)
    assert [record.step for record in killed] == [newest, newest], "the newest checkpoint"
    assert runs.same(runs.parameters(undisturbed), runs.parameters(tmp_path / "run"))
    assert runs.steps(tmp_path / "run") == list(range(1, runs.STEPS + 1)), "no record lost or doubled"
    told = runs.notices(tmp_path / "run")
    assert len(told) == 3
    assert "SIGTERM" in told[0]
    assert f"from step {preempted.step}" in told[0]
    assert "the controller: its process ended" in told[1]
    assert "its process ended" in told[2]
    assert "controller" not in told[2]
    assert all(f"from step {newest}" in text for text in told[1:])
    assert "\n" not in "".join(told)


def test_a_start_that_fails_is_a_failure_and_keeps_no_cores(head: Head, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error first, then the controller's end; two groups would not fit at once. The classes are of this function, so Ray sends them along."""
    stumbled, killed = tmp_path / "stumbled", tmp_path / "killed"

    class StumblingBackend(ProcessGroupBackend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            if not stumbled.exists():
                stumbled.touch()
                raise RuntimeError("the server socket has failed to bind")
            if not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            super().on_start(worker_group, backend_config)

    class Stumbling(ProcessGroup):
        @property
        def backend_cls(self) -> Any:
            return StumblingBackend

    monkeypatch.setattr("largebatch.jobs.launch.on_ray.process_group.ProcessGroup", Stumbling)
    watcher = runs.Watcher()
    summary = runs.train(tmp_path, head.address, TWO, runs.document(), watcher, cpus=1.5, max_failures=2)
    assert summary.outcome is Outcome.COMPLETED
    told = runs.notices(tmp_path / "run")
    assert "Failure: a worker could not start: RuntimeError: the server socket has failed to bind." in told[0]
    assert "the controller: its process ended" in told[1]
    assert {text.removesuffix(" Going on from step 0.") for text in told} <= set(watcher.notices), "told when it happened"
    assert runs.same(runs.parameters(undisturbed), runs.parameters(tmp_path / "run"))


def test_a_run_without_its_mailbox_ends_with_one_sentence(head: Head, tmp_path: Path) -> None:
    watcher = runs.Watcher(5, lambda: kill_actor(head, "Mailbox"))
    with pytest.raises(
        FaultError, match=r"^ray: the run's mailbox, or the whole cluster, is gone .* Go on with: largebatch train --resume"
    ) as caught:
        runs.train(tmp_path, head.address, Workers(1, 1), runs.slow_document(tmp_path / "never"), watcher)
    assert "\n" not in str(caught.value)


def test_a_run_that_waits_for_workers_stops_at_once(head: Head, tmp_path: Path) -> None:
    watcher = runs.Watcher()

    def act() -> None:
        runs.kill_a_worker(tmp_path)
        watcher.stops.set()

    watcher.then(15, act)
    with pytest.raises(StoppedError, match=r"stopped while the run waited for workers. Go on with: largebatch train --resume") as caught:
        runs.train(tmp_path, head.address, Workers(1, 1), runs.slow_document(tmp_path / "never"), watcher)
    assert caught.value.exit_code == 4
    assert len(runs.starts(tmp_path / "run")) == 1, "no new workers were started to be told"


def test_no_process_is_started_that_these_runs_do_not_need(head: Head, undisturbed: Path) -> None:
    started = {actor.class_name.rpartition(".")[2] for actor in list_actors(address=head.dashboard, limit=10_000)}
    assert {"Mailbox", "WorkersTrainController", "PreemptionWatcher"} <= started, "on a Ray of others a machine may be taken away"
    assert not started & {"DatasetManager", "_AutoscalingCoordinatorActor", "SynchronizationActor"}


@pytest.mark.slow
def test_a_machine_that_will_be_taken_away_loses_nothing(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines more, each with room for the run, which the head has not."""
    monkeypatch.delenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER")
    watcher = runs.Watcher()
    with runs.new_node(head, 12), runs.new_node(head, 12):

        def drain() -> None:
            first = next(iter(places()))
            soon = int((time.time() + 300) * 1000)
            assert GcsClient(address=head.address).drain_node(first, PREEMPTION, "the test takes it", soon)[0]
            drained.append(first)
            (tmp_path / "acted").touch()

        def places() -> set[str]:
            alive = list_actors(address=head.dashboard, filters=[("state", "=", "ALIVE")])
            return {str(actor.node_id) for actor in alive if actor.class_name.endswith("RayTrainWorker")}

        drained, found = list[str](), list[set[str]]()
        watcher.then(15, drain)
        given = runs.slow_document(tmp_path / "acted", checkpoint={"every_steps": 1000, "every_seconds": None, "best": False})
        given["stop"] = {"steps": 3000}
        ended: list[Any] = []

        def train() -> None:
            ended.append(runs.train(tmp_path, head.address, TWO, given, watcher, cpus=5.0, max_failures=0))

        trains = threading.Thread(target=train)
        trains.start()
        runs.wait_for(lambda: len(drained) == 1 and len(runs.starts(tmp_path / "run")) == 2, 120)
        found.append(places())
        watcher.stops.set()
        trains.join(90)
    assert ended
    assert ended[0].outcome is Outcome.STOPPED
    assert not found[0] & set(drained), "the new workers are elsewhere"
    lines = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1)), "no step was done twice"
    assert "Preempted: worker 0: PreemptedError: Ray will take a machine away; the run was saved." in runs.notices(tmp_path / "run")[0]


def test_a_run_that_keeps_failing_ends_with_the_first_real_error(head: Head, tmp_path: Path) -> None:
    workers = tmp_path / "workers"
    workers.mkdir()
    given = runs.document(model={"entry_point": "failing:breaks", "arguments": {"workers": str(workers)}}, batch_norm={"span": "auto"})
    with pytest.raises(FaultError, match=r"more than 1 times.*worker 1: AcceleratorError: CUDA error: uncorrectable ECC error") as caught:
        runs.train(tmp_path / "runs", head.address, TWO, given, max_failures=1)
    assert "\n" not in str(caught.value)
    assert len(list(workers.iterdir())) == 4, "twice two, and none to be told that it is over"


def test_what_a_model_of_ones_own_raises_is_not_tried_again(head: Head, tmp_path: Path) -> None:
    workers = tmp_path / "workers"
    workers.mkdir()
    given = runs.document(model={"entry_point": "failing:build", "arguments": {"workers": str(workers)}}, batch_norm={"span": "auto"})
    with pytest.raises(
        CodeError, match=r"failed at step \d+, training on \d+ samples: ZeroDivisionError: rank 1 cannot go on .*traceback\.txt"
    ) as caught:
        runs.train(tmp_path / "runs", head.address, TWO, given, max_failures=1)
    assert "\n" not in str(caught.value)
    assert len(list(workers.iterdir())) == 2


# ---- Ctrl-C and SIGTERM -------------------------------------------------------------------------------------------------


class Command(NamedTuple):
    """A `largebatch train` that was asked to end."""

    exit_code: int
    summary: dict[str, Any]
    said: str

    @property
    def resumes_with(self) -> list[str]:
        """The arguments of the command that it says to go on with."""
        (line,) = [line for line in self.said.splitlines() if "Go on with: largebatch " in line]
        return shlex.split(line.partition("largebatch ")[2])


def largebatch(*arguments: str | Path, **environment: str) -> "subprocess.Popen[str]":
    """The command in a session of its own, as a terminal starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "largebatch", *arguments], env={**os.environ, **environment}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def asked_to_end(process: "subprocess.Popen[str]", output_dir: Path, ask: Callable[[], None]) -> Command:
    """Wait until the command's run is in the middle, ask it to end, and take what it says."""

    def is_training() -> bool:
        assert process.poll() is None, process.communicate()
        return any('"step":5,' in journal.read_text() for journal in output_dir.glob("*/records.jsonl"))

    try:
        runs.wait_for(is_training, 90)
        ask()
        output, said = process.communicate(timeout=60)
    finally:
        process.kill()
    (line,) = output.splitlines()
    return Command(process.returncode, json.loads(line), said)


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(head: Head, undisturbed: Path, tmp_path: Path) -> None:
    recipe, output_dir = tmp_path / "recipe.json", tmp_path / "runs"
    recipe.write_text(json.dumps(runs.slow_document(tmp_path / "acted")))
    places = ["--output-dir", output_dir, "--data-dir", "data", "--device", "cpu"]
    process = largebatch("train", recipe, "--workers", "2", "--cpus-per-worker", "0.5", "--address", head.address, *places, "--json")
    stopped = asked_to_end(process, output_dir, lambda: os.killpg(process.pid, signal.SIGINT))  # a terminal's Ctrl-C reaches the whole group
    assert stopped.exit_code == 4, stopped.said
    assert "SIGINT: finishing this step and saving." in stopped.said
    assert "Traceback" not in stopped.said
    assert (stopped.summary["outcome"], stopped.summary["world_size"]) == ("stopped", 2)
    assert 5 <= stopped.summary["steps"] < runs.STEPS

    (tmp_path / "acted").touch()
    (run_dir,) = output_dir.iterdir()
    assert stopped.resumes_with[:3] == ["train", "--resume", str(run_dir)]
    again = largebatch(*stopped.resumes_with, "--json", "--worker-logs")
    output, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert json.loads(output)["steps"] == runs.STEPS
    assert slow.SAYS in said
    assert slow.SAYS not in stopped.said
    assert runs.steps(run_dir) == list(range(1, runs.STEPS + 1))
    assert runs.same(runs.parameters(undisturbed), runs.parameters(run_dir))
    over, same = runs.Watcher(), runs.slow_document(tmp_path / "acted")
    assert runs.train(output_dir, head.address, TWO, same, over, run_id=run_dir.name).steps == runs.STEPS
    assert any("ended before" in notice for notice in over.notices)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_leaves_nothing_of_its_own_ray(tmp_path: Path, number: signal.Signals) -> None:
    recipe, output_dir, folder = tmp_path / "recipe.json", tmp_path / "runs", tempfile.mkdtemp(prefix="lb", dir="/tmp")
    recipe.write_text(json.dumps(runs.slow_document(tmp_path / "never")))
    places = ["--output-dir", output_dir, "--data-dir", "data", "--device", "cpu"]
    started, commands = set[int](), set[str]()
    try:
        process = largebatch("train", recipe, "--workers", "2", *places, "--json", RAY_TMPDIR=folder, TMPDIR=folder)

        def ask() -> None:
            started.update(runs.descendants(process.pid))
            commands.update(Path(f"/proc/{pid}/cmdline").read_text() for pid in started)
            os.killpg(process.pid, number)

        stopped = asked_to_end(process, output_dir, ask)
        assert stopped.exit_code == 4, stopped.said
        assert f"{number.name}: finishing this step and saving." in stopped.said
        assert "Ray's dashboard: http://127.0.0.1:" in stopped.said
        assert stopped.resumes_with[-2:] == ["--workers", "2"]
        assert len(started) > 5, "Ray's own processes and two workers"
        assert not [command for command in commands if "log_monitor" in command or "monitor.py" in command], "nobody reads what these would tell"
        runs.wait_for(lambda: not [pid for pid in started if _is_alive(pid)], 30)
        if number == signal.SIGINT:  # SIGTERM to the whole group ends the one that knows where it is
            assert not list(Path(folder).glob("pymp-*")), "not even what Ray's dashboard leaves there"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    """Whether a process is there, and not just waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_driver_that_is_killed_is_started_again(head: Head, undisturbed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "RAY_ADDRESS": head.address, "SPEC": json.dumps(runs.slow_document(tmp_path / "acted"))}
    command = [sys.executable, "-m", "largebatch.jobs.launch.supervise", "env:SPEC", "--workers", "2", "--cpus-per-worker", "0.5", "--run-id", "run"]
    supervisor = subprocess.Popen(
        [*command, "--output-dir", str(tmp_path), "--data-dir", "data", "--device", "cpu"], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        journal = tmp_path / "run" / "records.jsonl"
        ends_at = time.monotonic() + 90
        while not journal.exists() or '"step":11,' not in journal.read_text():
            assert supervisor.poll() is None
            assert time.monotonic() < ends_at
            time.sleep(0.05)
        (driver,) = [pid for pid in _children(supervisor.pid) if b"largebatch.jobs" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(driver, signal.SIGKILL)
        (tmp_path / "acted").touch()
        output, _ = supervisor.communicate(timeout=120)
    finally:
        supervisor.kill()
    assert supervisor.returncode == 0
    assert json.loads(output.splitlines()[-1])["steps"] == runs.STEPS
    assert runs.same(runs.parameters(undisturbed), runs.parameters(tmp_path / "run"))
    assert runs.steps(tmp_path / "run") == list(range(1, runs.STEPS + 1))


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_name_that_has_ended_goes_on_with_more_steps_and_refuses_another_recipe(head: Head, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    ended = ended_before(str(tmp_path), "run", build_spec(runs.document()))
    assert ended is not None
    assert ended.steps == runs.STEPS
    more = {"steps": runs.STEPS + 10}
    assert ended_before(str(tmp_path), "run", build_spec(runs.document(stop=more))) is None, "a run that goes on"
    other = runs.document(stop=more, learning_rate={"base": 0.2, "warmup_epochs": 1.0})
    with pytest.raises(CheckpointError, match=r"learning_rate\.base: the checkpoint was made with 0\.1, and the spec now says 0\.2"):
        runs.train(tmp_path, head.address, Workers(1, 1), other)


# ---- bad input: a clear sentence, and nothing begins --------------------------------------------------------------------


@pytest.mark.parametrize(("text", "words"), [("0", "rise"), ("3:2", "rise"), ("two", "not a number"), ("2:", "not a number"), ("-1", "not a number")])
def test_workers_that_are_no_number(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_workers(text)


def test_bounds_of_workers() -> None:
    assert read_workers("2:8") == Workers(2, 8)
    assert read_workers("4") == Workers(4, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"workers": Workers(9, 9), "cpus": 1.0}, r"9 workers with 1 CPUs each, and the cluster has 4 CPUs.*at most 4"),
     ({"workers": TWO, "device": "auto", "gpus_per_worker": 1.0}, r"2 workers with 1 GPUs each, and the cluster has 0 GPUs"),
     ({"workers": TWO, "device": "cuda"}, r"cuda for 2 workers, and the cluster has 0 GPUs"),
     ({"workers": TWO, "device": "auto", "gpus_per_worker": 0.5}, r"NCCL joins whole GPUs only"),
     ({"workers": TWO, "device": "auto", "gpus_per_worker": -1.0}, r"less than none"),
     ({"workers": TWO, "gpus_per_worker": 1.0}, r"--device cpu uses none"),
     ({"workers": TWO, "cpus": 0.0}, r"not more than none")],
)  # fmt: skip
def test_more_than_the_cluster_has(head: Head, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        runs.train(tmp_path, head.address, options.pop("workers"), runs.document(), **options)
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing answers at 127\.0\.0\.1:9"):
        runs.train(tmp_path, "127.0.0.1:9", TWO, runs.document())
    with pytest.raises(InputError, match="not an address"):
        runs.train(tmp_path, "somewhere", TWO, runs.document())


@pytest.mark.parametrize(
    ("parts", "kind", "words"),
    [
        ({"batch_norm": {"span": "global"}}, PlanError, "at most 125"),
        pytest.param({"dataset": {"name": "cifar100"}}, DataError, "cifar", marks=pytest.mark.slow),
    ],
)
def test_what_only_the_workers_can_know(head: Head, tmp_path: Path, parts: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        runs.train(tmp_path / "new", head.address, TWO, runs.document(**parts))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("part", "entry_point", "words"),
    [("model", "failing:refuses", "7 is deeper than this model"), ("model", "failing:refuses_in_training", "7 is deeper than this model"),
     ("dataset", "failing:vanished", "no digits anywhere")],
)  # fmt: skip
def test_bad_input_is_not_tried_again_by_a_driver_that_was_killed(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, entry_point: str, words: str
) -> None:
    monkeypatch.setenv("LARGEBATCH_STARTED_AGAIN", "1")  # as the supervisor tells the second driver
    (tmp_path / "workers").mkdir()
    given = runs.document(**{part: {"entry_point": entry_point, "arguments": {"workers": str(tmp_path / "workers")}}})
    watcher = runs.Watcher()
    with pytest.raises(InputError, match=words) as caught:
        runs.train(tmp_path / "new", head.address, TWO, given, watcher)
    assert caught.value.exit_code == 2
    assert not [text for text in watcher.notices if "Failure" in text]
    assert 1 <= len(list((tmp_path / "workers").iterdir())) <= 2, "one group of two, and no other"
