"""Torch's process group among Ray Train's workers, made without torch in the processes that only watch them.

Ray's own `TorchConfig` brings torch into the command and into the controller: two seconds of a core each at every
start, and some hundred MiB. Here torch is met in the workers alone.
"""

import contextlib
import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import ray.train
from ray.train.backend import Backend, BackendConfig

from largebatch.jobs.launch.on_ray.network import use_rays_interface
from largebatch.jobs.launch.spinning import spin_briefly
from largebatch.jobs.launch.termination import listen

TIMEOUT_S = 600.0
"""How long an operation of the group may take before it fails."""
LEAVE_S = 5.0
"""How long the workers of a group that ends may take to leave it."""


@dataclass
class ProcessGroup(BackendConfig):
    """Args: backend: torch's name for what joins the workers, `nccl` or `gloo`."""

    backend: str

    @property
    def backend_cls(self) -> Any:
        """What Ray Train starts."""
        return ProcessGroupBackend


class ProcessGroupBackend(Backend):
    """What Ray Train's controller has its workers do before and after training; they do it in their main threads."""

    share_cuda_visible_devices = True  # NCCL's peers on one machine must see each other's GPUs

    def on_start(self, worker_group: Any, backend_config: ProcessGroup) -> None:  # type: ignore[override]
        """All workers are there: join them."""
        worker_group.execute(use_rays_interface)
        meeting = worker_group.execute_single(0, meeting_place)
        world_size = len(worker_group)
        joining = [worker_group.execute_single_async(rank, join, backend_config.backend, meeting, rank, world_size) for rank in range(world_size)]
        ray.get(joining)
        worker_group.execute(listen)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """The group ends; a worker that hangs in an operation is not waited for."""
        with contextlib.suppress(ray.exceptions.GetTimeoutError):
            ray.get(worker_group.execute_async(leave), timeout=LEAVE_S)


def meeting_place() -> str:
    """Rank 0's address on the network that Ray uses, with a free port: `tcp://host:port`."""
    host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    is_6 = ":" in host
    with socket.socket(socket.AF_INET6 if is_6 else socket.AF_INET) as asking:
        asking.bind(("", 0))
        port = asking.getsockname()[1]
    return f"tcp://[{host}]:{port}" if is_6 else f"tcp://{host}:{port}"


def join(backend: str, meeting: str, rank: int, world_size: int) -> None:
    """Take part in the group as one rank; the environment says which, as under torchrun, for models that ask."""
    spin_briefly()
    import torch.distributed as dist

    context: Any = ray.train.get_context()
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(context.get_local_rank()),
        LOCAL_WORLD_SIZE=str(context.get_local_world_size()), NODE_RANK=str(context.get_node_rank()),
    )  # fmt: skip
    if backend == "nccl":
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")  # a lost peer ends the process, where NCCL would wait for it
    dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=world_size, timeout=timedelta(seconds=TIMEOUT_S))


def leave() -> None:
    """End this worker's part in the group."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
