"""/runs and /sweeps: the lists, and what is done with several of their jobs at once."""

from datetime import UTC, datetime
from functools import partial
from itertools import product
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response

from largebatch.jobs.errors import InputError, LargebatchError
from largebatch.service.api.dependencies import Deps
from largebatch.service.api.pages.rendering import Visitor, address_of_page, kind_of, page_of_ours, render
from largebatch.service.api.routes.answers import trials_of
from largebatch.service.api.routes.jobs import delete_job
from largebatch.service.db.listing import CREATED, read_search
from largebatch.service.db.store import Page
from largebatch.service.job import Job, Kind, State
from largebatch.service.present.columns import COLUMNS, chosen_columns, mixed, remember
from largebatch.service.present.views import JobView
from largebatch.tuning.sweep.in_short import in_short

router = APIRouter(include_in_schema=False)
COOKIE = "largebatch_columns_{kind}"
COOKIE_S = 365 * 86_400
NOTHING = Page([], None, 0)
Chosen = Annotated[list[str] | None, Form(max_length=200)]


@router.get("/")
def start() -> Response:
    """The runs are what people look at first."""
    return RedirectResponse("/runs")


@router.get("/runs")
@router.get("/sweeps")
@router.get("/studies")
def job_list(
    request: Request,
    deps: Deps,
    who: Visitor,
    state: Annotated[str, Query(max_length=20)] = "",
    q: Annotated[str, Query(max_length=300)] = "",
    sort: Annotated[str, Query(max_length=40)] = f"-{CREATED}",
    column: Annotated[list[str] | None, Query(max_length=40)] = None,
    cursor: Annotated[str | None, Query(max_length=300)] = None,
    group: Annotated[str, Query(max_length=20)] = "",
    open: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """A table that follows what it shows. Args: group: "sweep": runs beside sweeps and studies; open: the one whose runs stand below it."""
    kind = kind_of(request)
    is_mixed = kind is Kind.RUN and group == "sweep"
    chosen = State(state) if state in set(State) else None
    where, text = read_search(q)
    page, mistake = NOTHING, ""
    try:
        page = deps.store.page(
            None if is_mixed else kind, state=chosen, text=text, where=where, sight=deps.sight(who), sort=sort, cursor=cursor, counts=True
        )
    except InputError as error:
        mistake = f"{error.problem} {error.hint}"
    jobs = page.jobs
    rows = [JobView.model_validate(job) for job in jobs]
    opened = next((job for job in jobs if job.id == open and job.kind is not Kind.RUN), None)
    trials = [] if opened is None else trials_of(deps, opened)
    metrics = {row.progress.get("metric") for row in rows if "score" in row.progress}
    columns = chosen_columns(kind, column, request.cookies.get(COOKIE.format(kind=kind)))
    answer = render(
        request, "jobs.html", kind=kind, is_mixed=is_mixed, rows=rows, total=page.total, next_cursor=page.next_cursor, state=state, q=q, sort=sort,
        asked={"state": state, "q": q, **({"group": group} if is_mixed else {})}, mistake=mistake, is_filtered=bool(chosen or q or cursor),
        columns=mixed(columns) if is_mixed else columns, all_columns=COLUMNS[kind], metric=metrics.pop() if len(metrics) == 1 else None,
        here=address_of_page(request), changeable={job.id for job in jobs if deps.may_change(who, job)}, now=datetime.now(UTC),
        open=opened and opened.id, trials=trials, in_short=in_short,
    )  # fmt: skip
    if column:
        answer.set_cookie(COOKIE.format(kind=kind), remember(columns), COOKIE_S, httponly=True, samesite="strict", path="/")
    return answer


def act_on_many(
    act: str,
    request: Request,
    deps: Deps,
    who: Visitor,
    run: Chosen = None,
    job: Chosen = None,
    back: Annotated[str, Form(max_length=2000)] = "/runs",
    sure: Annotated[bool, Form()] = False,
) -> Response:
    """Cancel or delete the chosen ones; what is to be deleted is named first."""
    kind = kind_of(request)
    jobs: list[Job] = []
    problems: list[str] = []
    for job_id in dict.fromkeys([*(run or ()), *(job or ())]):
        try:
            found = deps.store.find(job_id)  # lists may mix kinds
            chosen = deps.own(job_id, found.kind if found and deps.sees(who, found) else kind, who)
            if act == "cancel":
                deps.store.ask_to_cancel(chosen)
            elif sure:
                delete_job(deps, chosen)
            else:
                jobs.append(chosen)
        except LargebatchError as error:
            problems.append(f"{job_id}: {error.problem} {error.hint}")
    back = page_of_ours(back)
    if jobs or problems:
        return render(request, "sure.html", kind=kind, jobs=jobs, problems=problems, back=back)
    return RedirectResponse(back, 303)


for kind, act in product(Kind, ("cancel", "delete")):
    router.add_api_route(f"/{kind.plural}/{act}", partial(act_on_many, act), methods=["POST"])
