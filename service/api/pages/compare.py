"""/compare: runs on one chart, and whether they may be ranked."""

from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from largebatch.jobs.run.run_folder import SUMMARY
from largebatch.service.api.dependencies import Deps
from largebatch.service.api.pages.rendering import Visitor, render
from largebatch.service.job import Kind
from largebatch.service.present.views import JobDetails

router = APIRouter(include_in_schema=False)
Runs = Annotated[list[str] | None, Query(max_length=200)]


@router.get("/compare")
def compare(request: Request, deps: Deps, who: Visitor, run: Runs = None) -> HTMLResponse:
    """Runs on one chart."""
    jobs = [JobDetails.model_validate(deps.visible(job_id, Kind.RUN, who)) for job_id in dict.fromkeys(run or [])]
    names = Counter(job.name for job in jobs)
    called = {job.id: job.name if names[job.name] == 1 else f"{job.name} {job.id.rpartition('-')[2]}" for job in jobs}
    return render(request, "compare.html", jobs=jobs, called=called)


@router.get("/compare/parts/footing")
def footing(request: Request, deps: Deps, who: Visitor, run: Runs = None) -> HTMLResponse:
    """What must be said of those that have ended, as `largebatch compare` says it; a part of the page that comes after it."""
    folders = [deps.folder(deps.visible(job_id, Kind.RUN, who)) for job_id in dict.fromkeys(run or [])]
    ended = [str(folder) for folder in folders if (folder / SUMMARY).is_file()]
    said = deps.analysis_worker.ask("beside_each_other", ended, asker=who.owner) if len(ended) > 1 else []
    return render(request, "compare_footing.html", said=said)
