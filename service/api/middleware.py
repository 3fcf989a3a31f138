"""What surrounds every request: an id, limits of size and host, headers, a log line, and no inside of ours in an answer."""

import secrets
import time
from typing import NamedTuple

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from largebatch.jobs.errors import LargebatchError
from largebatch.service import added_run
from largebatch.service.api.auth import known
from largebatch.service.api.errors import Problem, TooLargeError, problem_of, respond
from largebatch.service.api.logs import Seldom
from largebatch.service.api.routes.operations import REQUESTS
from largebatch.service.bundle import CODE_ALONE, LARGEST_BYTES, is_upload
from largebatch.service.settings import LOOPBACK

LARGEST_BODY = 1 << 20
BODY_OF_ANYBODY = 1 << 14
"""More is read only of those who are known: thousands of connections can be open at a time."""
TOO_LARGE = TooLargeError("body", f"is larger than {LARGEST_BODY >> 20} MiB.", "Nothing here needs that.")
METHODS = {"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; frame-src 'self'"
)
"""'unsafe-inline' for styles alone: plotly sizes its own elements so."""
HEADERS = {  # no other site is told an address of ours; under `no-referrer` browsers would send the Origin of our own forms as `null`
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}


class Upload(NamedTuple):
    """A body that may be larger, and lies on disk: how large, with the form that it comes in, and what is told beyond that."""

    most_bytes: int
    too_large: TooLargeError


CODE = Upload(LARGEST_BYTES + LARGEST_BODY, TooLargeError("body", f"is larger than {LARGEST_BYTES >> 20} MiB.", CODE_ALONE))
RUN = Upload(added_run.MOST_BYTES + LARGEST_BODY, TooLargeError("body", f"is larger than {added_run.MOST_BYTES >> 20} MiB.", added_run.HINT))


class RequestMiddleware:
    """Surrounds an application.

    Args: is_open: it asks for no tokens, and so answers to the names of this machine alone; takes_code: it takes larger bodies where code comes in.
    """

    def __init__(self, app: ASGIApp, is_open: bool, takes_code: bool = False) -> None:
        self._app, self._is_open, self._takes_code = app, is_open, takes_code
        self._log, self._seldom = structlog.get_logger("request"), Seldom()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, request_id = time.perf_counter(), secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        status, location = 0, ""

        async def send_with_headers(message: Message) -> None:
            nonlocal status, location
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers["x-request-id"] = request_id
                status, location = message["status"], headers.get("location", "")
            await send(message)

        try:
            await self._answer(scope, receive, send_with_headers)
        except Exception as error:
            if (repeated := self._seldom.left_out(f"{type(error).__name__} {_route(scope)}")) is not None:
                self._log.exception("failed", request=request_id, path=scope["path"][:200], **_more(repeated))
            if not status:
                hint = "The service's log has this request's id."
                problem = Problem(title="Our fault", status=500, detail="Something of ours failed.", hint=hint, request_id=request_id)
                await respond(problem)(scope, receive, send_with_headers)
        finally:
            accepted = location.rpartition("/")[2] if status == 202 else ""
            self._note(scope, status, time.perf_counter() - began_s, accepted)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a refusal, or hand the request on with its whole body."""
        headers, messages = Headers(scope=scope), list[Message]()
        upload = self._upload(scope["method"], scope["path"], headers.get("content-type", ""))
        length = headers.get("content-length", "0")
        problem: Problem | None = None
        # Where no token is needed, nothing but the browser's honesty stands between a foreign page and us: names that
        # a foreign page can point at this machine are not answered.
        host = headers.get("host", "").rsplit(":", 1)[0].strip("[]")
        if length.isdecimal() and int(length) > (upload.most_bytes if upload else LARGEST_BODY):
            problem = problem_of(upload.too_large if upload else TOO_LARGE)
        elif self._is_open and host not in LOOPBACK:
            problem = Problem(title="Not allowed", status=421, detail=f"This service is not called {host[:100]!r}.")
        elif upload:
            await self._app(scope, _counted(receive, upload), send)
            return
        else:
            message = await _body(receive, most=BODY_OF_ANYBODY)
            if message.get("more_body") and (problem := await self._stranger(scope)) is None:
                message = await _body(receive, most=LARGEST_BODY, begun=message["body"])
            if len(message.get("body", b"")) > LARGEST_BODY:
                problem = problem_of(TOO_LARGE)
            messages.append(message)
        if problem is not None:
            problem.request_id = scope["state"]["request_id"]
            await respond(problem)(scope, receive, send)
            return

        async def receive_again() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, receive_again, send)

    def _upload(self, method: str, path: str, content_type: str) -> Upload | None:
        """What a request may bring beyond a usual body."""
        if added_run.is_added_run(method, path, content_type):
            return RUN
        return CODE if self._takes_code and is_upload(method, path, content_type) else None

    async def _stranger(self, scope: Scope) -> Problem | None:
        """What is told to somebody who is not known, where it must be known who asks."""
        if self._is_open:
            return None
        try:
            await known(Request(scope))
        except LargebatchError as error:
            return problem_of(error)
        return None

    def _note(self, scope: Scope, status: int, took_s: float, accepted: str) -> None:
        """Count the request, and log it. Args: accepted: the id of the job that it made."""
        route = _route(scope)
        REQUESTS.labels(scope["method"] if scope["method"] in METHODS else "other", route, str(status)).observe(took_s)
        owner = scope["state"].get("owner")
        repeated = 0 if owner is not None else self._seldom.left_out(f"{status} {route}")
        if route == "/healthz" or repeated is None:
            return
        job = str(scope.get("path_params", {}).get("job_id") or accepted)[:160]
        self._log.info(
            "request", request=scope["state"]["request_id"], **({"job": job} if job else {}),
            method=scope["method"], path=scope["path"][:200], status=status, ms=round(took_s * 1000, 1),
            owner=owner, **_more(repeated),
        )  # fmt: skip


def _counted(receive: Receive, upload: Upload) -> Receive:
    """The parts of a body as they come. Raises, to whoever reads them: TooLargeError, where they become too many."""
    num_bytes = 0

    async def receive_next() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > upload.most_bytes:
            raise upload.too_large
        return message

    return receive_next


async def _body(receive: Receive, most: int, begun: bytes = b"") -> Message:
    """A request's body as one message, whole or as soon as there is more of it than that; or that the asker has gone."""
    body = begun
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return message
        body += message.get("body", b"")
        if not message.get("more_body") or len(body) > most:
            return {"type": "http.request", "body": body, "more_body": bool(message.get("more_body"))}


def _route(scope: Scope) -> str:
    """The pattern of the path that was asked for."""
    return getattr(scope.get("route"), "path", "none")


def _more(repeated: int) -> dict[str, int]:
    """What a line of the log says of those like it that were left out."""
    return {"more_like_it": repeated} if repeated else {}
