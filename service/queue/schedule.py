"""Whose turn it is: a pure function of what waits, what runs and what there is.

Order: what recovers, then higher priority among owners (which administrators give), then the owner who holds least (fair share), then who came
first; of one owner's jobs, higher priority. Nobody is overtaken by a smaller job: once a job does not fit, those behind it wait too. An owner at a
limit is passed over.
"""

import math
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from largebatch.service.job import Capacity, Job, State
from largebatch.service.settings import Settings

LONGEST_WAIT_S = 300.0
"""No wait after a failure is longer; a time beyond it comes from a clock that jumped."""


class Limits(NamedTuple):
    """How much may run at a time."""

    running: int
    gpus: int
    """Of each owner."""
    running_together: float = math.inf
    """Jobs of all owners."""


class Turn(NamedTuple):
    """One job that waits, and why."""

    job: Job
    why: str
    """In words; empty: its turn has come."""
    is_first: bool = False
    """It is the first that does not fit: none of those behind it starts."""
    behind: Job | None = None
    """That first one, of those behind it."""


def limits_of(settings: Settings, capacity: Capacity) -> Limits:
    """What the operator allows each owner: unless told otherwise, as many jobs as there are cores."""
    most, together = settings.max_running_per_owner, settings.max_running
    of_owner = max(1, int(capacity.cpus)) if most is None else most
    return Limits(of_owner, settings.max_gpus_per_owner, math.inf if together is None else together)


def choose(waiting: Sequence[Job], holding: Sequence[Job], capacity: Capacity, limits: Limits, now_s: float) -> list[Job]:
    """The jobs that may start now, in that order. Args: as of `turns`."""
    chosen = []
    for turn in turns(waiting, holding, capacity, limits, now_s):
        if turn.is_first:
            break
        if not turn.why:
            chosen.append(turn.job)
    return chosen


def turns(waiting: Sequence[Job], holding: Sequence[Job], capacity: Capacity, limits: Limits, now_s: float) -> Iterator[Turn]:
    """The jobs that wait, in the order of their turns; last those that pause.

    Args: waiting: queued and recovering; holding: starting and running.
    """
    free = capacity
    running: dict[str, int] = defaultdict(int)
    gpus: dict[str, int] = defaultdict(int)
    shares: dict[str, float] = defaultdict(float)

    def hold(job: Job) -> None:
        nonlocal free
        free = Capacity(free.cpus - job.cpus, free.gpus - job.gpus, free.memory_gib - job.memory_gib)
        running[job.owner] += 1
        gpus[job.owner] += job.gpus
        shares[job.owner] += share(job, capacity)

    def beyond_limits(job: Job) -> str:  # nobody waits for those
        if limits.running == 0:
            return "nothing is begun just now, as the operator set it"
        if running[job.owner] >= limits.running:
            return f"its owner runs as many as one may ({limits.running})"
        if gpus[job.owner] + job.gpus > limits.gpus:
            return f"its owner would hold more GPUs than one may ({limits.gpus})"
        return "" if fits(job, capacity) else f"asks for more than there is: {_in_words(job, Capacity(0, 0, 0), capacity)}"

    for job in holding:
        hold(job)
    lines: dict[str, deque[Job]] = defaultdict(deque)
    pausing: list[Turn] = []
    for job in sorted(waiting, key=_rank):
        pause_s = 0.0 if job.not_before_s is None else job.not_before_s - now_s
        if 0 < pause_s < LONGEST_WAIT_S:
            pausing.append(Turn(job, f"goes on in {pause_s:.0f} s, after a failure"))
        else:
            lines[job.owner].append(job)
    first: Job | None = None
    num_begun = len(holding)
    while lines:
        owner = min(lines, key=lambda owner: _rank_among_owners(lines[owner][0], shares[owner]))
        job = lines[owner].popleft()
        if not lines[owner]:
            del lines[owner]
        limit = beyond_limits(job)
        if limit:
            yield Turn(job, limit)
        elif first is not None:
            yield Turn(job, f"waits behind {first.id}", behind=first)
        elif num_begun < limits.running_together and fits(job, free):
            hold(job)
            num_begun += 1
            yield Turn(job, "")
        else:
            first = job
            is_full = num_begun >= limits.running_together
            why = f"waits until fewer run than may together ({limits.running_together:g})" if is_full else f"waits for {_in_words(job, free, free)}"
            yield Turn(job, why, is_first=True)
    yield from pausing


def _in_words(job: Job, free: Capacity, short_of: Capacity) -> str:
    """What a job holds beyond what is free, of what there is too little of."""
    beyond = [(f"{job.gpus - free.gpus} GPUs", job.gpus > short_of.gpus), (f"{job.cpus - free.cpus:g} cores", job.cpus > short_of.cpus + 1e-9),
              (f"{job.memory_gib - free.memory_gib:.3g} GiB of memory", job.memory_gib > short_of.memory_gib + 1e-9)]  # fmt: skip
    return " and ".join(text.removesuffix("s") if text.startswith("1 ") else text for text, is_short in beyond if is_short)


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
