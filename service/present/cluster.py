"""What there is, who holds it, and who waits for what: for REST and the page alike."""

import math
from datetime import datetime
from typing import Any

from largebatch.service.job import Described, Job, Kind, Machine


class MachineView(Described):
    """One machine."""

    name: str
    cpus: float
    gpus: int
    memory_gib: float | None
    """What jobs may hold of it; null: it is not counted."""


class Share(Described):
    """What one job holds, or waits for. Of a job that the asker may not see, it says nothing else."""

    id: str | None
    """null, like kind, name and owner: a job of others."""
    kind: Kind | None
    name: str | None
    owner: str | None
    cpus: float
    gpus: int
    memory_gib: float
    since: datetime
    """When it began, or was asked for."""


class Waiting(Share):
    """One job of the queue, in the order of their turns."""

    why: str
    """Such as: waits for 2 GPUs."""


class Cluster(Described):
    """What there is, and who waits for it."""

    backend: str
    machines: list[MachineView]
    cpus: float
    gpus: int
    memory_gib: float | None
    """null: not counted."""
    cpus_held: float
    """By jobs that start or run."""
    gpus_held: int
    memory_gib_held: float
    running: list[Share]
    queue: list[Waiting]
    """Its front."""
    jobs: dict[str, int]
    """How many jobs stand in each state."""
    problem: str | None
    """Why the backend or database was not reached at the last try; for administrators."""


def share_of(job: Job, sees: bool) -> dict[str, Any]:
    """A job as a share of the cluster. Args: sees: whether the asker may see it."""
    known = {"id": job.id, "kind": job.kind, "name": job.name, "owner": job.owner} if sees else dict.fromkeys(("id", "kind", "name", "owner"))
    return {**known, "cpus": job.cpus, "gpus": job.gpus, "memory_gib": job.memory_gib, "since": job.started_at_s or job.created_at_s}


def machine_view(machine: Machine) -> MachineView:
    """A machine, for the network."""
    return MachineView(name=machine.name, cpus=machine.there.cpus, gpus=machine.there.gpus, memory_gib=finite(machine.there.memory_gib))


def finite(gib: float) -> float | None:
    """An amount of memory; None where it is not counted."""
    return gib if math.isfinite(gib) else None
