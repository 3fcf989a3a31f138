"""Runs and sweeps: both are jobs, and most that can be asked of one can be asked of the other."""

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from largebatch.jobs.errors import InputError, StorageError
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.service.api.auth import Asking, Who
from largebatch.service.api.dependencies import Dependencies, Deps
from largebatch.service.api.errors import ERRORS
from largebatch.service.api.requests import OF_A_STUDY, JobChange, ResumeChanges, Submit, digest_of, resumed_spec
from largebatch.service.api.routes.job_files import Offset, add_file_routes, named
from largebatch.service.api.routes.operations import SUBMITS
from largebatch.service.bundle import remove_with_code
from largebatch.service.db.listing import CREATED, FIELDS, SORTS
from largebatch.service.db.tokens import ForbiddenError, Principal
from largebatch.service.job import FINAL, Job, Kind, State
from largebatch.service.present.next_steps import NextSteps, next_steps
from largebatch.service.present.views import JobDetails, JobPage, JobView, details, page_as_json
from largebatch.tuning.files import STUDY
from largebatch.tuning.study.options import change_budget, refuse_unstudied

After = Annotated[int, Query(ge=0, le=1 << 50, description="next_after of the page before.")]
Points = Annotated[int, Query(ge=2, le=2000, description="At most so many steps.")]
Limit = Annotated[int, Query(ge=1, le=200)]
Where = Annotated[
    list[str] | None,
    Query(max_length=20, description=f"A condition, such as batch>=256 or tag=paper; all must hold. Fields: {', '.join(FIELDS)}."),
]
Sort = Annotated[str, Query(json_schema_extra={"enum": SORTS}, description="A field; with - the largest first. Jobs without it come last.")]
LastEventId = Annotated[str | None, Header(max_length=30)]
IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=200, description="The same key submits at most once, however often it is sent."),
]
EVENT_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}, "description": "Server-sent events"}}


def accepted_links(kind: Kind) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI document says can be done with a job that was accepted."""
    actions = ("show", "cancel", "resume", "delete", "logs", "artifacts", "records", "series" if kind is Kind.RUN else "advice")
    links = {action: {"operationId": f"{action}_{kind}", "parameters": {"job_id": "$response.body#/id"}} for action in actions}
    return {202: {"links": links}}


def submitted(deps: Dependencies, job: Job, who: Principal, submission: Submit, key: str | None, response: Response) -> JobView:
    """Put a job in the database, and answer where it is. An administrator's priority counts among all owners."""
    deps.refuse_code_of(job, who)
    if who.may("admin"):
        job = job.model_copy(update={"priority_among_owners": job.priority})
    if deps.settings.sharing and not submission.is_private:
        job = job.model_copy(update={"project": who.project})
    accepted, is_new = deps.store.accept(job, key, digest_of(submission), deps.settings.max_queued_per_owner)
    response.headers["Location"] = f"/v1/{job.kind.plural}/{accepted.id}"
    if is_new:
        SUBMITS.labels(str(job.kind)).inc()
    else:
        response.headers["Idempotent-Replayed"] = "true"
    return JobView.model_validate(accepted)


class StudyChanges(BaseModel):
    """How a study that goes on differs from what it was."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, json_schema_extra={"examples": [{"budget_s": 3600.0}]})

    budget_s: Annotated[float, Field(gt=0, le=1e7)] | None = None
    """Another time in all, in seconds, of one whose sweep is not sized to its time yet; null: as it was."""


def resumed(deps: Dependencies, job_id: str, kind: Kind, who: Principal, changes: ResumeChanges | StudyChanges) -> Job:
    """Queue a job that is over again. Raises: InputError, ConflictError."""
    job = deps.own(job_id, kind, who)
    spec = _with_budget(deps, job, changes.budget_s) if isinstance(changes, StudyChanges) else resumed_spec(job, changes)
    if job.state is State.FAILED or (job.state is State.SUCCEEDED and spec is not None):
        deps.run_folders.forget_summary(job.id)  # or the summary of the attempt before would end the next one
    return deps.store.queue_again(job, spec)


def _with_budget(deps: Dependencies, job: Job, budget_s: float | None) -> dict[str, Any] | None:
    """A study's spec with another time in all, which its folder is told; None where it is not to change. Raises: InputError."""
    if budget_s is None or job.state not in FINAL:  # what is not over cannot be resumed, and is told so
        return None
    try:
        refuse_unstudied(TrainSpec.model_validate(job.base), budget_s)
        folder = deps.folder(job)
        if (folder / STUDY).is_file():  # else it never began, and begins with the new one
            change_budget(folder, budget_s)
    except InputError as error:
        raise type(error)(OF_A_STUDY.get(error.field, error.field), error.problem, error.hint) from None
    return {**job.spec, "budget_s": budget_s}


def add_job_routes(router: APIRouter, kind: Kind, events: str) -> None:
    """What runs and sweeps share: looks at them, changes of them, their files, and live events. Args: events: what these tell."""
    _add_looks(router, kind)
    _add_changes(router, kind)
    _add_events(router, kind, events)
    add_file_routes(router, kind)


def _add_looks(router: APIRouter, kind: Kind) -> None:
    @router.get("", response_model=JobPage, **named("list", kind))
    async def list_jobs(
        deps: Deps,
        asker: Asking,
        state: State | None = None,
        owner: Annotated[str | None, Query(max_length=100)] = None,
        recipe: Annotated[str | None, Query(max_length=100)] = None,
        q: Annotated[str | None, Query(max_length=100, description="Part of the id, the name or the notes.")] = None,
        where: Where = None,
        sort: Sort = f"-{CREATED}",
        cursor: Annotated[str | None, Query(max_length=300)] = None,
        limit: Limit = 50,
        total: Annotated[bool, Query(description="Count all of them, too.")] = False,
    ) -> Response:
        """A page of jobs: one's own, those shared with one's project, for an administrator everybody's."""
        filters: dict[str, Any] = {"owner": owner, "state": state, "recipe": recipe, "text": q, "where": where or ()}
        look = partial(deps.store.page, kind, **filters, sort=sort, limit=limit, cursor=cursor, counts=total)
        return Response(await deps.read(lambda: page_as_json(look(sight=deps.sight(asker.principal())))), media_type="application/json")

    @router.get("/{job_id}", response_model=JobDetails, **named("show", kind))
    async def show(job_id: str, deps: Deps, asker: Asking) -> Response:
        """One job, with its spec and, once it ended, its summary."""

        def look() -> str:
            return details(deps.visible(job_id, kind, asker.principal()), deps.settings).model_dump_json()

        return Response(await deps.read(look), media_type="application/json")

    @router.get("/{job_id}/next", **named("next", kind))
    async def next_of_job(job_id: str, deps: Deps, who: Who) -> NextSteps:
        """What can be done from here on: the commands that do the same elsewhere, and after a run without the wanted result what to change."""

        def look() -> NextSteps:
            job = deps.visible(job_id, kind, who)
            return next_steps(job, has_code=deps.has_code(who, job))

        return await deps.read(look)


def say_of(deps: Dependencies, job: Job, change: JobChange, who: Principal) -> Job:
    """Change what people say of a job. Raises: ForbiddenError for a project that the asker is not one of."""
    said = change.model_dump(mode="json", exclude_unset=True)
    if not who.may("admin") and said.get("project") not in {None, who.project, job.project}:
        raise ForbiddenError("project", f"your token is of the project {who.project}.", "Share it with that one, or ask an administrator.")
    return deps.store.say_of(job, **said) if said else job


def delete_job(deps: Dependencies, job: Job) -> None:
    """Forget a job that is over, and remove its folder. Raises: ConflictError for one that is not."""
    deps.store.delete(job)
    with contextlib.suppress(StorageError):  # then the files in the storage stay: the job is forgotten all the same
        deps.run_folders.remove(job.id)
    remove_with_code(deps.settings.state_dir / job.id)


def _add_changes(router: APIRouter, kind: Kind) -> None:
    @router.patch("/{job_id}", **named("change", kind))
    def change(job_id: str, changed: JobChange, deps: Deps, who: Who) -> JobView:
        """Give a job another name, tags or notes, or share it; what is left out stays as it is."""
        return JobView.model_validate(say_of(deps, deps.own(job_id, kind, who), changed, who))

    @router.post("/{job_id}/cancel", status_code=202, **named("cancel", kind))
    def cancel(job_id: str, deps: Deps, who: Who) -> JobView:
        """End a job after the step under way; its checkpoint stays, and it can be resumed. One that is over stays as it is."""
        return JobView.model_validate(deps.store.ask_to_cancel(deps.own(job_id, kind, who)))

    def resume(job_id: str, deps: Deps, who: Who) -> JobView:
        """Queue a failed or cancelled job again; it goes on from what it has kept."""
        return JobView.model_validate(resumed(deps, job_id, kind, who, ResumeChanges()))

    def resume_run(job_id: str, deps: Deps, who: Who, changes: ResumeChanges | None = None) -> JobView:
        """Queue a failed or cancelled run again; it goes on from its newest checkpoint. One that succeeded, too, where its end is set later."""
        return JobView.model_validate(resumed(deps, job_id, kind, who, changes or ResumeChanges()))

    def resume_study(job_id: str, deps: Deps, who: Who, changes: StudyChanges | None = None) -> JobView:
        """Queue a failed or cancelled study again, also with more time in all; it goes on from what it has measured."""
        return JobView.model_validate(resumed(deps, job_id, kind, who, changes or StudyChanges()))

    resumes = {Kind.RUN: resume_run, Kind.SWEEP: resume, Kind.STUDY: resume_study}
    router.post("/{job_id}/resume", status_code=202, **named("resume", kind))(resumes[kind])

    @router.delete("/{job_id}", status_code=204, **named("delete", kind))
    def delete(job_id: str, deps: Deps, who: Who) -> Response:
        """Forget a job that is over, and remove its folder."""
        delete_job(deps, deps.own(job_id, kind, who))
        return Response(status_code=204)


def _add_events(router: APIRouter, kind: Kind, description: str) -> None:
    @router.get("/{job_id}/events", operation_id=f"events_{kind}", response_class=StreamingResponse, responses=EVENT_STREAM, description=description)
    async def events(job_id: str, deps: Deps, who: Who, after: Offset = 0, last_event_id: LastEventId = None) -> StreamingResponse:
        job = await deps.read(lambda: deps.visible(job_id, kind, who))
        if last_event_id is not None:
            if not last_event_id.isdecimal():
                raise InputError("Last-Event-ID", "is not one that this service gave.", "Leave it out to begin at the start.")
            after = int(last_event_id)
        return event_stream(deps, who, deps.watcher.listen(job, after, who.credential))


events = APIRouter(prefix="/v1/events", tags=["events"], responses=ERRORS)


@events.get("", operation_id="events", response_class=StreamingResponse, responses=EVENT_STREAM)
async def all_events(deps: Deps, who: Who, kind: Annotated[list[Kind] | None, Query()] = None) -> StreamingResponse:
    """Server-sent events: a job's view whenever it is new or changed, of the jobs that a list holds; without a kind, of runs."""
    return event_stream(deps, who, deps.watcher.listen_to_all(kind or [Kind.RUN], partial(deps.sees, who), who.credential))


def event_stream(deps: Dependencies, who: Principal, frames: AsyncIterator[bytes]) -> StreamingResponse:
    """An answer that goes on, and that no proxy should keep back. Raises: TooManyRequestsError."""
    deps.streams.refuse_more(who.owner)
    return StreamingResponse(
        deps.streams.counted(who.owner, frames), media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
