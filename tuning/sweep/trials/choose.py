"""Which processes train a sweep's runs: warm ones of this machine where they suffice, else Ray's."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from largebatch.jobs.launch.options import TrainOptions
from largebatch.tuning.sweep.spec import ResourcesSpec
from largebatch.tuning.sweep.trials.processes import Processes
from largebatch.tuning.sweep.trials.resources import Shares, split_machines
from largebatch.tuning.sweep.trials.warm.warm_processes import WarmProcesses


@contextmanager
def trainers(resources: ResourcesSpec, options: TrainOptions, device: str, warm: WarmProcesses | None = None) -> Iterator[tuple[Processes, Shares]]:
    """The processes for a sweep's runs, and what each run gets. They end with the block.

    Ray's where there is one by its address, where a run has several workers, and where runs may have GPUs: those it deals out.

    Args: warm: processes of this machine that were begun already; they stay.
    Raises: InputError if not even one run fits; FaultError if Ray does not start.
    """
    may_have_gpu = device != "cpu" and resources.gpus_per_worker != 0 and torch.cuda.is_available()
    if options.ray_address is None and resources.workers == 1 and not may_have_gpu:
        shares = split_machines([{"CPU": float(os.cpu_count() or 1)}], resources, device)
        with nullcontext(warm) if warm else WarmProcesses() as processes:
            yield processes, shares
        return
    from largebatch.jobs.launch.on_ray.cluster import connected  # the lazy gate to Ray
    from largebatch.tuning.sweep.trials.on_ray.ray_actors import machines
    from largebatch.tuning.sweep.trials.on_ray.ray_processes import RayProcesses

    with connected(options):
        shares = split_machines(machines(), resources, device)
        yield RayProcesses(shares), shares
