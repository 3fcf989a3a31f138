"""Errors as RFC 9457 problem details: what is wrong, where, and what to do instead."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from largebatch.jobs.errors import FaultError, InputError, LargebatchError
from largebatch.jobs.spec.mistakes import plain_mistake
from largebatch.service.db.store import ConflictError, GoneError
from largebatch.service.db.tokens import ForbiddenError, UnauthorizedError

MEDIA_TYPE = "application/problem+json"
IN_A_PATH = "/:@!$&'()*+,;=-._~"
"""What a path may hold as it is (RFC 3986, 3.3)."""
IN_A_QUERY = IN_A_PATH + "?%"
PROBLEM_SCHEMA = "#/components/schemas/Problem"
"""Where the OpenAPI document describes a problem."""


class Mistake(BaseModel):
    """One more thing that is wrong in a request."""

    field: str
    """Dotted name of what is wrong in the request."""
    problem: str
    hint: str
    """What to do instead."""


class Problem(BaseModel):
    """The body of every answer that is an error."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    """One sentence: field, problem, hint."""
    field: str = ""
    """Dotted name of what is wrong in the request."""
    problem: str = ""
    hint: str = ""
    """What to do instead."""
    others: list[Mistake] = []
    """What else was found wrong at the same time; `detail` tells of the first alone."""
    request_id: str = ""


class NotFoundError(LargebatchError):
    """There is nothing of that name, or nothing that the asker may see."""


class NotJsonError(InputError):
    """A body that is no JSON, or gives a key twice."""


class TooManyRequestsError(LargebatchError):
    """More than one asker's share."""


class TooLargeError(LargebatchError):
    """More bytes than are read."""


class TooHeavyError(FaultError):
    """An answer that takes more time or memory than one may; asked again it would take the same."""


STATUS: dict[type[Exception], tuple[int, str]] = {
    UnauthorizedError: (401, "Who is asking?"),
    ForbiddenError: (403, "Not allowed"),
    NotFoundError: (404, "Not found"),
    ConflictError: (409, "Not as things stand"),
    GoneError: (410, "Deleted"),
    TooLargeError: (413, "Too large"),
    TooManyRequestsError: (429, "Too many requests"),
    NotJsonError: (400, "Not JSON"),
    InputError: (422, "Cannot be used"),
    TooHeavyError: (504, "Too much to work out here"),
    FaultError: (503, "Not available now"),
}
ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"description": title, "content": {MEDIA_TYPE: {"schema": {"$ref": PROBLEM_SCHEMA}}}} for code, title in dict(STATUS.values()).items()
}
"""What the OpenAPI document says of them."""


def problem_of(error: LargebatchError) -> Problem:
    """An error of ours, for the network."""
    status, title = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), (500, "Our fault"))
    found = error.others if isinstance(error, InputError) else ()
    others = [Mistake(field=other.field, problem=other.problem, hint=other.hint) for other in found]
    return Problem(title=title, status=status, detail=str(error), field=error.field, problem=error.problem, hint=error.hint, others=others)


def respond(problem: Problem) -> Response:
    """As an HTTP answer."""
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "10"}, 503: {"Retry-After": "5"}}.get(problem.status, {})
    return JSONResponse(problem.model_dump(), problem.status, headers, MEDIA_TYPE)


def of_validation(error: RequestValidationError | ValidationError) -> InputError:
    """The first finding about a request, or about what a form asks for, with the others of other fields."""
    by_field: dict[str, InputError] = {}
    for mistake in error.errors():
        if mistake["type"] == "json_invalid":  # its location is a character's number, no field
            reason = mistake["ctx"]["error"]
            return NotJsonError("body", f"{reason}." if reason.endswith("is given twice") else f"is not JSON: {reason}.")
        location = [str(part) for part in mistake["loc"] if part not in {"body", "query", "path", "header", "int", "float", "str", "bool"}]
        is_known = mistake["type"] != "value_error" and isinstance(error, RequestValidationError)
        told = InputError(".".join(location), plain_mistake(mistake), "GET /openapi.json says what is expected." if is_known else "")
        by_field.setdefault(told.field, told)
    first, *first.others = by_field.values()
    return first


def answer_errors(app: FastAPI, render: Callable[[Request, Problem], Response]) -> None:
    """Answer every error with a problem, as a page where a person looks at pages.

    Args: render: makes the page.
    """

    def answer(request: Request, problem: Problem) -> Response:
        problem.request_id = str(getattr(request.state, "request_id", ""))
        is_page = "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/v1")
        return render(request, problem) if is_page else respond(problem)

    @app.exception_handler(LargebatchError)
    def ours(request: Request, error: LargebatchError) -> Response:
        return answer(request, problem_of(error))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, problem_of(of_validation(error)))

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404 and (instead := without_slash(request)):
            return Response(status_code=307, headers={"Location": instead})
        if 300 <= error.status_code < 400:
            return Response(status_code=error.status_code, headers=error.headers)
        title = {404: "Not found", 405: "Not possible here"}.get(error.status_code, "Cannot be used")
        sentence = f"{str(error.detail).rstrip('.')}."
        response = answer(request, Problem(title=title, status=error.status_code, detail=sentence, problem=sentence))
        response.headers.update(error.headers or {})
        if error.status_code == 405:
            response.headers["Allow"] = ", ".join(allowed_methods(request))
        return response


def without_slash(request: Request) -> str | None:
    """The address that a path with a slash too many at its end means, relative to this host: a proxy may have changed the name, or ended TLS."""
    asked: str = request.scope["path"]  # request.url leaves out what a line may not hold
    path, query = asked.rstrip("/"), request.scope["query_string"].decode("latin-1")
    if path == asked or not any(route.matches({**request.scope, "path": path})[0] is Match.FULL for route in request.app.routes):
        return None
    return quote(path, safe=IN_A_PATH) + (f"?{quote(query, safe=IN_A_QUERY)}" if query else "")


def allowed_methods(request: Request) -> list[str]:
    """All methods of a path; the framework names those of its first route alone.

    `/v1/runs/add` has its own, not those of `/v1/runs/{job_id}`: of the routes that a path matches, those with the fewest parameters count.
    """
    routes = [route for route in request.app.routes if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE]
    fewest = min((len(route.param_convertors) for route in routes), default=0)
    return sorted({method for route in routes if len(route.param_convertors) == fewest for method in route.methods or ()})
