"""What failed in a worker group, and whether the run goes on."""

import pytest
import ray
from ray.train import ControllerError, PreemptionError, PreemptionInfo, WorkerGroupError

from largebatch.jobs.errors import FaultError, InputError
from largebatch.jobs.launch.on_ray.failures import Failure, FailurePolicy, LostRanksError, UnfitError, describe, is_of_other_ranks, sentence

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
        (WorkerGroupError("", {0: LOST}), Failure("worker 0: RuntimeError: Connection closed by peer.")),
        (WorkerGroupError("", {0: DeadWorker(preempted=True)}), Failure(f"worker 0: {ENDED}", is_preemption=True)),
        (WorkerGroupError("", {0: LOST, 1: DeadWorker(preempted=False)}), Failure(f"worker 1: {ENDED}")),
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
        (ray.exceptions.ActorDiedError(), Failure("the controller: its process ended (killed, or out of memory).")),
        (ControllerError(StartTimeout()), None),
    ],
)
def test_a_failure_in_words(error: Exception, failure: Failure | None) -> None:
    assert describe(error) == failure


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
