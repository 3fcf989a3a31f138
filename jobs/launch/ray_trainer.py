"""Ray Train's trainer without what only Ray Data needs; every run would wait seconds for it."""

from typing import Any

from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


class WorkersTrainer(DataParallelTrainer):
    """Workers with a loop of their own that read their own data.

    Ray's own trainer brings Ray Data into every worker, starts a process that would hand out its shards, and one that
    would share the cluster out between Train and Data.
    """

    def _create_default_callbacks(self) -> list[Any]:
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, DatasetsCallback)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        if type(arguments["scaling_policy"]) is FixedScalingPolicy:
            arguments["scaling_policy"] = FixedWorkers(arguments["scaling_policy"].scaling_config)
        return super()._initialize_and_run_controller(**arguments)


class FixedWorkers(FixedScalingPolicy):
    """A number of workers that stays. Their placement group asks the cluster for room; nobody has to be told besides."""

    def _send_resource_request(self) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass

    def _cancel_resource_request(self) -> None:
        pass
