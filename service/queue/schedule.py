"""Whose turn it is: a pure function of what waits, what runs and what there is.

Order: what recovers, then higher priority among owners (which administrators give), then the owner who holds least (fair share), then who came
first; of one owner's jobs, higher priority. Nobody is overtaken by a smaller job: once a job does not fit, those behind it wait too. An owner at a
limit is passed over.
"""

import math
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import NamedTuple

from largebatch.service.job import Capacity, Job, State

LONGEST_WAIT_S = 300.0
"""No wait after a failure is longer; a time beyond it comes from a clock that jumped."""


class Limits(NamedTuple):
    """How much may run at a time."""

    running: int
    gpus: int
    """Of each owner."""
    running_together: float = math.inf
    """Jobs of all owners."""


def choose(waiting: Sequence[Job], holding: Sequence[Job], capacity: Capacity, limits: Limits, now_s: float) -> list[Job]:
    """The jobs that may start now, in that order.

    Args: waiting: queued and recovering; holding: starting and running.
    """
    free_cpus = capacity.cpus - sum(job.cpus for job in holding)
    free_gpus = capacity.gpus - sum(job.gpus for job in holding)
    free_gib = capacity.memory_gib - sum(job.memory_gib for job in holding)
    running: dict[str, int] = defaultdict(int)
    gpus: dict[str, int] = defaultdict(int)
    shares: dict[str, float] = defaultdict(float)

    def hold(job: Job) -> None:
        running[job.owner] += 1
        gpus[job.owner] += job.gpus
        shares[job.owner] += share(job, capacity)

    for job in holding:
        hold(job)
    lines: dict[str, deque[Job]] = defaultdict(deque)
    for job in sorted(waiting, key=_rank):
        if job.not_before_s is None or not 0 < job.not_before_s - now_s < LONGEST_WAIT_S:
            lines[job.owner].append(job)
    chosen: list[Job] = []
    while lines and len(holding) + len(chosen) < limits.running_together:
        owner = min(lines, key=lambda owner: _rank_among_owners(lines[owner][0], shares[owner]))
        job = lines[owner].popleft()
        if not lines[owner]:
            del lines[owner]
        if running[owner] >= limits.running or gpus[owner] + job.gpus > limits.gpus:
            continue
        if not fits(job, capacity):
            continue  # more than there is in all: nobody waits for that
        if not fits(job, Capacity(free_cpus, free_gpus, free_gib)):
            break
        free_cpus -= job.cpus
        free_gpus -= job.gpus
        free_gib -= job.memory_gib
        hold(job)
        chosen.append(job)
    return chosen


def _rank(job: Job) -> tuple[bool, int, float, str]:
    return job.state is not State.RECOVERING, -job.priority, job.created_at_s, job.id


def _rank_among_owners(job: Job, held: float) -> tuple[bool, int, float, float, str]:
    return job.state is not State.RECOVERING, -job.priority_among_owners, held, job.created_at_s, job.id


def fits(job: Job, capacity: Capacity) -> bool:
    """Whether there is as much of everything as a job holds."""
    return job.cpus <= capacity.cpus + 1e-9 and job.gpus <= capacity.gpus and job.memory_gib <= capacity.memory_gib + 1e-9


def share(job: Job, capacity: Capacity) -> float:
    """The part of the whole that a job holds: of its scarcest resource."""
    return max(held / there if there else 0.0 for held, there in zip((job.cpus, job.gpus, job.memory_gib), capacity, strict=True))
