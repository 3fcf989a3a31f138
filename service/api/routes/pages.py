"""Pages of HTML. They show what the REST interface gives, and ask it for everything that changes."""

from importlib.metadata import distribution
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates
from starlette.exceptions import HTTPException

from largebatch.service import web
from largebatch.service.api.auth import COOKIE, address_of, principal_of, refuse_foreign
from largebatch.service.api.dependencies import Deps
from largebatch.service.api.errors import Problem
from largebatch.service.api.routes.operations import parts
from largebatch.service.db.tokens import Principal, UnauthorizedError
from largebatch.service.job import FINAL, Kind, State
from largebatch.service.present.views import JobDetails, JobView
from largebatch.tuning import report as reports

HERE, CARDS = Path(web.__file__).parent, Path(reports.__file__).parent / "templates"
router = APIRouter(include_in_schema=False)
templates = Jinja2Templates([HERE / "templates", CARDS])
templates.env.globals.update(states=list(State), final=FINAL)


async def visitor(request: Request, deps: Deps) -> Principal:
    """Who looks at a page; one who has not signed in is asked to."""
    try:
        return await principal_of(request, deps, None)
    except UnauthorizedError:
        raise HTTPException(303, "Sign in.", {"Location": "/login"}) from None


Visitor = Annotated[Principal, Depends(visitor)]


def render(request: Request, name: str, status: int = 200, **context: Any) -> HTMLResponse:
    """A template with what every page shows."""
    deps = request.app.state.dependencies
    settings = deps.settings
    everywhere = {"needs_tokens": settings.needs_tokens, "on_ray": settings.ray_address is not None,
                  "troubles": {part: text for part, text in parts(deps, waits=False).items() if text != "ok"}}  # fmt: skip
    return templates.TemplateResponse(request, name, {**everywhere, **context}, status)


def render_problem(request: Request, problem: Problem) -> Response:
    """An error, for a person at a page."""
    return render(request, "problem.html", problem.status, problem=problem)


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
    q: Annotated[str, Query(max_length=100)] = "",
    cursor: Annotated[str | None, Query(max_length=300)] = None,
) -> HTMLResponse:
    """A table that follows what it shows."""
    kind = next(kind for kind in Kind if request.url.path == f"/{kind.plural}")
    owner = None if who.may("admin") else who.owner
    chosen = State(state) if state in set(State) else None
    page = deps.store.page(kind, owner=owner, state=chosen, text=q, cursor=cursor)
    rows = [JobView.model_validate(job) for job in page.jobs]
    return render(request, "jobs.html", kind=kind, rows=rows, next_cursor=page.next_cursor, state=state, q=q, is_filtered=bool(chosen or q or cursor))


@router.get("/compare")
def compare(request: Request, deps: Deps, who: Visitor, run: Annotated[list[str] | None, Query(max_length=200)] = None) -> HTMLResponse:
    """Runs on one chart."""
    jobs = [JobDetails.model_validate(deps.visible(job_id, Kind.RUN, who)) for job_id in dict.fromkeys(run or [])]
    return render(request, "compare.html", jobs=jobs)


@router.get("/login")
def login(request: Request) -> HTMLResponse:
    """Where a person shows a token."""
    return render(request, "login.html", failed=False)


@router.post("/login")
def sign_in(request: Request, deps: Deps, token: Annotated[str, Form()] = "") -> Response:
    """A cookie for a token; whatever else was pasted into its place is told there that it is none."""
    refuse_foreign(request)
    deps.refusals.take(address_of(request))
    try:
        cookie = deps.tokens.open_session(token.strip())
    except UnauthorizedError:
        return render(request, "login.html", 401, failed=True)
    answer = RedirectResponse("/runs", 303)
    answer.set_cookie(COOKIE, cookie, httponly=True, samesite="strict", secure=request.url.scheme == "https", path="/")
    return answer


@router.post("/logout")
def sign_out(request: Request, deps: Deps) -> Response:
    """End the session."""
    refuse_foreign(request)
    cookie = request.cookies.get(COOKIE)
    if cookie:
        deps.tokens.close_session(cookie)
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE, path="/")
    return answer


@router.get("/static/card/{name}")
def card(name: Literal["card.css", "copies.js"]) -> FileResponse:
    """How a card looks, and what its buttons do, as in reports."""
    return FileResponse(str(CARDS / name), headers={"Cache-Control": "public, max-age=3600"})


@router.get("/static/plotly.js")
def plotly() -> FileResponse:
    """Plotly's own script, from the installed package."""
    path = distribution("plotly").locate_file("plotly/package_data/plotly.min.js")
    return FileResponse(str(path), media_type="text/javascript", headers={"Cache-Control": "public, max-age=86400"})
