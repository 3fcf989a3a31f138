"""/v1/sweeps: many runs of one recipe, and what they answer."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel

from largebatch.jobs.errors import InputError
from largebatch.jobs.tracking.folder_mirror import REPORT
from largebatch.service.api.auth import Who
from largebatch.service.api.dependencies import Dependencies, Deps
from largebatch.service.api.errors import ERRORS
from largebatch.service.api.requests import SweepSubmit, job_of_sweep
from largebatch.service.api.routes.job_files import confined
from largebatch.service.api.routes.jobs import After, IdempotencyKey, accepted_links, add_job_routes, submitted
from largebatch.service.api.routes.strict_json import StrictRoute
from largebatch.service.db.store import ConflictError
from largebatch.service.job import ACTIVE, FINAL, Job, Kind, State
from largebatch.service.present.job_plan import PlanLine, holds_in_words
from largebatch.service.present.progress import Trials, read_trials
from largebatch.service.present.views import JobView
from largebatch.tuning.results.whole_answer import SweepAdvice, SweepFindings, SweepFrontier

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
    facts = deps.analysis_worker.ask("plan_sweep", job.spec, job.base, str(deps.settings.data_dir), asker=who.owner)
    lines = [*holds_in_words(job, deps.store.counts()), *map(PlanLine.model_validate, facts.pop("lines"))]
    return SweepPlan(spec=job.spec, base=job.base, lines=lines, **facts)


@router.get("/{job_id}/records", operation_id="records_sweep")
def records(job_id: str, deps: Deps, who: Who, after: After = 0, limit: Annotated[int, Query(ge=1, le=1000)] = 200) -> Trials:
    """The sweep's runs that were decided on so far, each with how far it is."""
    job = deps.visible(job_id, Kind.SWEEP, who)
    return read_trials(deps.settings.runs_dir / job.id, after, limit, job.state in ACTIVE)


@router.get("/{job_id}/findings", operation_id="findings_sweep")
def findings(
    job_id: str, deps: Deps, who: Who, figures: Annotated[bool, Query(description="The report's figures too, for plotly.")] = False
) -> SweepFindings:
    """All that the runs that have ended say: per batch, frontier, critical batch, advice, and it in words."""
    return _findings(job_id, deps, who, figures)


@router.get("/{job_id}/frontier", operation_id="frontier_sweep")
def frontier(job_id: str, deps: Deps, who: Who) -> SweepFrontier:
    """The choices that no other beats in both time and samples, or time and accuracy."""
    return _findings(job_id, deps, who)  # the return type says what of them is sent


@router.get("/{job_id}/advice", operation_id="advice_sweep")
def advice(job_id: str, deps: Deps, who: Who) -> SweepAdvice:
    """Soonest, cheapest, knee: with the settings that go with them, and in words."""
    return _findings(job_id, deps, who)


@router.get("/{job_id}/report", operation_id="report_sweep", response_class=FileResponse)
def report(job_id: str, deps: Deps, who: Who) -> FileResponse:
    """The report, one page that holds everything; there once the sweep is over."""
    job = deps.visible(job_id, Kind.SWEEP, who)
    folder = (deps.settings.runs_dir / job.id).resolve()
    if not (folder / REPORT / "report.html").is_file():
        if job.state in FINAL:
            raise _ended_without(job, "a report")
        raise ConflictError("", "this sweep has no report yet.", "It is written when the sweep ends; ask again later.")
    return confined(folder, f"{REPORT}/report.html")


def _findings(job_id: str, deps: Dependencies, who: Who, with_figures: bool = False) -> SweepFindings:
    job = deps.visible(job_id, Kind.SWEEP, who)
    try:
        answer: SweepFindings = deps.analysis_worker.ask("findings", str(deps.settings.runs_dir / job.id), with_figures, asker=who.owner)
    except InputError as error:
        if job.state in FINAL:
            raise _ended_without(job, "an answer", error.problem) from error
        why = "it waits for its turn" if job.state is State.QUEUED else "the sweep goes on"
        raise ConflictError("", error.problem, f"Ask again later: {why}.") from error
    return answer


def _ended_without(job: Job, missing: str, why: str = "") -> ConflictError:
    """The refusal where waiting does not help. Args: missing: what the sweep ended without."""
    reasons = " ".join(filter(None, (why, job.reason))) or "it says no more."
    problem = f"this sweep is over ({job.state}), without {missing}: {reasons}"
    return ConflictError("", problem, "Mend what it says and submit it again, or resume it: runs that have ended are kept.")


add_job_routes(
    router, Kind.SWEEP, "The sweep as it goes: `trial` for each run that is decided on, `ending` for one that was pruned or failed, and the job "
    "whenever it changes, with the progress of the runs under way; a stream that broke goes on from its Last-Event-ID."
)  # fmt: skip
