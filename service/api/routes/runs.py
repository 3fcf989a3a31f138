"""/v1/runs: training runs; /v1/recipes: what they are made from."""

from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel

from largebatch.jobs.errors import InputError
from largebatch.jobs.launch.options import read_workers
from largebatch.jobs.run.journal import LONGEST_LINE
from largebatch.jobs.run.json_lines import parse_object, read_all_lines
from largebatch.jobs.run.run_folder import JOURNAL, SPEC
from largebatch.service.api.auth import Who
from largebatch.service.api.dependencies import Deps
from largebatch.service.api.errors import ERRORS, NotFoundError
from largebatch.service.api.requests import RunSubmit, job_of_run, recipe_specs
from largebatch.service.api.routes.jobs import After, IdempotencyKey, Points, accepted_links, add_job_routes, submitted
from largebatch.service.api.routes.strict_json import StrictRoute
from largebatch.service.db.store import ConflictError
from largebatch.service.job import Kind
from largebatch.service.present.curves import Series, read_series
from largebatch.service.present.job_plan import OF_OWN_CODE, PlanLine, holds_in_words
from largebatch.service.present.views import JobView

router = APIRouter(prefix="/v1/runs", tags=["runs"], responses=ERRORS, route_class=StrictRoute)
recipes = APIRouter(prefix="/v1/recipes", tags=["recipes"], responses=ERRORS)
MOST_RECORDS = 5000
SCAN_BYTES = 8 << 20
ANSWER_BYTES = 1 << 20
"""Of records in one answer, but for its last: answers that nobody reads wait in memory, one on each connection."""


class Records(BaseModel):
    """Journal records, oldest first."""

    items: list[dict[str, Any]]
    next_after: int
    """Where the next page begins."""
    is_complete: bool
    """Whether there was nothing more just now."""
    num_unreadable: int = 0
    """Lines of these that are no records, and are left out: a kill cut them short, or something else wrote there."""


class Plan(BaseModel):
    """What a run would do."""

    spec: dict[str, Any]
    """The whole TrainSpec that was understood."""
    facts: dict[str, Any]
    """Steps, micro-batches, learning rates; empty where own code is sent along, which runs in jobs alone."""
    lines: list[PlanLine]


class Recipe(BaseModel):
    """A complete spec that comes along."""

    name: str
    description: str
    dataset: str | None
    optimizer: str
    global_batch_size: int | str | None
    """null where the recipe says it in tokens."""
    global_batch_tokens: int | None


@router.post("", status_code=202, operation_id="submit_run", responses=accepted_links(Kind.RUN))
async def submit(submission: RunSubmit, deps: Deps, who: Who, response: Response, idempotency_key: IdempotencyKey = None) -> JobView:
    """Accept a run. It is in the database before this answers."""
    who.require("submit")
    return await deps.write(lambda: submitted(deps, job_of_run(submission, who.owner, deps.settings), who, submission, idempotency_key, response))


@router.post("/plan", operation_id="plan_run")
def plan(submission: RunSubmit, deps: Deps, who: Who) -> Plan:
    """Check a submission and say what it would do, without running it."""
    who.require("submit")
    job = job_of_run(submission, who.owner, deps.settings)
    if job.code is not None:
        deps.refuse_code_of(job, who)
        return Plan(spec=job.spec, facts={}, lines=[*holds_in_words(job, deps.store.counts()), OF_OWN_CODE])
    workers = read_workers(submission.workers).most if submission.workers else None
    answer = deps.analysis_worker.ask("plan", job.spec, str(deps.settings.data_dir), workers, asker=who.owner)
    return Plan(
        spec=job.spec, facts=answer["facts"], lines=[*holds_in_words(job, deps.store.counts()), *map(PlanLine.model_validate, answer["lines"])]
    )


@router.get("/{job_id}/records", operation_id="records_run")
def records(
    job_id: str,
    deps: Deps,
    who: Who,
    after: After = 0,
    kind: Annotated[Literal["start", "step", "evaluation", "notice", "end"] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_RECORDS)] = 1000,
) -> Records:
    """The journal's records. Those beyond a later start record's step are superseded by it."""
    items: list[dict[str, Any]] = []
    ends, num_unreadable, num_bytes = after, 0, 0
    for line, ends in read_all_lines(deps.folder(deps.visible(job_id, Kind.RUN, who)) / JOURNAL, after):
        record = parse_object(line) if len(line) <= LONGEST_LINE else None
        if record is None or not isinstance(record.get("kind"), str):
            num_unreadable += bool(line)
        elif kind is None or record["kind"] == kind:
            items.append(record)
            num_bytes += len(line)
        if len(items) == limit or num_bytes >= ANSWER_BYTES or ends - after >= SCAN_BYTES:
            return Records(items=items, next_after=ends, is_complete=False, num_unreadable=num_unreadable)
    return Records(items=items, next_after=ends, is_complete=True, num_unreadable=num_unreadable)


@router.get("/{job_id}/series", operation_id="series_run")
def series(job_id: str, deps: Deps, who: Who, points: Points = 400) -> Series:
    """The run's curves for a chart: all evaluations, and of the steps and noise estimates at most so many, evenly spread over the whole run.

    `next_after` is where its events go on.
    """
    return read_series(deps.folder(deps.visible(job_id, Kind.RUN, who)), points)


@router.get("/{job_id}/weights", operation_id="weights_run", response_class=FileResponse)
def weights(
    job_id: str, deps: Deps, who: Who, best: Annotated[bool, Query(description="Of the best checkpoint, not the newest.")] = False
) -> FileResponse:
    """The weights that the run was evaluated with, as a .safetensors file that any program loads."""
    job = deps.visible(job_id, Kind.RUN, who)
    folder = deps.folder(job)
    if job.added_bytes is not None:
        raise NotFoundError("weights", "this run was trained elsewhere and added, without its weights.", "Fetch them where it was trained.")
    if deps.settings.store is not None:
        hint = "Copy the run's folder, and: largebatch export"
        raise InputError("weights", "this service keeps runs by URI, and their checkpoints are not here.", hint)
    if not (folder / SPEC).is_file():
        raise ConflictError("", f"run {job_id} is {job.state} and has not begun.", "Ask again once it has saved a checkpoint.")
    file = Path(deps.analysis_worker.ask("weights", str(folder), best, asker=who.owner))
    return FileResponse(file, media_type="application/octet-stream", filename=f"{job_id}-{file.name}")


add_job_routes(router, Kind.RUN, "The journal as it grows, each record once and in order; a stream that broke goes on from its Last-Event-ID.")


@recipes.get("", operation_id="list_recipes")
def list_recipes(who: Who) -> list[Recipe]:
    """The recipes that come along."""
    return [
        Recipe(name=name, description=spec.description, dataset=spec.dataset.name, optimizer=spec.optimizer.name,
               global_batch_size=spec.batch.global_batch_size, global_batch_tokens=spec.batch.global_batch_tokens)
        for name, spec in recipe_specs().items()
    ]  # fmt: skip


@recipes.get("/{name}", operation_id="show_recipe")
def show_recipe(name: str, who: Who) -> dict[str, Any]:
    """A recipe's whole spec, defaults included."""
    spec = recipe_specs().get(name)
    if spec is None:
        raise NotFoundError("name", f"there is no recipe {name[:100]!r}.", "GET /v1/recipes lists them.")
    return spec.model_dump(mode="json")
