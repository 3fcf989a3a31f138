"""/v1/studies: a recipe and a budget of time, and which batch size, optimizer and momentum reach the target soonest."""

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel

from largebatch.service.api.auth import Who
from largebatch.service.api.dependencies import Deps
from largebatch.service.api.errors import ERRORS
from largebatch.service.api.requests import StudySubmit, job_of_study
from largebatch.service.api.routes.answers import add_answer_routes
from largebatch.service.api.routes.jobs import IdempotencyKey, accepted_links, add_job_routes, submitted
from largebatch.service.api.routes.strict_json import StrictRoute
from largebatch.service.job import Kind
from largebatch.service.present.job_plan import OF_OWN_CODE, PlanLine, holds_in_words
from largebatch.service.present.views import JobView

router = APIRouter(prefix="/v1/studies", tags=["studies"], responses=ERRORS, route_class=StrictRoute)


class StudyPlan(BaseModel):
    """What a study would begin from; its sweep follows from what it measures first."""

    spec: dict[str, Any]
    """The whole TrainSpec that was understood."""
    lines: list[PlanLine]


@router.post("", status_code=202, operation_id="submit_study", responses=accepted_links(Kind.STUDY))
async def submit(submission: StudySubmit, deps: Deps, who: Who, response: Response, idempotency_key: IdempotencyKey = None) -> JobView:
    """Accept a study. It is in the database before this answers."""
    who.require("submit")
    return await deps.write(lambda: submitted(deps, job_of_study(submission, who.owner, deps.settings), who, submission, idempotency_key, response))


@router.post("/plan", operation_id="plan_study")
def plan(submission: StudySubmit, deps: Deps, who: Who) -> StudyPlan:
    """Check a study and say what its recipe would do, without training."""
    who.require("submit")
    job = job_of_study(submission, who.owner, deps.settings)
    if job.code is None:
        planned = deps.analysis_worker.ask("plan", job.base, str(deps.settings.data_dir), None, asker=who.owner)["lines"]
    else:
        deps.refuse_code_of(job, who)
        planned = [OF_OWN_CODE]
    compared = ", ".join(job.spec["optimizers"]) or "the recipe's optimizer"
    budget = PlanLine(what="study", how=f"{job.spec['budget_s'] / 60:g} minutes for a profile, a reference run, a sweep over batch "
                      f"sizes under {compared}, and the sharpness of the best")  # fmt: skip
    assert job.base is not None
    return StudyPlan(spec=job.base, lines=[budget, *holds_in_words(job, deps.store.counts()), *map(PlanLine.model_validate, planned)])


add_answer_routes(router, Kind.STUDY)
add_job_routes(
    router, Kind.STUDY, "The study as it goes: the job whenever it changes, with the stage it is at, and once its sweep has begun `trial` for "
    "each run that is decided on, `ending` for one that was pruned or failed; a stream that broke goes on from its Last-Event-ID."
)  # fmt: skip
