"""/healthz, /readyz and /metrics: for whoever keeps the service running."""

import asyncio
import math
import shutil
import time
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from largebatch.jobs.errors import FaultError
from largebatch.service.api.auth import Who
from largebatch.service.api.dependencies import Dependencies, Deps
from largebatch.service.api.errors import ERRORS
from largebatch.service.job import Kind, State
from largebatch.service.present.progress import saved_at_s

router = APIRouter(tags=["operations"])
STALE_S = 30.0
READY_FRESH_S = 1.0
LEAST_FREE_BYTES = 256 << 20
"""With less a run's checkpoint may not fit."""
REGISTRY = CollectorRegistry()
REQUESTS = Histogram(
    "largebatch_request_seconds", "Time to answer, by route and status.", ["method", "route", "status"], registry=REGISTRY,
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)  # fmt: skip
SUBMITS = Counter("largebatch_submits_total", "Accepted submissions, by kind.", ["kind"], registry=REGISTRY)
JOBS = Gauge("largebatch_jobs", "Jobs, by state.", ["state"], registry=REGISTRY)
LISTENERS = Gauge("largebatch_listeners", "Open event streams.", registry=REGISTRY)
WATCHER_LAG = Gauge("largebatch_watcher_lag_seconds", "How late journals reach their listeners.", registry=REGISTRY)
PASS_AGE = Gauge("largebatch_reconcile_age_seconds", "Since the last whole pass over the queue.", registry=REGISTRY)
OLDEST_QUEUED = Gauge("largebatch_oldest_queued_seconds", "How long the job at the queue's front has waited.", registry=REGISTRY)
CPUS = Gauge("largebatch_cpus", "CPUs of the backend.", registry=REGISTRY)
GPUS = Gauge("largebatch_gpus", "GPUs of the backend.", registry=REGISTRY)
GPUS_HELD = Gauge("largebatch_gpus_held", "GPUs that starting and running jobs hold.", registry=REGISTRY)
BACKEND_UP = Gauge("largebatch_backend_up", "1 if the backend answers, else 0.", registry=REGISTRY)
PART_UP = Gauge("largebatch_part_up", "1 if a part of the service is well, else 0: see /readyz.", ["part"], registry=REGISTRY)
CHECKPOINT_AGE = Gauge(
    "largebatch_checkpoint_age_seconds", "Since the last checkpoint of the running run that has not saved for longest.", registry=REGISTRY
)


@router.get("/healthz", operation_id="healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


def parts(deps: Dependencies, waits: bool = True) -> dict[str, str]:
    """Each part that lists, pages and submits do without: "ok", or what is wrong with it, as whoever works with it found last.

    Args: waits: for the backend's and the tracking server's answers, a second each at most.
    """
    age = time.monotonic() - deps.reconciler.last_pass_s
    free = shutil.disk_usage(deps.settings.runs_dir).free
    return {
        "backend": deps.backend_server.state(waits),
        "reconciler": "ok" if age < STALE_S else f"no pass for {age:.0f} s ({deps.reconciler.background.problem or 'it works'})",
        "watcher": deps.watcher.problem or "ok",
        "tracking": deps.tracking.state(waits),
        "storage": deps.run_folders.problem or "ok",
        "disk": "ok" if free >= LEAST_FREE_BYTES else f"{free >> 20} MiB are free where the runs lie",
    }


class SharedAnswer:
    """What is looked up once a second at most, in one thread, however many ask: anybody may, and each look can wait for others."""

    def __init__(self, fresh_s: float = READY_FRESH_S) -> None:
        self._fresh_s, self._lock = fresh_s, asyncio.Lock()
        self._answer: tuple[int, dict[str, Any]] = 503, {}
        self._found_at_s = -math.inf

    async def of(self, look: Callable[[], tuple[int, dict[str, Any]]]) -> JSONResponse:
        """As it was found within the last second, or is found now."""
        async with self._lock:
            if time.monotonic() - self._found_at_s >= self._fresh_s:
                self._answer = await run_in_threadpool(look)
                self._found_at_s = time.monotonic()
        status, content = self._answer
        return JSONResponse(content, status)


@router.get("/readyz", operation_id="readyz", responses={503: {"description": "The database does not answer"}})
async def readyz(request: Request, deps: Deps) -> JSONResponse:
    """Whether requests are answered: whether the database answers.

    Without the backend, the tracking server or the storage of runs by URI, lists, pages and submits work: it is `degraded`, and says so.
    """
    shared: SharedAnswer = request.app.state.readiness
    return await shared.of(lambda: readiness(deps))


def readiness(deps: Dependencies) -> tuple[int, dict[str, Any]]:
    """Status and body of /readyz, looked up now."""
    checks = {"database": "ok"}
    try:
        deps.store.counts()
    except FaultError as error:
        checks["database"] = error.problem
    checks |= parts(deps)
    if checks["database"] != "ok":
        return 503, {"status": "not ready", "checks": checks}
    return 200, {"status": "ready" if set(checks.values()) == {"ok"} else "degraded", "checks": checks}


@router.get("/metrics", operation_id="metrics", response_class=Response, responses=ERRORS)
def metrics(deps: Deps, who: Who) -> Response:
    """Prometheus' text."""
    for name, text in parts(deps).items():
        PART_UP.labels(name).set(text == "ok")
    for state, count in deps.store.counts().items():
        JOBS.labels(state).set(count)
    first = deps.store.in_states([State.QUEUED], limit=1)
    OLDEST_QUEUED.set(max(0.0, time.time() - first[0].created_at_s) if first else 0.0)
    holding = deps.store.in_states([State.STARTING, State.RUNNING])
    GPUS_HELD.set(sum(job.gpus for job in holding))
    now = time.time()
    running = [job for job in holding if job.state is State.RUNNING and job.kind is Kind.RUN]
    CHECKPOINT_AGE.set(max([0.0, *(now - saved_at_s(job, deps.settings.runs_dir / job.id) for job in running)]))
    LISTENERS.set(deps.watcher.num_listeners)
    WATCHER_LAG.set(deps.watcher.lag_s)
    PASS_AGE.set(time.monotonic() - deps.reconciler.last_pass_s)
    try:
        capacity = deps.backend.capacity()
    except FaultError:  # what else is known is wanted most now
        BACKEND_UP.set(0)
    else:
        BACKEND_UP.set(1)
        CPUS.set(capacity.cpus)
        GPUS.set(capacity.gpus)
    return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)
