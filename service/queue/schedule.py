"""Whose turn it is: a pure function of what waits, what runs and what there is.

Order: what recovers, then higher priority, then the owner who holds least (fair share), then who came first. Nobody
is overtaken by a smaller job: once a job does not fit, those behind it wait too. An owner at a limit is passed over.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import NamedTuple

from largebatch.service.job import Capacity, Job, State

LONGEST_WAIT_S = 300.0
"""No wait after a failure is longer; a time beyond it comes from a clock that jumped."""


class Limits(NamedTuple):
    """Of each owner."""

    running: int
    gpus: int


def choose(waiting: Sequence[Job], holding: Sequence[Job], capacity: Capacity, limits: Limits, now_s: float) -> list[Job]:
    """The jobs that may start now, in that order.

    Args: waiting: queued and recovering; holding: starting and running.
    """
    free_cpus = capacity.cpus - sum(job.cpus for job in holding)
    free_gpus = capacity.gpus - sum(job.gpus for job in holding)
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
    while lines:
        owner = min(lines, key=lambda owner: (*_rank(lines[owner][0])[:2], shares[owner], *_rank(lines[owner][0])[2:]))
        job = lines[owner].popleft()
        if not lines[owner]:
            del lines[owner]
        if running[owner] >= limits.running or gpus[owner] + job.gpus > limits.gpus:
            continue
        if job.cpus > capacity.cpus + 1e-9 or job.gpus > capacity.gpus:
            continue  # more than there is in all: nobody waits for that
        if job.cpus > free_cpus + 1e-9 or job.gpus > free_gpus:
            break
        free_cpus -= job.cpus
        free_gpus -= job.gpus
        hold(job)
        chosen.append(job)
    return chosen


def _rank(job: Job) -> tuple[bool, int, float, str]:
    return job.state is not State.RECOVERING, -job.priority, job.created_at_s, job.id


def share(job: Job, capacity: Capacity) -> float:
    """The part of the whole that a job holds: of its scarcer resource."""
    return max(job.cpus / capacity.cpus if capacity.cpus else 0.0, job.gpus / capacity.gpus if capacity.gpus else 0.0)
