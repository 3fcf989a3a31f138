"""/cluster, /tokens and /code: what there is and who holds it, who may ask, and what code of theirs jobs run."""

import time
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from largebatch.jobs.errors import FaultError, InputError, LargebatchError
from largebatch.service.api.dependencies import Dependencies, Deps
from largebatch.service.api.errors import STATUS, of_validation
from largebatch.service.api.pages.rendering import Visitor, render
from largebatch.service.api.routes import tokens as routes
from largebatch.service.api.routes.cluster import show_cluster
from largebatch.service.api.routes.code import list_code, remove
from largebatch.service.api.routes.tokens import NewToken
from largebatch.service.db.tokens import MAIN, SCOPES, ForbiddenError, Principal
from largebatch.service.present.run_files import size_in_words

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
    """One's own tokens, or an administrator everybody's, and a form for another one."""
    return _tokens(request, deps, who)


@router.post("/tokens")
def make_token(
    request: Request, deps: Deps, who: Visitor, owner: Text = "", name: Text = "", scope: Text = "submit", project: Text = "", days: Text = ""
) -> Response:
    """Make one, which this page alone shows."""
    values = {"owner": owner, "name": name, "scope": scope, "project": project, "days": days}
    whose = {"owner": owner.strip(), "project": project.strip() or None} if who.may("admin") else {}
    try:
        expires = _days(days) * DAY_S if days.strip() else None
        new = NewToken.model_validate({"scope": scope, "name": name.strip(), "expires_in_s": expires, **whose})
        made = routes.make_token(new, who, deps)
    except (ValidationError, InputError, ForbiddenError) as error:
        said = of_validation(error) if isinstance(error, ValidationError) else error
        field = "days" if said.field == "expires_in_s" else said.field
        return _tokens(request, deps, who, "", values, {field: f"{said.problem} {said.hint}"}, STATUS[type(said)][0])
    return _tokens(request, deps, who, made.secret)


@router.post("/tokens/{token_id}/revoke")
def revoke_token(token_id: str, deps: Deps, who: Visitor) -> Response:
    """End one, those that were made with it, and their sessions."""
    routes.revoke_token(token_id, deps, who)
    return RedirectResponse("/tokens", 303)


@router.get("/code")
def bundles(request: Request, deps: Deps, who: Visitor) -> Response:
    """The bundles of own code: one's own, for an administrator everybody's."""
    return render(request, "code.html", bundles=list_code(deps, who), size=size_in_words, problem="")


@router.post("/code/{sha256}/delete")
def delete_bundle(request: Request, sha256: str, deps: Deps, who: Visitor) -> Response:
    """Forget one that no job uses."""
    try:
        remove(deps, sha256, who)
    except LargebatchError as error:
        return render(request, "code.html", 409, bundles=list_code(deps, who), size=size_in_words, problem=f"{error.problem} {error.hint}")
    return RedirectResponse("/code", 303)


def _tokens(
    request: Request, deps: Dependencies, who: Principal, secret: str = "", values: Words = None, wrong: Words = None, status: int = 200
) -> Response:
    context = {"values": values or {}, "wrong": wrong or {}, "main": MAIN, "now_s": time.time(), "scopes": [one for one in SCOPES if who.may(one)]}
    return render(request, "tokens.html", status, who=who, tokens=routes.tokens_of(who, deps), secret=secret, **context)


def _days(text: str) -> float:
    """How long a token is good. Raises: InputError."""
    with suppress(ValueError):
        if 0 < (days := float(text)) <= 36_500:
            return days
    raise InputError("days", f"{text.strip()!r} is no number of days.", "Such as 90; empty: it does not expire.")
