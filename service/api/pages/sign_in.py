"""/login and /logout: a cookie for a token, and its end."""

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from largebatch.service.api.auth import COOKIE, address_of, refuse_foreign
from largebatch.service.api.dependencies import Deps
from largebatch.service.api.pages.rendering import page_of_ours, render
from largebatch.service.db.tokens import UnauthorizedError

router = APIRouter(include_in_schema=False)
MOST_CHARACTERS = 2000
"""Of the page that somebody wanted."""


@router.get("/login")
def login(request: Request, next: Annotated[str, Query(max_length=MOST_CHARACTERS)] = "/runs") -> HTMLResponse:
    """Where a person shows a token."""
    return render(request, "login.html", failed="", next=page_of_ours(next))


@router.post("/login")
def sign_in(
    request: Request, deps: Deps, token: Annotated[str, Form()] = "", next: Annotated[str, Form(max_length=MOST_CHARACTERS)] = "/runs"
) -> Response:
    """A cookie for a token, and the page that was wanted; whatever else was pasted into its place is told there that it is none."""
    refuse_foreign(request)
    deps.refusals.take(address_of(request))
    try:
        cookie = deps.tokens.open_session(token.strip())
    except UnauthorizedError as error:
        return render(request, "login.html", 401, failed=f"{error.problem[:1].upper()}{error.problem[1:]}", next=page_of_ours(next))
    request.state.owner = deps.tokens.of_session(cookie).owner
    answer = RedirectResponse(page_of_ours(next), 303)
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
