"""What driver and workers decide, and what they tell each other, each part without a cluster."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import launch_runs as runs
import psutil
import pytest
import ray
from ray.train import ControllerError, PreemptionError, PreemptionInfo, WorkerGroupError

from largebatch.jobs.errors import DataError, FaultError, InputError, PlanError
from largebatch.jobs.launch.on_ray.cluster import OWN_SETTINGS, SETTINGS, connected
from largebatch.jobs.launch.on_ray.failures import Failure, FailurePolicy, LostRanksError, UnfitError, describe, is_of_other_ranks, sentence
from largebatch.jobs.launch.on_ray.machines import gone_in_words
from largebatch.jobs.launch.on_ray.resources import Resources, worker_resources
from largebatch.jobs.launch.on_ray.run_channel import RunChannel
from largebatch.jobs.launch.on_ray.worker.entry import interface_of
from largebatch.jobs.launch.on_ray.worker.heartbeat import RunGoneError
from largebatch.jobs.launch.on_ray.worker.work import ask_run, excuse, refuse_unplannable
from largebatch.jobs.launch.options import TrainOptions, Workers
from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.spec.read import build_spec


class SomeRanks:
    """Ranks of which so many find the data missing, this one included if it does."""

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
    workers: Workers, is_here: bool, others_lacking: int, error: InputError, is_excused: bool
) -> None:
    def load() -> None:
        if not is_here:
            raise DataError("dataset", "no files.")

    ranks: Any = SomeRanks(2, others_lacking)
    config: Any = SimpleNamespace(workers=workers, run_dir=Path("/runs/one"))
    unfit = excuse(error, ranks, load, config, "this machine")
    assert (unfit is not None) is is_excused
    if unfit is not None:
        assert (unfit.problem, unfit.node_id) == (error.problem, None if is_here else "this machine")


def test_every_number_of_workers_is_planned_before_anything_starts() -> None:
    spec = build_spec(runs.document(batch_norm={"span": 125}, batch={"global_batch_size": 250, "micro_batch_size": 125}))
    plan = make_plan(spec, Facts(1437, True, 125, 1))
    refuse_unplannable(spec, plan, Workers(1, 2))
    with pytest.raises(PlanError, match=r"--workers 1:4 may come to 3: .* The largest number that works is 2\."):
        refuse_unplannable(spec, plan, Workers(1, 4))
    auto = build_spec(runs.document(batch_norm={"span": 25}, batch={"global_batch_size": 250, "micro_batch_size": "auto"}))
    refuse_unplannable(auto, make_plan(auto, Facts(1437, True, 250, 3)), Workers(1, 10))


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ray.exceptions.ActorDiedError(), RunGoneError),
     (ray.exceptions.ActorUnavailableError("no route", None), ray.exceptions.ActorUnavailableError),
     (ray.exceptions.GetTimeoutError(), ray.exceptions.GetTimeoutError)],
    ids=["dead", "out of reach", "silent"],
)  # fmt: skip
def test_a_run_is_gone_only_when_ray_knows_that_it_is(monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception]) -> None:
    """An actor that cannot be reached, or does not answer, may come back."""

    def get(answer: object, timeout: float) -> None:
        raise error

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(kind):
        ask_run(SimpleNamespace(ping=SimpleNamespace(remote=lambda: None)))


def test_what_a_worker_does_before_torch_is_loaded_does_not_load_it() -> None:
    """How OpenMP's threads wait is read once, when torch is loaded."""
    script = "import sys; import largebatch.jobs.launch.on_ray.worker.entry; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_the_interface_that_has_an_address() -> None:
    loopback = next(name for name, addresses in psutil.net_if_addrs().items() if any(entry.address == "127.0.0.1" for entry in addresses))
    assert interface_of("127.0.0.1") == loopback
    assert interface_of("203.0.113.7") is None


ENDED = "its process ended (killed, out of memory, or its machine is gone)."
LOST = LostRanksError("", "RuntimeError: Connection closed by peer.")


class DeadWorker(Exception):
    """A worker's end in Ray Train's wrapping, whose class is not public."""

    def __init__(self, preempted: bool) -> None:
        super().__init__("A worker health check failed.")
        self.health_check_failure = ray.exceptions.RayActorError(preempted=preempted)


class StartTimeout(Exception):
    """So is that of a start that had no room."""

    num_workers = 2


def not_started() -> ControllerError:
    error = RuntimeError("At least one of the worker actors failed to initialize.")
    error.__cause__ = ray.exceptions.ActorDiedError()
    return ControllerError(error)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (WorkerGroupError("", {1: ValueError("bad")}), Failure("worker 1: ValueError: bad.")),
        (WorkerGroupError("", {0: LOST, 1: ValueError("bad"), 2: ValueError("worse")}), Failure("worker 1: ValueError: bad.")),
        (WorkerGroupError("", {0: LOST}), Failure("worker 0: RuntimeError: Connection closed by peer.", has_cause=False)),
        (WorkerGroupError("", {0: DeadWorker(preempted=True)}), Failure(f"worker 0: {ENDED}", is_preemption=True, has_cause=False)),
        (WorkerGroupError("", {0: LOST, 1: DeadWorker(preempted=False)}), Failure(f"worker 1: {ENDED}", has_cause=False)),
        (
            WorkerGroupError("", {0: UnfitError("--data-dir", "is empty."), 2: UnfitError("--data-dir", "is empty.", node_id="c")}),
            Failure("worker 0: --data-dir: is empty.", unfit_machines=frozenset("c")),
        ),
        (
            PreemptionError(PreemptionInfo(None, {"a": [0]}), drain_timed_out=True),
            Failure("a machine was taken away before its workers had ended.", is_preemption=True),
        ),
        (ControllerError(RuntimeError("port 29500 is taken")), Failure("a worker could not start: RuntimeError: port 29500 is taken.")),
        (not_started(), Failure(f"a worker could not start: {ENDED}")),
        (ray.exceptions.ActorDiedError(), Failure("the controller: its process ended (killed, or out of memory).", has_cause=False)),
        (ControllerError(StartTimeout()), None),
    ],
)
def test_a_failure_in_words(error: Exception, failure: Failure | None) -> None:
    assert describe(error) == failure


def test_lost_machines_are_named_with_what_was_on_them() -> None:
    nodes = [
        {"NodeID": letter, "Alive": letter == "a", "NodeManagerAddress": f"10.0.0.{number}", "NodeManagerHostname": name}
        for number, (letter, name) in enumerate([("a", "one"), ("b", "two"), ("c", "10.0.0.2"), ("d", "not ours")])
    ]
    assert gone_in_words({"a": 2, "b": 1}, nodes) == "machine 10.0.0.1 (two) is gone, with 1 of 3 workers."
    assert gone_in_words({"a": 1, "b": 1, "c": 3}, nodes) == "machines 10.0.0.1 (two), 10.0.0.2 are gone, with 4 of 5 workers."
    assert gone_in_words({"a": 2}, nodes) is None


@pytest.mark.parametrize(
    ("error", "words"),
    [(ValueError("bad"), "ValueError: bad."), (ValueError(""), "ValueError."), (RuntimeError("Traceback\n  line\nKeyError: 'x'"), "KeyError: 'x'."),
     (InputError("field", "is wrong.", "Mend it."), "field: is wrong. Mend it."), (ray.exceptions.ActorDiedError(), ENDED)],
)  # fmt: skip
def test_an_error_in_one_line(error: Exception, words: str) -> None:
    assert sentence(error) == words


def test_failures_are_counted_and_preemptions_are_not() -> None:
    policy = FailurePolicy(1, "Logs are there.")
    assert policy.count(Failure("worker 1: gone."), is_elastic=False) == "Failure: worker 1: gone."
    assert policy.count(Failure("worker 0: SIGTERM.", is_preemption=True), is_elastic=False) == "Preempted: worker 0: SIGTERM."
    assert policy.reasons == ["Failure: worker 1: gone.", "Preempted: worker 0: SIGTERM."]
    with pytest.raises(FaultError) as caught:
        policy.count(Failure("worker 1: gone again."), is_elastic=False)
    assert str(caught.value) == "the run failed more than 1 times, at last: worker 1: gone again. Logs are there."


def test_a_machine_on_which_a_worker_cannot_take_part_is_left_out_where_others_may_do() -> None:
    policy, failure = FailurePolicy(8, ""), Failure("worker 2: --data-dir: is empty.", unfit_machines=frozenset("c"))
    policy.count(failure, is_elastic=False)
    assert not policy.left_out
    assert policy.count(failure, is_elastic=True) == "Failure: worker 2: --data-dir: is empty. That machine is left out from now on."
    assert policy.left_out == {"c"}
    assert "left out" not in policy.count(failure, is_elastic=True), "it has been said"


def test_what_fails_in_an_operation_of_all_ranks_is_another_ranks_echo() -> None:
    def caught(code: str, module: str) -> BaseException:
        try:
            exec(code, {"__name__": module})
        except Exception as error:
            return error
        raise AssertionError

    assert is_of_other_ranks(caught("raise RuntimeError('Connection closed by peer')", "torch.distributed.distributed_c10d"))
    assert is_of_other_ranks(caught("raise RuntimeError('Connection closed by peer')", "largebatch.jobs.engine.ranks.all_reduce"))
    assert not is_of_other_ranks(caught("raise RuntimeError('Connection closed by peer')", "a_model"))
    assert not is_of_other_ranks(RuntimeError("never raised"))


def nodes(*machines: tuple[int, int]) -> list[dict[str, Any]]:
    """Machines by their CPUs and GPUs, as Ray lists them; one more has been lost."""
    lost = {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}}
    return [lost, *({"Alive": True, "Resources": {"CPU": float(cpus), "GPU": float(gpus)}} for cpus, gpus in machines)]


@pytest.mark.parametrize(
    ("machines", "options", "gets"),
    [([(8, 4), (8, 2)], TrainOptions(workers=Workers(4, 8), device="auto"), Resources(1.0, 1.0)),
     ([(8, 4)], TrainOptions(workers=Workers(4, 8), device="cuda"), Resources(1.0, 1.0)),
     ([(8, 3)], TrainOptions(workers=Workers(4, 8), device="auto"), Resources(1.0, 0.0)),
     ([(8, 4)], TrainOptions(workers=Workers(4, 8), device="cpu"), Resources(1.0, 0.0)),
     ([(4, 0), (4, 0)], TrainOptions(workers=Workers(2, 2), cpus_per_worker=3.0, device="auto"), Resources(3.0, 0.0)),
     ([(1, 0)], TrainOptions(workers=Workers(3, 3), cpus_per_worker=1 / 3, device="auto"), Resources(1 / 3, 0.0))],
)  # fmt: skip
def test_what_each_worker_gets(machines: list[tuple[int, int]], options: TrainOptions, gets: Resources) -> None:
    assert worker_resources(options, nodes(*machines), is_own=False) == gets


def test_a_ray_of_our_own_is_shared_out_whole() -> None:
    assert worker_resources(TrainOptions(workers=Workers(2, 2), device="cpu"), nodes((8, 0)), is_own=True) == Resources(4.0, 0.0)


@pytest.mark.parametrize(
    ("machines", "options", "words"),
    [([(4, 0), (4, 0)], TrainOptions(workers=Workers(1, 1), cpus_per_worker=6.0, device="cpu"), "room for 0: 4 CPUs and 0 GPUs, 4 CPUs and 0 GPUs"),
     ([(4, 0), (4, 0)], TrainOptions(workers=Workers(2, 9), cpus_per_worker=4.0, device="cpu"), None),
     ([(4, 0), (3, 0), (1, 0)], TrainOptions(workers=Workers(2, 2), cpus_per_worker=4.0, device="cpu"), "have room for 1"),
     ([(4, 2), (4, 2)], TrainOptions(workers=Workers(1, 1), gpus_per_worker=4.0, device="cuda"), "have room for 0"),
     ([(8, 3)], TrainOptions(workers=Workers(4, 8), device="cuda"), "4 workers with 1 GPUs|cuda for 4 workers")],
)  # fmt: skip
def test_a_worker_is_not_spread_over_machines(machines: list[tuple[int, int]], options: TrainOptions, words: str | None) -> None:
    if words is None:
        worker_resources(options, nodes(*machines), is_own=False)
        return
    with pytest.raises(InputError, match=words):
        worker_resources(options, nodes(*machines), is_own=False)


def test_messages_are_taken_once() -> None:
    channel = RunChannel()
    channel.put([{"notice": "one"}])
    channel.put([{"notice": "two"}])
    assert channel.take().messages == [{"notice": "one"}, {"notice": "two"}]
    assert channel.take().messages == []


def test_a_request_to_stop_holds_for_all_groups_and_one_to_pause_for_its_own() -> None:
    channel = RunChannel()
    channel.new_group()
    assert not channel.put([])
    channel.ask_to_pause()
    assert channel.put([])
    assert channel.requests() == (False, True)
    channel.new_group()
    assert not channel.put([])
    channel.ask_to_stop()
    channel.new_group()
    assert channel.put([])
    assert channel.begin(), "a group that comes afterwards ends at once"
    assert channel.requests() == (True, False)


def test_each_group_begins_and_ends_for_itself() -> None:
    channel = RunChannel()
    first = channel.new_group()
    channel.occupies("cores")
    channel.begin()
    channel.trains()
    assert channel.take()[1:] == (None, True, True, "cores")
    second = channel.new_group()
    assert channel.take()[1:] == (None, False, True, None), "what was trained stays"
    channel.finish(first, {"paused": "too late"})
    assert channel.take().outcome is None
    channel.finish(second, {"summary": {}})
    assert channel.take().outcome == {"summary": {}}


@pytest.mark.parametrize(("address", "variable"), [(None, None), (None, "local"), ("local", None)])
def test_an_own_ray_is_not_whatever_is_up_on_this_machine(monkeypatch: pytest.MonkeyPatch, address: str | None, variable: str | None) -> None:
    addresses: list[str] = []

    def init(*, address: str, **_: Any) -> None:
        addresses.append(address)
        raise RuntimeError("enough")

    monkeypatch.setattr(ray, "init", init)
    for name, value in {**SETTINGS, **OWN_SETTINGS}.items():
        monkeypatch.setenv(name, value)  # taken back afterwards
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    with pytest.raises(FaultError, match="did not start: enough"), connected(TrainOptions(address=address)):
        pass
    assert addresses == ["local"]


SCRIPT = """
import sys, time
from largebatch.jobs.launch.on_ray.worker.heartbeat import RunGoneError, heartbeat

answers = list(sys.argv[1])

def ask():
    answer = answers.pop(0) if len(answers) > 1 else answers[0]
    if answer == "d":
        raise RunGoneError("it is dead")
    if answer == "n":
        raise TimeoutError("nobody answers")

with heartbeat(ask, every_s=0.01, misses=3):
    time.sleep(float(sys.argv[2]))
time.sleep(0.2)
print("at its end")
"""


@pytest.mark.parametrize(
    ("answers", "seconds", "why"),
    [("yynnn", "60", "TimeoutError: nobody answers"), ("yyd" + "y" * 20, "60", "RunGoneError: it is dead"),
     ("nnynnynny", "0.5", None), ("y" * 20 + "n", "0.05", None)],
    ids=["cut off", "known to be dead", "answers now and then", "over before"],
)  # fmt: skip
def test_a_worker_that_has_lost_its_run_ends_itself(answers: str, seconds: str, why: str | None) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, answers, seconds], capture_output=True, text=True, timeout=60, check=False)
    if why is not None:
        assert done.returncode == 75
        assert f"has lost its run ({why})" in done.stderr
    else:
        assert (done.returncode, done.stdout.strip()) == (0, "at its end")
