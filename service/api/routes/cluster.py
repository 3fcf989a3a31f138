"""/v1/cluster: what there is, who holds it, and who waits for what."""

import time

from fastapi import APIRouter

from largebatch.service.api.auth import Who
from largebatch.service.api.dependencies import Dependencies, Deps
from largebatch.service.api.errors import ERRORS
from largebatch.service.db.tokens import Principal
from largebatch.service.job import State
from largebatch.service.present.cluster import Cluster, Share, Waiting, finite, machine_view, share_of
from largebatch.service.queue.schedule import Turn, limits_of, turns

QUEUE_SHOWN = 200
router = APIRouter(prefix="/v1/cluster", tags=["cluster"], responses=ERRORS)


@router.get("", operation_id="show_cluster")
def show_cluster(deps: Deps, who: Who) -> Cluster:
    """What the backend has, who holds it, and who waits for what. Of others' jobs only what they hold or wait for, and why."""
    capacity, machines = deps.backend.capacity(), deps.backend.machines()
    holding = deps.store.in_states([State.STARTING, State.RUNNING])
    waiting = [*deps.store.in_states([State.RECOVERING]), *deps.store.waiting(QUEUE_SHOWN)]
    queue = turns(waiting, holding, capacity, limits_of(deps.settings, capacity), time.time())
    return Cluster(
        backend=deps.backend.name, machines=[machine_view(machine) for machine in machines],
        cpus=capacity.cpus, gpus=capacity.gpus, memory_gib=finite(capacity.memory_gib), cpus_held=sum(job.cpus for job in holding),
        gpus_held=sum(job.gpus for job in holding), memory_gib_held=sum(job.memory_gib for job in holding),
        running=[Share(**share_of(job, deps.sees(who, job))) for job in holding],
        queue=[Waiting(**share_of(job, deps.sees(who, job)), why=_why(deps, who, turn)) for turn in queue for job in [turn.job]],
        jobs=deps.store.counts(), problem=deps.reconciler.background.problem if who.may("admin") else None,
    )  # fmt: skip


def _why(deps: Dependencies, who: Principal, turn: Turn) -> str:
    """Why a job waits, in words for who asks: of whom it waits behind, nothing that they may not see."""
    if not turn.why:
        return "starts now"
    return turn.why if turn.behind is None or deps.sees(who, turn.behind) else "waits behind a job of another owner"
