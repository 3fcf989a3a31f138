"""Ray Train's trainer: without what only Ray Data needs, with an end to its retries, and with a new controller for one that is killed."""

import contextlib
from typing import Any

import ray
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util import remove_placement_group


class WorkersTrainer(DataParallelTrainer):
    """Workers with a loop of their own that read their own data.

    Ray's own trainer brings Ray Data into every worker, starts a process that would hand out its shards, and one that
    would share the cluster out between Train and Data.

    Args: mailbox: knows when the run is over, and where its workers are.
    """

    def __init__(self, mailbox: Any, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._mailbox = mailbox

    def fit(self) -> Any:
        """Train. A controller whose process ended is a failure like any other: its workers end with it, and others take over.

        Raises: what Ray's own does; RayActorError when that was one failure too many, or the mailbox is gone too.
        """
        while True:
            try:
                return super().fit()
            except ray.exceptions.RayActorError:
                ray.get(self._mailbox.failed.remote("the controller: its process ended (killed, or out of memory).", False))
                room, is_over = ray.get([self._mailbox.room.remote(), self._mailbox.is_over.remote()])
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
        kept = [callback for callback in super()._create_default_callbacks() if not isinstance(callback, left_out)]
        return [*kept, TellRoom(self._mailbox)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        if type(arguments["scaling_policy"]) is FixedScalingPolicy:
            arguments["scaling_policy"] = FixedWorkers(arguments["scaling_policy"].scaling_config)
        arguments["failure_policy"] = UntilOver(arguments["failure_policy"].failure_config, self._mailbox)
        return super()._initialize_and_run_controller(**arguments)


class TellRoom(WorkerGroupCallback):
    """Tells the mailbox which placement group the workers are in, for the day when the controller is no more."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def after_worker_group_start(self, worker_group: Any) -> None:
        """The workers are there, and begin."""
        self._mailbox.is_in.remote(worker_group.get_worker_group_state().placement_group_handle.placement_group)


class UntilOver(DefaultFailurePolicy):
    """After a failure goes on with new workers, but not once the outcome is known: they would start only to be told so."""

    def __init__(self, failure_config: Any, mailbox: Any) -> None:
        super().__init__(failure_config)
        self._mailbox = mailbox

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        """Ray's own decision while the run is not over."""
        decision = super().make_decision(training_failed_error)
        with contextlib.suppress(Exception):  # new workers will ask it too
            if ray.get(self._mailbox.is_over.remote(), timeout=10):
                return FailureDecision.RAISE
        return decision


class FixedWorkers(FixedScalingPolicy):
    """A number of workers that stays. Their placement group asks the cluster for room; nobody has to be told besides."""

    def _send_resource_request(self) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass

    def _cancel_resource_request(self) -> None:
        pass
