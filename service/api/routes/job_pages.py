"""The page of one run or sweep, the parts of it that are drawn anew when the job has moved on, and a run's way on from there."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.spec.text import parse_yaml
from largebatch.service.api.dependencies import Dependencies, Deps
from largebatch.service.api.requests import ResumeChanges
from largebatch.service.api.routes.jobs import resumed
from largebatch.service.api.routes.pages import Visitor, render
from largebatch.service.db.tokens import Principal
from largebatch.service.job import FINAL, Job, Kind, State
from largebatch.service.present.next_steps import next_steps
from largebatch.service.present.progress import read_plan
from largebatch.service.present.run_files import files_in, plan_in_words, size_in_words, weights_in
from largebatch.service.present.views import details

RESUMABLE = {State.FAILED, State.CANCELLED}
router = APIRouter(include_in_schema=False)


@router.get("/runs/{job_id}")
@router.get("/sweeps/{job_id}")
def one_job(request: Request, job_id: str, deps: Deps, who: Visitor) -> HTMLResponse:
    """One run or sweep."""
    kind = Kind.SWEEP if request.url.path.startswith("/sweeps/") else Kind.RUN
    return _page(request, deps, who, deps.visible(job_id, kind, who))


@router.get("/runs/{job_id}/parts/{part}")
def part_of_page(request: Request, job_id: str, part: Literal["change", "left"], deps: Deps, who: Visitor) -> HTMLResponse:
    """What of a run's page changes with its state, beside what its events tell: what to change; its files, weights and plan."""
    job = deps.visible(job_id, Kind.RUN, who)
    return render(request, f"run_{part}.html", job=job, can_submit=who.may("submit"), **_parts(deps, job))


@router.post("/runs/{job_id}/resume")
def go_on(request: Request, job_id: str, deps: Deps, who: Visitor, epochs: Annotated[str, Form(max_length=50)] = "") -> Response:
    """Let a run go on to more epochs."""
    job = deps.visible(job_id, Kind.RUN, who)
    try:
        goes_past = {"stop.at_target": False} if job.outcome == Outcome.REACHED else {}
        resumed(deps, job_id, Kind.RUN, who, ResumeChanges(set={"stop.epochs": parse_yaml(epochs, "stop.epochs"), **goes_past}))
    except LargebatchError as error:
        return _page(request, deps, who, job, error, epochs)
    return RedirectResponse(f"/runs/{job_id}", 303)


def _page(request: Request, deps: Dependencies, who: Principal, job: Job, refused: LargebatchError | None = None, epochs: str = "") -> HTMLResponse:
    """A job's page. Args: refused: why the run does not go on as it was asked to; epochs: what was asked for."""
    return render(
        request, f"{job.kind}.html", 422 if refused else 200, job=details(job, deps.settings), kind=job.kind, can_submit=who.may("submit"),
        is_final=job.state in FINAL, can_resume=job.state in RESUMABLE, judged_by=_judged_by(job), **_parts(deps, job, refused, epochs),
    )  # fmt: skip


def _parts(deps: Dependencies, job: Job, refused: LargebatchError | None = None, epochs: str = "") -> dict[str, Any]:
    """What these parts show."""
    shown: dict[str, Any] = {"next": next_steps(job), "refused": refused, "size": size_in_words}
    if job.kind is not Kind.RUN:
        return shown
    try:
        folder = deps.folder(job)
        left = {"files": files_in(folder), "weights": weights_in(folder), "plan": [*plan_in_words(read_plan(folder))]}
    except (LargebatchError, OSError):  # the storage is away, or the folder goes just now: the page is there all the same
        left = {"files": [], "weights": [], "plan": []}
    planned = (job.spec.get("stop") or {}).get("epochs")
    goes_on = job.state in FINAL and planned is not None and job.outcome != Outcome.DIVERGED
    return {**shown, **left, "goes_on": goes_on, "epochs": epochs or f"{2 * (planned or 0):g}", "has_weights": deps.settings.store is None}


def _judged_by(job: Job) -> dict[str, Any]:
    """The metric of a run's scores, as far as it is known, and its target."""
    stop, task = job.spec.get("stop") or {}, job.spec.get("task") or {}
    given = stop.get("target") or {}
    usual = "accuracy" if task.get("name", "classification") == "classification" and "entry_point" not in task else "score"
    return {"metric": job.progress.get("metric") or given.get("metric") or usual, "target": given.get("value", stop.get("target_accuracy"))}
