"""/runs/ID/about: the name, tags and notes that people give a job, and whether their project reads it."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from largebatch.service.api.dependencies import Deps
from largebatch.service.api.pages.rendering import Visitor, kind_of, render
from largebatch.service.api.requests import JobChange
from largebatch.service.api.routes.jobs import say_of
from largebatch.service.db.tokens import Principal
from largebatch.service.job import Job

router = APIRouter(include_in_schema=False)
Text = Annotated[str, Form(max_length=20_000)]
Ticked = Annotated[bool, Form()]


@router.get("/runs/{job_id}/about")
@router.get("/sweeps/{job_id}/about")
@router.get("/studies/{job_id}/about")
def about(request: Request, job_id: str, deps: Deps, who: Visitor) -> Response:
    """The form."""
    job = deps.own(job_id, kind_of(request), who)
    return _form(request, who, job, {"name": job.name, "tags": " ".join(job.tags), "notes": job.notes, "shared": job.project is not None}, {})


@router.post("/runs/{job_id}/about")
@router.post("/sweeps/{job_id}/about")
@router.post("/studies/{job_id}/about")
def change(
    request: Request, job_id: str, deps: Deps, who: Visitor, name: Text = "", tags: Text = "", notes: Text = "", shared: Ticked = False
) -> Response:
    """Change them, or say beside each field what is wrong with it."""
    job = deps.own(job_id, kind_of(request), who)
    said: dict[str, Any] = {"name": name.strip(), "tags": tuple(tags.replace(",", " ").split()), "notes": notes.strip().replace("\r\n", "\n")}
    if deps.settings.sharing:
        said["project"] = (job.project or who.project) if shared else None
    try:
        say_of(deps, job, JobChange.model_validate(said), who)
    except ValidationError as error:
        wrong = {str(one["loc"][0]): f"{one['msg'].removeprefix('Value error, ')}." for one in error.errors()}
        return _form(request, who, job, {"name": name, "tags": tags, "notes": notes, "shared": shared}, wrong, 422)
    return RedirectResponse(f"/{job.kind.plural}/{job.id}", 303)


def _form(request: Request, who: Principal, job: Job, values: dict[str, Any], wrong: dict[str, str], status: int = 200) -> Response:
    return render(request, "about.html", status, job=job, values=values, wrong=wrong, project=job.project or who.project)
