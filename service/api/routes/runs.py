"""/v1/runs: training runs."""

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel

from largebatch.jobs.launch.options import read_workers
from largebatch.service.api.auth import Who
from largebatch.service.api.dependencies import Deps
from largebatch.service.api.requests import RunSubmit, job_of_run
from largebatch.service.api.routes.jobs import ERRORS, IdempotencyKey, accepted_links, add_event_route, add_job_routes, add_journal_routes, submitted
from largebatch.service.api.routes.strict_json import StrictRoute
from largebatch.service.job import Kind
from largebatch.service.present.views import JobView

router = APIRouter(prefix="/v1/runs", tags=["runs"], responses=ERRORS, route_class=StrictRoute)


class PlanLine(BaseModel):
    """One decision of the plan, for people."""

    what: str
    how: str
    """How, and why."""


class Plan(BaseModel):
    """What a run would do."""

    spec: dict[str, Any]
    """The whole TrainSpec that was understood."""
    facts: dict[str, Any]
    """Steps, micro-batches, learning rates."""
    lines: list[PlanLine]


@router.post("", status_code=202, operation_id="submit_run", responses=accepted_links(Kind.RUN))
async def submit(submission: RunSubmit, deps: Deps, who: Who, response: Response, idempotency_key: IdempotencyKey = None) -> JobView:
    """Accept a run. It is in the database before this answers."""
    who.require("submit")
    return await deps.write(lambda: submitted(deps, job_of_run(submission, who.owner, deps.settings), submission, idempotency_key, response))


@router.post("/plan", operation_id="plan_run")
def plan(submission: RunSubmit, deps: Deps, who: Who) -> Plan:
    """Check a submission and say what it would do, without running it."""
    who.require("submit")
    spec = job_of_run(submission, who.owner, deps.settings).spec
    workers = read_workers(submission.workers).most if submission.workers else None
    return Plan(spec=spec, **deps.analysis_worker.ask("plan", spec, str(deps.settings.data_dir), workers))


add_job_routes(router, Kind.RUN)
add_journal_routes(router)
add_event_route(
    router, Kind.RUN, "The journal as it grows, each record once and in order; a stream that broke goes on from its Last-Event-ID."
)  # fmt: skip
