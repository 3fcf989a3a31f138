"""/v1/sweeps: many runs of one recipe, and what they answer."""

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel

from largebatch.service.api.auth import Who
from largebatch.service.api.dependencies import Deps
from largebatch.service.api.errors import ERRORS
from largebatch.service.api.requests import SweepSubmit, job_of_sweep
from largebatch.service.api.routes.answers import add_answer_routes
from largebatch.service.api.routes.jobs import IdempotencyKey, accepted_links, add_job_routes, submitted
from largebatch.service.api.routes.strict_json import StrictRoute
from largebatch.service.job import Kind
from largebatch.service.present.job_plan import OF_OWN_CODE, PlanLine, holds_in_words, narrowed_in_words, plan_facts
from largebatch.service.present.views import JobView
from largebatch.tuning.sweep.space import count_runs
from largebatch.tuning.sweep.spec import SweepSpec

router = APIRouter(prefix="/v1/sweeps", tags=["sweeps"], responses=ERRORS, route_class=StrictRoute)


@router.post("", status_code=202, operation_id="submit_sweep", responses=accepted_links(Kind.SWEEP))
async def submit(submission: SweepSubmit, deps: Deps, who: Who, response: Response, idempotency_key: IdempotencyKey = None) -> JobView:
    """Accept a sweep. It is in the database before this answers."""
    who.require("submit")
    return await deps.write(lambda: submitted(deps, job_of_sweep(submission, who.owner, deps.settings), who, submission, idempotency_key, response))


class SweepPlan(BaseModel):
    """What a sweep would do."""

    spec: dict[str, Any]
    """The whole SweepSpec that was understood."""
    base: dict[str, Any]
    """The TrainSpec that every run begins from."""
    runs: int
    groups: list[dict[str, Any]]
    """What is compared: the values of `each` in every combination, in their order."""
    lines: list[PlanLine]
    """The same for people."""


@router.post("/plan", operation_id="plan_sweep")
def plan(submission: SweepSubmit, deps: Deps, who: Who) -> SweepPlan:
    """Check a sweep and say which runs it would have, without running any."""
    who.require("submit")
    job = job_of_sweep(submission, who.owner, deps.settings)
    assert job.base is not None
    if job.code is None:
        facts = deps.analysis_worker.ask("plan_sweep", job.spec, job.base, str(deps.settings.data_dir), asker=who.owner)
    else:  # what arithmetic says; the rest has to run the code
        deps.refuse_code_of(job, who)
        sweep = SweepSpec.model_validate(job.spec)
        facts = plan_facts(sweep, count_runs(sweep))
    asked = SweepSpec.model_validate(submission.sweep).resources.max_concurrent
    lines = [*holds_in_words(job, deps.store.counts()), *narrowed_in_words(job, asked)]
    lines += [*map(PlanLine.model_validate, facts.pop("lines")), *([OF_OWN_CODE] if job.code else [])]
    return SweepPlan(spec=job.spec, base=job.base, lines=lines, **facts)


add_answer_routes(router, Kind.SWEEP)
add_job_routes(
    router, Kind.SWEEP, "The sweep as it goes: `trial` for each run that is decided on, `ending` for one that was pruned or failed, and the job "
    "whenever it changes, with the progress of the runs under way; a stream that broke goes on from its Last-Event-ID."
)  # fmt: skip
