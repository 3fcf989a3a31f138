"""Which trainer a run's branches have: this process where that suffices, else Ray's processes, side by side."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import torch

from largebatch.jobs.launch.options import CpusPerWorker, GpusPerWorker, Option, RayAddress, TrainOptions
from largebatch.tuning.branch.origin import Origin
from largebatch.tuning.branch.trainers.trainer import Trainer, TrainerHere
from largebatch.tuning.sweep.spec import ResourcesSpec
from largebatch.tuning.sweep.trials.resources import split_machines


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """The options of branches that train side by side."""

    address: RayAddress = None
    max_concurrent: Annotated[
        int | None, Option("Branches at a time, each in a worker of Ray's; default as many as the machines hold.", metavar="N", minimum=1)
    ] = None
    cpus_per_worker: CpusPerWorker = None
    gpus_per_worker: GpusPerWorker = None

    def is_wanted(self, device: str) -> bool:
        """Whether a Ray is named, or several branches at a time are asked for, or this machine has several GPUs for them."""
        if TrainOptions(address=self.address).ray_address is not None:
            return True
        asked = (self.address, self.max_concurrent, self.cpus_per_worker, self.gpus_per_worker)
        has_several_gpus = device != "cpu" and torch.cuda.device_count() > 1
        return self.max_concurrent != 1 and (has_several_gpus or any(option is not None for option in asked))

    @property
    def resources(self) -> ResourcesSpec:
        """What each branch gets, as a sweep says it of its runs."""
        shares = {"cpus_per_worker": self.cpus_per_worker, "gpus_per_worker": self.gpus_per_worker, "max_concurrent": self.max_concurrent}
        return ResourcesSpec.model_validate({name: value for name, value in shares.items() if value is not None})


@contextmanager
def trainer_for(origin: Origin, side_by_side: SideBySide, device: str) -> Iterator[Trainer]:
    """What trains the origin's branches; its processes end with the block.

    Raises: InputError for an address that does not answer, or if not even one branch fits; FaultError if Ray does not start.
    """
    if not side_by_side.is_wanted(device):
        yield TrainerHere(origin.job)
        return
    from largebatch.jobs.launch.on_ray.cluster import connected  # the lazy gate to Ray
    from largebatch.tuning.branch.trainers.ray_trainer import RayTrainer
    from largebatch.tuning.sweep.trials.on_ray.ray_actors import machines

    with connected(TrainOptions(address=side_by_side.address)):
        yield RayTrainer(origin, split_machines(machines(), side_by_side.resources, device))
