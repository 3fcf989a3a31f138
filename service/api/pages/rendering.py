"""What all pages share: their templates, who looks at them, and addresses that a page may lead back to."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.templating import Jinja2Templates
from starlette.exceptions import HTTPException

from largebatch.jobs.tasks.metric import in_places
from largebatch.service import web
from largebatch.service.api.auth import principal_of
from largebatch.service.api.dependencies import Deps
from largebatch.service.api.errors import Problem
from largebatch.service.api.routes.operations import parts
from largebatch.service.db.tokens import Principal, UnauthorizedError
from largebatch.service.job import FINAL, Kind, State
from largebatch.tuning import report as reports
from largebatch.tuning.report.code_words import coded
from largebatch.tuning.results.unit import clock_in_words

HERE = Path(web.__file__).parent
CARDS = Path(reports.__file__).parent / "templates"
templates = Jinja2Templates([HERE / "templates", CARDS])
templates.env.globals.update(states=list(State), final=FINAL)
templates.env.filters.update(coded=coded, places=in_places, clock=clock_in_words, at=lambda at_s: datetime.fromtimestamp(at_s, UTC))


async def visitor(request: Request, deps: Deps) -> Principal:
    """Who looks at a page; one who has not signed in is asked to, and comes back to it."""
    try:
        return await principal_of(request, deps, None)
    except UnauthorizedError:
        wanted = address_of_page(request) if request.method == "GET" else "/runs"
        login = "/login" if wanted == "/runs" else f"/login?next={quote(wanted, safe='')}"
        raise HTTPException(303, "Sign in.", {"Location": login}) from None


Visitor = Annotated[Principal, Depends(visitor)]


def kind_of(request: Request) -> Kind:
    """What kind of job a page is about, by its address."""
    return next(kind for kind in Kind if request.url.path.split("/")[1] == kind.plural)


def address_of_page(request: Request) -> str:
    """A page's own address, without the service's."""
    return f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path


def page_of_ours(address: str) -> str:
    """An address that a form brought back, if it is a page of ours, else the runs': no link may lead elsewhere by way of us."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "/runs"
    is_ours = not parts.scheme and not parts.netloc and parts.path.startswith("/") and address.isprintable() and "\\" not in address
    return address if is_ours else "/runs"


def render(request: Request, name: str, status: int = 200, **context: Any) -> HTMLResponse:
    """A template with what every page shows."""
    deps = request.app.state.dependencies
    settings = deps.settings
    everywhere = {"needs_tokens": settings.needs_tokens, "on_ray": settings.ray_address is not None, "sharing": settings.sharing,
                  "allows_code": settings.allows_code,
                  "troubles": {part: text for part, text in parts(deps, waits=False).items() if text != "ok"}}  # fmt: skip
    return templates.TemplateResponse(request, name, {**everywhere, **context}, status)


def render_problem(request: Request, problem: Problem) -> Response:
    """An error, for a person at a page."""
    return render(request, "problem.html", problem.status, problem=problem)
