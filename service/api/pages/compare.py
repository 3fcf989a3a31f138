"""/compare: runs on one chart."""

from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from largebatch.service.api.dependencies import Deps
from largebatch.service.api.pages.rendering import Visitor, render
from largebatch.service.job import Kind
from largebatch.service.present.views import JobDetails

router = APIRouter(include_in_schema=False)


@router.get("/compare")
def compare(request: Request, deps: Deps, who: Visitor, run: Annotated[list[str] | None, Query(max_length=200)] = None) -> HTMLResponse:
    """Runs on one chart."""
    jobs = [JobDetails.model_validate(deps.visible(job_id, Kind.RUN, who)) for job_id in dict.fromkeys(run or [])]
    names = Counter(job.name for job in jobs)
    called = {job.id: job.name if names[job.name] == 1 else f"{job.name} {job.id.rpartition('-')[2]}" for job in jobs}
    return render(request, "compare.html", jobs=jobs, called=called)
