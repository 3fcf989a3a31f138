"""Torch's process group among Ray Train's workers: Ray's own, with what our workers need before and after it.

Ray Train runs a backend's functions in the main thread of each worker, which alone may set signal handlers.
"""

from typing import Any

import ray
from ray.train.torch import TorchConfig

from largebatch.jobs.launch.on_ray.worker.entry import before_torch
from largebatch.jobs.launch.termination import listen

TIMEOUT_S = 600
"""How long an operation of the process group may take before it fails."""
RayTorchBackend: Any = TorchConfig().backend_cls


class WorkersTorchConfig(TorchConfig):
    """Ray's configuration of the process group, for workers of ours.

    Args: run_channel: told which cores the workers have as soon as they are there.
    """

    def __init__(self, uses_gpu: bool, run_channel: Any) -> None:
        super().__init__(backend="nccl" if uses_gpu else "gloo", timeout_s=TIMEOUT_S)
        self.run_channel = run_channel

    @property
    def backend_cls(self) -> Any:
        """What Ray Train starts."""
        return WorkersTorchBackend


class WorkersTorchBackend(RayTorchBackend):  # type: ignore[misc]
    """What Ray Train's controller has its workers do before they train."""

    def on_start(self, worker_group: Any, backend_config: WorkersTorchConfig) -> None:
        """All workers are there: let them join the process group."""
        backend_config.run_channel.occupies.remote(worker_group.execute_single(0, ray.util.get_current_placement_group))
        worker_group.execute(before_torch)
        super().on_start(worker_group, backend_config)
        worker_group.execute(listen)
