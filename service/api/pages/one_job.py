"""The page of one run or sweep, the parts of it that are drawn anew when the job has moved on, and a run's way on from there."""

from contextlib import suppress
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import ValidationError

from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.run.json_lines import parse_object
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.run.run_folder import SUMMARY, resumed_spec
from largebatch.jobs.spec.text import parse_yaml
from largebatch.service.api.dependencies import Dependencies, Deps
from largebatch.service.api.errors import of_validation
from largebatch.service.api.forms.run_form import answer_as_typed
from largebatch.service.api.forms.study_form import budget_of
from largebatch.service.api.pages.rendering import Visitor, kind_of, render
from largebatch.service.api.requests import ResumeChanges
from largebatch.service.api.routes.answers import findings_of, trial_folder, trials_of
from largebatch.service.api.routes.jobs import StudyChanges, resumed
from largebatch.service.db.tokens import Principal
from largebatch.service.job import FINAL, Job, Kind, State
from largebatch.service.present.next_steps import next_steps, remedies
from largebatch.service.present.progress import fallen, progress_of_run, read_plan
from largebatch.service.present.run_files import files_in, plan_in_words, size_in_words, weights_in
from largebatch.service.present.views import JobDetails, details
from largebatch.tuning.results.whole_answer import SweepFindings
from largebatch.tuning.study.options import SIZED
from largebatch.tuning.sweep.in_short import in_short

RESUMABLE = {State.FAILED, State.CANCELLED}
router = APIRouter(include_in_schema=False)


@router.get("/runs/{job_id}")
@router.get("/sweeps/{job_id}")
@router.get("/studies/{job_id}")
def one_job(request: Request, job_id: str, deps: Deps, who: Visitor) -> HTMLResponse:
    """One run or sweep."""
    return _page(request, deps, who, deps.visible(job_id, kind_of(request), who))


@router.get("/runs/{job_id}/parts/{part}")
def part_of_page(request: Request, job_id: str, part: Literal["change", "left"], deps: Deps, who: Visitor) -> HTMLResponse:
    """What of a run's page changes with its state, beside what its events tell: what to change; its files, weights and plan."""
    job = deps.visible(job_id, Kind.RUN, who)
    return render(request, f"run_{part}.html", job=job, can_submit=deps.may_change(who, job), api=f"/v1/runs/{job.id}", **_parts(deps, who, job))


@router.get("/{kinds}/{job_id}/parts/runs")
def runs_of_page(request: Request, kinds: Literal["sweeps", "studies"], job_id: str, deps: Deps, who: Visitor) -> HTMLResponse:
    """The table of a sweep's or study's runs."""
    job = deps.visible(job_id, kind_of(request), who)
    return render(request, "sweep_runs.html", job=job, trials=trials_of(deps, job), in_short=in_short)


@router.get("/{kinds}/{job_id}/parts/answer")
def answer_of_page(request: Request, kinds: Literal["sweeps", "studies"], job_id: str, deps: Deps, who: Visitor) -> HTMLResponse:
    """What a sweep or study says; without asking for an answer where there is none."""
    job = deps.visible(job_id, kind_of(request), who)
    shown, answer = _without_answer(deps, job), None
    if shown["has_ended"]:
        try:
            answer = findings_of(deps, job, who.owner)
        except LargebatchError as error:
            shown["words"] = [" ".join(filter(None, (error.problem, error.hint)))]
    shown |= {"can_submit": deps.may_change(who, job), "next": next_steps(job), "run_here": _run_here(deps, who, job, answer)}
    return render(request, "sweep_answer.html", job=job, answer=answer, **shown, **_more_time(deps, job))


def _run_here(deps: Dependencies, who: Principal, job: Job, answer: SweepFindings | None) -> str | None:
    """The address of the form of a run, filled in with the answer's recipe; None where there is none, or the asker cannot run it."""
    recipe = answer.card.recipe if answer and answer.card else None
    if recipe is None or not who.may("submit") or not deps.has_code(who, job):
        return None
    with suppress(LargebatchError, ValueError):  # an earlier version's spec may not be one any more
        return f"/runs/new?{urlencode(answer_as_typed(job, recipe.text))}"
    return None


def _without_answer(deps: Dependencies, job: Job) -> dict[str, Any]:
    """Whether a sweep or study has runs to answer from, and what it says where it has none."""
    trials = trials_of(deps, job)
    has_ended = any(trial.state == "ended" for trial in trials)
    if has_ended or job.state not in FINAL:
        return {"has_ended": has_ended, "words": []}
    failed = [trial for trial in trials if trial.state == "failed"]
    words = [f"This {job.kind} is over ({job.state}), without an answer: none of its runs has ended."]  # the reason stands above
    if failed:
        words.append(f"{len(failed)} of {len(trials)} runs failed, first: {failed[0].why or 'no reason was given'}")
    return {"has_ended": False, "words": words}


@router.get("/{kinds}/{job_id}/runs/{run_id}")
def trial_page(request: Request, kinds: Literal["sweeps", "studies"], job_id: str, run_id: str, deps: Deps, who: Visitor) -> HTMLResponse:
    """One run of a sweep or study, as a run's page shows it; it is not resumed or cancelled alone."""
    job = deps.visible(job_id, kind_of(request), who)
    folder, view = trial_folder(deps, job, run_id)
    summary = parse_object((folder / SUMMARY).read_bytes()) if (folder / SUMMARY).is_file() else None
    state = {"ended": State.SUCCEEDED, "running": State.RUNNING}.get(view.state, State.FAILED)
    spec, batch = resumed_spec(folder, []).model_dump(mode="json"), (summary or {}).get("global_batch_size")
    of_the_run = {"id": run_id, "name": run_id, "tags": (), "notes": "", "kind": Kind.RUN, "spec": spec, "base": None, "state": state,
                  "reason": view.why or None, "outcome": view.outcome, "summary": summary, "global_batch_size": batch,
                  "progress": {**progress_of_run(folder), **(fallen(folder) if summary else {})}}  # fmt: skip
    as_run = Job.model_validate({**job.model_dump(), **of_the_run})
    left: dict[str, Any] = {"files": files_in(folder), "weights": [], "plan": [*plan_in_words(read_plan(folder))], "size": size_in_words}
    left["next"] = next_steps(as_run, has_code=deps.has_code(who, job))
    api = f"/v1/{kinds}/{job.id}/runs/{run_id}"
    at = f"/v1/{kinds}/{job.id}/artifacts/{folder.relative_to(deps.settings.runs_dir / job.id)}"
    return render(request, "run.html", job=JobDetails.model_validate(as_run), api=api, files_at=at, sweep=job, **_of_every_job(as_run), **left)


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


@router.post("/studies/{job_id}/resume")
def go_on_studying(request: Request, job_id: str, deps: Deps, who: Visitor, budget: Annotated[str, Form(max_length=50)] = "") -> Response:
    """Let a study go on with more time. Args: budget: in minutes."""
    job = deps.visible(job_id, Kind.STUDY, who)
    try:
        resumed(deps, job_id, Kind.STUDY, who, StudyChanges(budget_s=budget_of(budget)))
    except LargebatchError as error:
        return _page(request, deps, who, job, error, budget)
    except ValidationError as error:
        return _page(request, deps, who, job, of_validation(error), budget)
    return RedirectResponse(f"/studies/{job_id}", 303)


def _page(request: Request, deps: Dependencies, who: Principal, job: Job, refused: LargebatchError | None = None, asked: str = "") -> HTMLResponse:
    """A job's page. Args: refused: why it does not go on as it was asked to; asked: for how many epochs, or minutes."""
    bundle = None if job.code is None else deps.bundles.find(job.code, None if who.may("admin") else who.owner)
    template = "run.html" if job.kind is Kind.RUN else "sweep.html"
    shown = {
        **_of_every_job(job),
        **_parts(deps, who, job, refused, asked),
        "can_submit": deps.may_change(who, job),
        "can_copy": who.may("submit") and deps.has_code(who, job),
        "can_resume": job.state in RESUMABLE and job.added_bytes is None,
        "bundle": bundle,
    }
    return render(request, template, 422 if refused else 200, job=details(job, deps.settings), api=f"/v1/{job.kind.plural}/{job.id}", **shown)


def _of_every_job(job: Job) -> dict[str, Any]:
    return {"kind": job.kind, "is_final": job.state in FINAL, "judged_by": _judged_by(job)}


def _parts(deps: Dependencies, who: Principal, job: Job, refused: LargebatchError | None = None, asked: str = "") -> dict[str, Any]:
    """What these parts show."""
    shown: dict[str, Any] = {"next": next_steps(job, has_code=deps.has_code(who, job)), "refused": refused, "size": size_in_words}
    if job.kind is not Kind.RUN:
        return {**shown, **_without_answer(deps, job), **_more_time(deps, job, asked)}
    try:
        folder = deps.folder(job)
        left = {"files": files_in(folder), "weights": weights_in(folder), "plan": [*plan_in_words(read_plan(folder))]}
    except (LargebatchError, OSError):  # the storage is away, or the folder goes just now: the page is there all the same
        left = {"files": [], "weights": [], "plan": []}
    planned = (job.spec.get("stop") or {}).get("epochs")
    goes_on = job.added_bytes is None and job.state in FINAL and planned is not None and job.outcome != Outcome.DIVERGED
    return {**shown, **left, "goes_on": goes_on, "epochs": asked or f"{2 * (planned or 0):g}", "has_weights": deps.settings.store is None}


def _more_time(deps: Dependencies, job: Job, asked: str = "") -> dict[str, Any]:
    """Whether a study can go on with more time, and the minutes that it is offered."""
    is_sized = job.kind is not Kind.STUDY or (deps.settings.runs_dir / job.id / SIZED).is_file()
    enough = [remedy.set["budget_s"] for remedy in remedies(job) if "budget_s" in remedy.set]
    minutes = (enough or [2 * job.spec.get("budget_s", 0.0)])[0] / 60
    return {"goes_on": job.state in RESUMABLE and not is_sized, "budget": asked or f"{minutes:g}"}


def _judged_by(job: Job) -> dict[str, Any]:
    """The metric of a run's scores, as far as it is known, and its target."""
    stop, task = job.spec.get("stop") or {}, job.spec.get("task") or {}
    given = stop.get("target") or {}
    usual = "accuracy" if task.get("name", "classification") == "classification" and "entry_point" not in task else "score"
    return {"metric": job.progress.get("metric") or given.get("metric") or usual, "target": given.get("value", stop.get("target_accuracy"))}
