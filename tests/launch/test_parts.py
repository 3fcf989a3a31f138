"""What the launch is made of, without a cluster."""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import launch_runs as runs
import pytest
import ray
from ray.train import ControllerError, PreemptionInfo, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.exceptions import PreemptionError

from largebatch.jobs.errors import DataError, FaultError, InputError, PlanError
from largebatch.jobs.launch.on_ray import trainer
from largebatch.jobs.launch.on_ray.cluster import Resources, connected, share_out
from largebatch.jobs.launch.on_ray.failures import UnfitError, first_cause, first_failure, sentence, what_failed
from largebatch.jobs.launch.on_ray.heartbeat import Gone
from largebatch.jobs.launch.on_ray.leftovers import socket_folders
from largebatch.jobs.launch.on_ray.network import interface_of
from largebatch.jobs.launch.on_ray.run_channel import Beginning, Mailbox
from largebatch.jobs.launch.on_ray.worker import ask_driver, excuse, refuse_unplannable
from largebatch.jobs.launch.options import TrainOptions, Workers
from largebatch.jobs.launch.termination import SAVED, PreemptedError
from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.spec.read import build_spec

pytestmark = pytest.mark.filterwarnings("ignore")


def mailbox(max_failures: int) -> Mailbox:
    """The actor's class, in this process."""
    made: Mailbox = Mailbox.__ray_metadata__.modified_class(max_failures, "Logs are there.")  # type: ignore[attr-defined]
    return made


def test_failures_are_counted_and_preemptions_are_not() -> None:
    box = mailbox(1)
    assert box.begin() == Beginning([], has_trained=False, is_over=False)
    box.trains()
    assert not box.failed("worker 1: gone.", False)
    assert box.begin() == Beginning(["Failure: worker 1: gone."], has_trained=True, is_over=False)
    assert not box.failed("worker 0: SIGTERM.", True)
    reasons, _, is_over = box.begin()
    assert (len(reasons), is_over, box.is_over()) == (1, False, False)
    assert box.stands() == (3, False)
    assert box.failed("worker 1: gone again.", False)
    assert box.is_over()
    assert box.stands() == (3, True)
    messages, outcome = box.take()
    assert messages == [], "rank 0 tells them"
    assert outcome is not None
    assert str(outcome["error"]) == "the run failed more than 1 times, at last: worker 1: gone again. Logs are there."


def test_workers_that_cannot_start_are_told_of_at_once() -> None:
    box = mailbox(8)
    box.failed("a worker could not start: no port.", False)
    assert box.take()[0] == [{"notice": "Failure: a worker could not start: no port."}], "no rank 0 may ever tell it"


def test_a_group_after_the_outcome_is_told_that_it_is_over() -> None:
    box = mailbox(0)
    box.begin()
    box.finish({"summary": {}})
    reasons, _, is_over = box.begin()
    assert is_over
    assert "anew" in reasons[0]
    box.failed("worker 1: its process ended.", False)
    assert box.take() == ([], {"summary": {}}), "what befalls the workers afterwards changes nothing"


def dead(preempted: bool) -> Exception:
    """A worker's end as Ray Train tells it."""
    return WorkerHealthCheckFailedError("A worker health check failed.", ray.exceptions.RayActorError(preempted=preempted))


def not_started() -> ControllerError:
    error = WorkerGroupStartupFailedError("At least one of the worker actors failed to initialize.")
    error.__cause__ = ray.exceptions.ActorDiedError()
    return ControllerError(error)


@pytest.mark.parametrize(
    ("error", "words", "is_preemption"),
    [(WorkerGroupError("", {1: ValueError("bad")}), "worker 1: ValueError: bad.", False),
     (WorkerGroupError("", {0: PreemptedError(f"a worker got SIGTERM; {SAVED}")}), "a worker got SIGTERM; the run was saved.", True),
     (WorkerGroupError("", {0: dead(preempted=True)}), "worker 0", True),
     (WorkerGroupError("", {0: dead(preempted=False)}), "worker 0", False),
     (PreemptionError(PreemptionInfo(None, {"a": [0]}), drain_timed_out=True), "taken away", True),
     (ControllerError(RuntimeError("port 29500 is taken")), "a worker could not start: RuntimeError: port 29500 is taken.", False),
     (not_started(), "a worker could not start: its process ended", False)],
)  # fmt: skip
def test_what_befell_a_group_in_words(error: Exception, words: str, is_preemption: bool) -> None:
    reason, preempted = what_failed(error)
    assert words in reason
    assert preempted is is_preemption


class Told:
    """A mailbox's handle that counts in this process."""

    def __init__(self, max_failures: int) -> None:
        self.box = mailbox(max_failures)
        self.failed = SimpleNamespace(remote=self.box.failed)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setattr(trainer, "START_AGAIN_S", 0.0)
    monkeypatch.setattr(ray, "get", lambda answer, timeout=None: answer)
    return Told(1)


def elastic(least: int, most: int) -> trainer.ElasticWorkers:
    made = trainer.ElasticWorkers(SimpleNamespace(min_workers=least, max_workers=most, _resources_per_worker_not_none={"CPU": 1.0}, use_tpu=False))
    return made


def test_failures_of_a_start_count_as_all_others_do(told: Told) -> None:
    policy = trainer.UntilOver(None, told)
    policy.scaling = elastic(1, 2)
    assert policy.make_decision(ControllerError(WorkerGroupStartupTimeoutError(2))) is FailureDecision.RETRY
    assert policy.make_decision(ControllerError(RuntimeError("port 1 is taken"))) is FailureDecision.RETRY
    assert policy.make_decision(not_started()) is FailureDecision.RAISE
    _, outcome = told.box.take()
    assert outcome is not None
    assert "more than 1 times, at last: a worker could not start: its process ended" in str(outcome["error"])


def test_a_machine_on_which_a_worker_cannot_take_part_is_left_out(told: Told) -> None:
    scaling = elastic(1, 3)
    machines = {name: {"CPU": 1.0} for name in "abc"}
    assert scaling._count_possible_workers(machines) == 3
    assert scaling.on_controller_start_worker_group(scaling_config=None, num_workers=3) is None
    unfit = UnfitError("--data-dir", "is empty.", node_id="c")
    error = WorkerGroupError("", {0: UnfitError("--data-dir", "is empty."), 2: unfit})
    policy = trainer.UntilOver(None, told)
    policy.scaling = scaling
    assert policy.make_decision(error) is FailureDecision.RETRY
    assert told.box.begin().reasons == ["Failure: worker 0: --data-dir: is empty. That machine is left out from now on."]
    assert scaling._count_possible_workers(machines) == 2
    assert scaling.on_controller_start_worker_group(scaling_config=None, num_workers=2) == {"ray.io/node-id": "!in(c)"}
    assert scaling._count_possible_workers({}) == 0, "all machines are gone for now"
    assert scaling.on_controller_start_worker_group(scaling_config=None, num_workers=1) is not None
    assert scaling._count_possible_workers({"c": {"CPU": 1.0}}) == 1, "better than none"
    assert scaling.on_controller_start_worker_group(scaling_config=None, num_workers=1) is None


@pytest.mark.parametrize(("reserved", "asked"), [({"b": {"CPU": 1.0}, "c": {"CPU": 2.0}}, 5), ({"b": {"CPU": 3.0}}, 4), (None, 4)])
def test_room_is_asked_for_beyond_what_a_machine_left_out_would_give(reserved: Any, asked: int) -> None:
    """Ray reserves on the machines in an order of its own: a good one that comes later would never be offered."""
    scaling = elastic(1, 3)
    assert scaling._get_num_workers_for_resource_request() == 3
    scaling._latest_reserved_resources = reserved
    assert scaling.leave_out("c")
    assert scaling._get_num_workers_for_resource_request() == asked
    assert scaling._count_possible_workers({"b": {"CPU": 4.0}, "c": {"CPU": 1.0}}) == 3, "never more than there may be"
    scaling._count_possible_workers({"c": {"CPU": 1.0}})
    assert scaling._get_num_workers_for_resource_request() == 3, "it is taken again, for want of another"


class Ranks:
    """A group in which so many ranks find the data missing, this one included if it does."""

    def __init__(self, world_size: int, others_lacking: int = 0) -> None:
        self.world_size, self._others_lacking = world_size, others_lacking

    def sum_numbers(self, *numbers: float) -> list[float]:
        return [numbers[0] + self._others_lacking]


def agreed_on(error: InputError) -> InputError:
    error.is_agreed = True
    return error


@pytest.mark.parametrize(
    ("workers", "is_here", "others_lacking", "error", "is_excused"),
    [
        (Workers(2, 2), True, 0, agreed_on(PlanError("model", "is wrong.")), False),
        (Workers(1, 4), True, 0, agreed_on(PlanError("model", "is wrong.")), False),
        (Workers(2, 2), False, 1, agreed_on(DataError("dataset", "no files.")), False),
        (Workers(2, 2), False, 0, agreed_on(DataError("dataset", "no files.")), True),
        (Workers(2, 2), True, 1, agreed_on(DataError("dataset", "no files.")), True),
        (Workers(1, 4), False, 1, agreed_on(DataError("dataset", "no files.")), True),
        (Workers(2, 2), True, 0, DataError("dataset", "sample 7 cannot be read."), False),
        (Workers(2, 2), True, 0, agreed_on(InputError("--output-dir", "s3://x cannot be used.")), True),
        (Workers(2, 2), True, 0, InputError("/runs/one", "another process is at work on this run (train)."), True),
    ],
    ids=["bad spec", "bad spec, elastic", "data gone everywhere", "data gone here", "data gone there", "another machine may have them",
         "a bad sample", "storage away", "an old worker"],
)  # fmt: skip
def test_what_passes_with_another_machine_or_moment_is_tried_again_and_bad_input_is_not(
    monkeypatch: pytest.MonkeyPatch, workers: Workers, is_here: bool, others_lacking: int, error: InputError, is_excused: bool
) -> None:
    def load() -> None:
        if not is_here:
            raise DataError("dataset", "no files.")

    monkeypatch.setattr("largebatch.jobs.launch.on_ray.worker._own_node", lambda: "here")
    group: Any = Ranks(2, others_lacking)
    found = excuse(error, group, load, {"workers": workers, "run_dir": "/runs/one"})
    assert (found is not None) is is_excused
    if found is not None:
        assert (found.problem, found.node_id) == (error.problem, None if is_here else "here")


def test_messages_are_taken_once() -> None:
    box = mailbox(8)
    box.put([{"notice": "one"}])
    box.put([{"notice": "two"}])
    assert box.take() == ([{"notice": "one"}, {"notice": "two"}], None)
    assert box.take() == ([], None)
    assert not box.wants_stop()
    box.ask_to_stop()
    assert box.wants_stop()


def test_the_first_real_error_is_not_another_ranks_echo() -> None:
    failures = {0: RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1"), 1: ValueError("bad"), 2: ValueError("worse")}
    rank, error = first_failure(failures)
    assert (rank, str(error)) == (1, "bad")
    assert first_failure({0: failures[0]})[0] == 0
    assert first_cause(FaultError("", "no.", "Try.")) == "no. Try."


@pytest.mark.parametrize(
    ("error", "words"),
    [(ValueError("bad"), "ValueError: bad."), (ValueError(""), "ValueError."), (RuntimeError("Traceback\n  line\nKeyError: 'x'"), "KeyError: 'x'."),
     (InputError("field", "is wrong.", "Mend it."), "field: is wrong. Mend it."),
     (RuntimeError("The actor is dead because its worker process has died."), "its process ended (killed, out of memory, or its machine is gone).")],
)  # fmt: skip
def test_an_error_in_one_line(error: Exception, words: str) -> None:
    assert sentence(error) == words


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's kernel")
def test_the_interface_that_has_an_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.7") is None


def test_an_own_ray_is_not_whatever_is_up_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def init(**given: Any) -> None:
        asked.append(given)
        raise RuntimeError("enough")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr("largebatch.jobs.launch.on_ray.cluster.OWN_SETTINGS", {})
    for given, variable in ((None, None), (None, "local"), ("local", None)):
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        if variable:
            monkeypatch.setenv("RAY_ADDRESS", variable)
        with pytest.raises(FaultError, match="did not start: enough"), connected(TrainOptions(workers=Workers(1, 1), address=given)):
            pass
    assert [given["address"] for given in asked] == ["local"] * 3


class Cluster:
    """Machines of a Ray, by their CPUs and GPUs."""

    def __init__(self, *machines: tuple[int, int]) -> None:
        self._machines = machines

    def nodes(self) -> list[dict[str, Any]]:
        lost = {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}}
        return [lost, *({"Alive": True, "Resources": {"CPU": float(cpus), "GPU": float(gpus)}} for cpus, gpus in self._machines)]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(sum(cpus for cpus, _ in self._machines)), "GPU": float(sum(gpus for _, gpus in self._machines))}


@pytest.mark.parametrize(
    ("machines", "options", "device", "gets"),
    [([(8, 4), (8, 2)], TrainOptions(workers=Workers(4, 8), address="auto"), "auto", Resources(1.0, 1.0)),
     ([(8, 4)], TrainOptions(workers=Workers(4, 8), address="auto"), "cuda", Resources(1.0, 1.0)),
     ([(8, 3)], TrainOptions(workers=Workers(4, 8), address="auto"), "auto", Resources(1.0, 0.0)),
     ([(8, 4)], TrainOptions(workers=Workers(4, 8), address="auto"), "cpu", Resources(1.0, 0.0)),
     ([(4, 0), (4, 0)], TrainOptions(workers=Workers(2, 2), cpus_per_worker=3.0), "auto", Resources(3.0, 0.0)),
     ([(1, 0)], TrainOptions(workers=Workers(3, 3), cpus_per_worker=1 / 3), "auto", Resources(1 / 3, 0.0))],
)  # fmt: skip
def test_what_each_worker_gets(machines: list[tuple[int, int]], options: TrainOptions, device: str, gets: Resources) -> None:
    assert share_out(Cluster(*machines), options, device) == gets


@pytest.mark.parametrize(
    ("machines", "options", "device", "words"),
    [([(4, 0), (4, 0)], TrainOptions(workers=Workers(1, 1), cpus_per_worker=6.0), "cpu", "have room for 0: 4 CPUs and 0 GPUs, 4 CPUs and 0 GPUs"),
     ([(4, 0), (4, 0)], TrainOptions(workers=Workers(2, 9), cpus_per_worker=4.0), "cpu", None),
     ([(4, 0), (3, 0), (1, 0)], TrainOptions(workers=Workers(2, 2), cpus_per_worker=4.0), "cpu", "have room for 1"),
     ([(4, 2), (4, 2)], TrainOptions(workers=Workers(1, 1), gpus_per_worker=4.0), "cuda", "have room for 0"),
     ([(8, 3)], TrainOptions(workers=Workers(4, 8)), "cuda", "4 workers with 1 GPUs|cuda for 4 workers")],
)  # fmt: skip
def test_a_worker_is_not_spread_over_machines(machines: list[tuple[int, int]], options: TrainOptions, device: str, words: str | None) -> None:
    if words is None:
        share_out(Cluster(*machines), options, device)
        return
    with pytest.raises(InputError, match=words):
        share_out(Cluster(*machines), options, device)


def test_every_number_of_workers_is_planned_before_anything_starts() -> None:
    spec = build_spec(runs.document(batch_norm={"span": 125}, batch={"global_batch_size": 250, "micro_batch_size": 125}))
    plan = make_plan(spec, Facts(1437, True, 125, 1))
    refuse_unplannable(spec, plan, Workers(1, 2))
    with pytest.raises(PlanError, match=r"--workers 1:4 may come to 3: .* The largest number that works is 2\."):
        refuse_unplannable(spec, plan, Workers(1, 4))
    auto = build_spec(runs.document(batch_norm={"span": 25}, batch={"global_batch_size": 250, "micro_batch_size": "auto"}))
    refuse_unplannable(auto, make_plan(auto, Facts(1437, True, 250, 3)), Workers(1, 10))


def supervised(folder: Path, code: str, *arguments: str) -> "subprocess.Popen[str]":
    """The supervisor, with a driver of ours in place of `jobs`."""
    ours = folder / "largebatch" / "jobs"
    ours.mkdir(parents=True)
    (ours.parent / "__init__.py").touch()
    (ours / "__init__.py").write_text(f"__path__.append({str(SUPERVISE.parents[1])!r})")
    (ours / "__main__.py").write_text(code)
    script = f"import sys; sys.argv = ['supervise', *{list(arguments)!r}]; exec(open({str(SUPERVISE)!r}).read())"
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, stderr=subprocess.PIPE, text=True
    )


SUPERVISE = Path(__file__).parents[2] / "jobs" / "launch" / "supervise.py"


def test_a_killed_driver_is_started_again_and_an_exit_code_is_passed_on(tmp_path: Path) -> None:
    code = """
import os, pathlib, signal, sys
count = pathlib.Path("count"); n = int(count.read_text()) + 1 if count.exists() else 1; count.write_text(str(n))
if n < 3: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(len(sys.argv) + 10 * bool(os.environ.get("LARGEBATCH_STARTED_AGAIN")))
"""
    process = supervised(tmp_path, code, "one", "two")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 13, "it knows that it is not the first"
    assert (tmp_path / "count").read_text() == "3"
    assert said.count("ended by SIGKILL") == 2


def test_a_supervisor_that_is_asked_to_end_asks_its_driver_and_starts_no_other(tmp_path: Path) -> None:
    code = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
pathlib.Path("up").write_text("")
time.sleep(60)
"""
    process = supervised(tmp_path, code)
    ends_at = time.monotonic() + 30
    while not (tmp_path / "up").exists():
        assert time.monotonic() < ends_at
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 4


def test_what_only_watches_needs_no_torch() -> None:
    """The command and Ray Train's controller: torch's import is two seconds of a core in each."""
    watching = ", ".join(f"largebatch.jobs.launch.on_ray.{module}" for module in ("train", "process_group", "failures", "run_channel"))
    script = f"import sys; import {watching}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_a_driver_is_gone_only_when_ray_knows_that_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """An actor that cannot be reached, or does not answer, may come back."""
    errors = ray.exceptions
    for error, told in (
        (errors.ActorDiedError(), Gone), (errors.ActorUnavailableError("no route", None), errors.ActorUnavailableError),
        (errors.GetTimeoutError(), errors.GetTimeoutError),
    ):  # fmt: skip

        def get(answer: object, timeout: float, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(ray, "get", get)
        with pytest.raises(told):
            ask_driver(SimpleNamespace(stands=SimpleNamespace(remote=lambda: None)))


LIFELINE = """
import sys, time
from largebatch.jobs.launch.on_ray.heartbeat import Gone, lifeline

answers = list(sys.argv[1])

def ask():
    answer = answers.pop(0) if len(answers) > 1 else answers[0]
    if answer == "d":
        raise Gone("it is dead")
    if answer == "n":
        raise TimeoutError("nobody answers")

with lifeline(ask, every_s=0.01, misses=3):
    time.sleep(float(sys.argv[2]))
time.sleep(0.2)
print("at its end")
"""


@pytest.mark.parametrize(
    ("answers", "seconds", "why"),
    [("yynnn", "60", "TimeoutError: nobody answers"), ("yyd" + "y" * 20, "60", "Gone: it is dead"),
     ("nnynnynny", "0.5", None), ("y" * 20 + "n", "0.05", None)],
    ids=["cut off", "known to be dead", "answers now and then", "over before"],
)  # fmt: skip
def test_a_worker_that_has_lost_its_run_ends_itself(answers: str, seconds: str, why: str | None) -> None:
    done = subprocess.run([sys.executable, "-c", LIFELINE, answers, seconds], capture_output=True, text=True, timeout=30, check=False)
    if why is not None:
        assert done.returncode == 75
        assert f"has lost its run ({why})" in done.stderr
    else:
        assert (done.returncode, done.stdout.strip()) == (0, "at its end")


def test_ray_trains_own_barrier_is_not_there_and_says_so() -> None:
    meeting = pickle.loads(pickle.dumps(trainer.NoMeeting().options(label_selector={}).remote(timeout_s=1.0)))
    with pytest.raises(AttributeError, match=r"^broadcast_from_rank_zero: Ray Train's .* are not there in this run; torch\.distributed is"):
        meeting.broadcast_from_rank_zero.remote(world_rank=0)


def test_the_folder_of_a_helpers_socket_is_found_while_the_helper_lives(tmp_path: Path) -> None:
    folder = tmp_path / "pymp-x"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as kept, socket.socket(socket.AF_UNIX) as other:
        with contextlib.chdir(tmp_path):  # a socket's name must be short; the kernel tells it as it was given
            kept.bind("pymp-x/listener-y")
            other.bind("listener-z")
        kept.listen()
        assert socket_folders(os.getpid()) == {Path("pymp-x")}
    assert socket_folders(os.getpid()) == set()
