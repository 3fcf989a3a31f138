"""/cluster and /tokens: what there is and who holds it, and who may ask."""

import time
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from largebatch.jobs.errors import FaultError, InputError
from largebatch.service.api.dependencies import Dependencies, Deps
from largebatch.service.api.pages.rendering import Visitor, render
from largebatch.service.api.routes.cluster import show_cluster
from largebatch.service.db.tokens import MAIN, SCOPES

router = APIRouter(include_in_schema=False)
DAY_S = 86_400.0
Text = Annotated[str, Form(max_length=200)]
Words = dict[str, str] | None


@router.get("/cluster")
def cluster(request: Request, deps: Deps, who: Visitor) -> Response:
    """Machines, who runs what, and the queue."""
    try:
        return render(request, "cluster.html", cluster=show_cluster(deps, who), problem=None)
    except FaultError as error:
        return render(request, "cluster.html", 503, cluster=None, problem=error.problem)


@router.get("/tokens")
def tokens(request: Request, deps: Deps, who: Visitor) -> Response:
    """The tokens, and a form for another one."""
    who.require("admin")
    return _tokens(request, deps)


@router.post("/tokens")
def make_token(
    request: Request, deps: Deps, who: Visitor, owner: Text = "", name: Text = "", scope: Text = "submit", project: Text = "", days: Text = ""
) -> Response:
    """Make one, which this page alone shows."""
    who.require("admin")
    values = {"owner": owner, "name": name, "scope": scope, "project": project, "days": days}
    try:
        expires = time.time() + _days(days) * DAY_S if days.strip() else None
        secret, _ = deps.tokens.create(owner.strip(), scope, expires, name=name.strip(), project=project.strip() or MAIN)
    except InputError as error:
        return _tokens(request, deps, "", values, {error.field: f"{error.problem} {error.hint}"}, 422)
    return _tokens(request, deps, secret)


@router.post("/tokens/{token_id}/revoke")
def revoke_token(token_id: str, deps: Deps, who: Visitor) -> Response:
    """End one, and the sessions that it opened."""
    who.require("admin")
    deps.tokens.revoke(token_id)
    return RedirectResponse("/tokens", 303)


def _tokens(request: Request, deps: Dependencies, secret: str = "", values: Words = None, wrong: Words = None, status: int = 200) -> Response:
    context = {"values": values or {}, "wrong": wrong or {}, "scopes": SCOPES, "main": MAIN, "now_s": time.time()}
    return render(request, "tokens.html", status, tokens=deps.tokens.all(), secret=secret, **context)


def _days(text: str) -> float:
    """How long a token is good. Raises: InputError."""
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= 36_500:
        raise InputError("days", f"{text.strip()!r} is no number of days.", "Such as 90; empty: it does not expire.")
    return days
