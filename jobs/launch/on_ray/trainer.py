"""Ray Train's trainer: without what only Ray Data needs, with one count of all that fails, and with a new controller for one that is killed."""

import contextlib
import time
from typing import Any, Self

import ray
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup, state, worker_group
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util import remove_placement_group

from largebatch.jobs.launch.on_ray.failures import what_failed

NODE = "ray.io/node-id"
"""Ray's own label of a machine."""
START_AGAIN_S = 2.0
"""Between a group that could not start and the next: a port is free again, a machine that went is known to be gone."""


class WorkersTrainer(DataParallelTrainer):
    """Workers with a loop of their own that read their own data.

    Ray's own trainer brings Ray Data into every worker, starts a process that would hand out its shards, and one that
    would share the cluster out between Train and Data.

    Args: mailbox: knows when the run is over, and where its workers are; it is in train_loop_config too.
    """

    def __init__(self, mailbox: Any, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._mailbox = mailbox
        self._controller: Any = None
        self._is_ended = False

    def end(self) -> None:
        """From another thread: make `fit` raise soon. It must not wait for Ray any more when this process leaves Ray."""
        self._is_ended = True
        if self._controller is not None:
            ray.kill(self._controller)

    def fit(self) -> Any:
        """Train. A controller whose process ended is a failure like any other: its workers end with it, and others take over.

        Raises: what Ray's own does; RayActorError when that was one failure too many, the mailbox is gone too, or after `end`.
        """
        while True:
            try:
                return super().fit()
            except ray.exceptions.RayActorError:
                told = "the controller: its process ended (killed, or out of memory)."
                is_over = self._is_ended or ray.get(self._mailbox.failed.remote(told, False))
                room = ray.get(self._mailbox.room.remote())
                if room is not None:  # Ray keeps it for as long as this process lives
                    remove_placement_group(room)
                if is_over:
                    raise

    def _create_default_callbacks(self) -> list[Any]:
        left_out: tuple[type, ...] = (DatasetsCallback,)
        if ray.get_runtime_context().get_actor_id() is None:
            # The process that would free the workers' cores if the controller were killed: `fit` does, and with this process
            # Ray frees all that was its. A sweep's trial is an actor, which can be killed while others still want those cores.
            left_out += (PlacementGroupCleanerCallback,)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, left_out)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        """Ray's own, with the controller, the policies and the group of workers of this module."""
        config = arguments["scaling_policy"].scaling_config
        arguments["scaling_policy"] = ElasticWorkers(config) if config.elasticity_enabled else FixedWorkers(config)
        arguments["failure_policy"] = UntilOver(arguments["failure_policy"].failure_config, self._mailbox)
        start: Any = ray.remote(
            num_cpus=0,
            label_selector={NODE: ray.get_runtime_context().get_node_id()},
            runtime_env={"env_vars": {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0", **get_env_vars_to_propagate()}},
        )(WorkersTrainController)
        self._controller = controller = start.remote(**arguments)
        if self._is_ended:
            ray.kill(controller)
        try:
            ray.get(controller.run.remote())
            return ray.get(controller.get_result.remote())
        except ray.exceptions.RayActorError:
            ray.kill(controller)  # one that is only out of reach must not go on beside its successor
            raise


class NoMeeting:
    """In place of the process at which Ray Train's own barriers and reports meet, one for each group: our ranks meet in their process group."""

    def options(self, **_: object) -> Self:
        """See `remote`."""
        return self

    def remote(self, **_: object) -> Self:
        """Nothing is started."""
        return self

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name}: Ray Train's reports, barriers and broadcasts are not there in this run; torch.distributed is.")


class Room(WorkerGroup):
    """Workers whose placement group the mailbox knows from the start, and that leaves none behind when they cannot start."""

    def set_required_barrier_ranks(self, ranks: Any) -> bool:
        """Nobody waits at Ray Train's barrier, so none has to be let through."""
        return True

    def _create_placement_group(self, *arguments: Any) -> Any:
        handle = super()._create_placement_group(*arguments)
        config: Any = self._train_run_context.train_loop_config
        config["mailbox"].is_in.remote(handle.placement_group)
        return handle

    def _start(self) -> None:
        try:
            super()._start()  # type: ignore[no-untyped-call]
        except Exception:
            if self.has_started():  # until then Ray tidies up by itself
                with contextlib.suppress(Exception):
                    self.abort()  # type: ignore[no-untyped-call]
            raise


class WorkersTrainController(TrainController):
    """Ray Train's controller, for such workers."""

    worker_group_cls = Room

    def __init__(self, *, scaling_policy: Any, failure_policy: "UntilOver", **arguments: Any) -> None:
        failure_policy.scaling = scaling_policy  # here: Ray sends each argument by itself
        # Looked up by Ray Train in this process, which is this run's alone.
        worker_group.SynchronizationActor = NoMeeting()  # type: ignore[attr-defined, assignment]
        state._shutdown_sync_actor = lambda sync_actor: None
        super().__init__(scaling_policy=scaling_policy, failure_policy=failure_policy, **arguments)


class UntilOver(FailurePolicy):
    """Tells the mailbox of all that fails, also while a group starts; the mailbox counts, and the run goes on until it is over."""

    scaling: Any
    """The controller's other policy: told which machine a worker could not take part on."""

    def __init__(self, failure_config: Any, mailbox: Any) -> None:
        super().__init__(failure_config)
        self._mailbox = mailbox

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        """Whether new workers are started: they would only be told that it is over once the outcome is known."""
        failure = getattr(training_failed_error, "controller_failure", None)
        if isinstance(failure, WorkerGroupStartupTimeoutError):
            return FailureDecision.RETRY  # nothing failed: there is no room for them yet
        reason, is_preemption = what_failed(training_failed_error)
        for error in getattr(training_failed_error, "worker_failures", {}).values():
            reason += self.scaling.leave_out(getattr(error, "node_id", None))
        try:
            is_over = ray.get(self._mailbox.failed.remote(reason, is_preemption), timeout=10)
        except ray.exceptions.GetTimeoutError:
            is_over = False  # new workers will ask it too
        except ray.exceptions.RayError:
            return FailureDecision.RAISE  # nobody is there to tell of a run that goes on
        if is_over:
            return FailureDecision.RAISE
        if failure is not None:
            time.sleep(START_AGAIN_S)
        return FailureDecision.RETRY


class FixedWorkers(FixedScalingPolicy):
    """A number of workers that stays. Their placement group asks the cluster for room; nobody has to be told besides."""

    def leave_out(self, node_id: str | None) -> str:
        """It takes every machine that there is."""
        return ""

    def _send_resource_request(self) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass

    def _cancel_resource_request(self) -> None:
        pass


class ElasticWorkers(ElasticScalingPolicy):
    """As many workers as there are machines for, without those on which one could not take part, as long as the others are enough."""

    def __init__(self, scaling_config: Any) -> None:
        super().__init__(scaling_config)
        self._left_out: dict[str, int] = {}
        """Machines, and how many workers were to go there."""

    def leave_out(self, node_id: str | None) -> str:
        """From now on no worker goes to that machine; returns that in words."""
        if node_id is None or node_id in self._left_out:
            return ""
        reserved = (self._latest_reserved_resources or {}).get(node_id, {})
        self._left_out[node_id] = max(super()._count_possible_workers({node_id: reserved}), 1)
        return " That machine is left out from now on."

    def _get_num_workers_for_resource_request(self) -> int:
        """Ray reserves room on the machines in an order of its own: what it reserves on those left out is asked for once more."""
        return super()._get_num_workers_for_resource_request() + sum(self._left_out.values())

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        others = {node_id: resources for node_id, resources in reserved_resources.items() if node_id not in self._left_out}
        without, with_all = super()._count_possible_workers(others), super()._count_possible_workers(reserved_resources)
        if without < self.scaling_config.min_workers <= with_all:
            self._left_out.clear()
            return with_all
        return without

    def on_controller_start_worker_group(self, *, scaling_config: Any, num_workers: int) -> dict[str, str] | None:
        """Where Ray may place them."""
        return {NODE: f"!in({','.join(sorted(self._left_out))})"} if self._left_out else None
