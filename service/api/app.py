"""The service: its deps put together, and what surrounds every request."""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from largebatch.service.api.analysis_worker import AnalysisWorker
from largebatch.service.api.auth import Tokens
from largebatch.service.api.dependencies import Dependencies, RateLimit
from largebatch.service.api.errors import Problem, TooLargeError, install, problem_of, respond
from largebatch.service.api.live import Watcher
from largebatch.service.api.routes import operations, others, pages, runs, sweeps
from largebatch.service.backends.base import Backend
from largebatch.service.backends.local import LocalBackend
from largebatch.service.backends.ray import RayBackend
from largebatch.service.db.engine import connect, refuse_outdated, upgrade
from largebatch.service.db.store import Store
from largebatch.service.job import Capacity
from largebatch.service.present.tracking import Tracking
from largebatch.service.queue import one_host
from largebatch.service.queue.reconcile import Reconciler
from largebatch.service.queue.run_copies import RunCopies
from largebatch.service.settings import LOOPBACK, Settings

LARGEST_BODY = 1 << 20
TOO_LARGE = 413
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; frame-src 'self'"
)
"""'unsafe-inline' for styles alone: plotly sizes its own elements so."""
HEADERS = {  # no other site is told an address of ours; under `no-referrer` browsers would send the Origin of our own forms as `null`
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    b"cache-control": b"no-store",
}


def make_dependencies(settings: Settings) -> Dependencies:
    """Connect to the database, and choose the backend. Raises: InputError, DatabaseError."""
    settings.runs_dir.mkdir(parents=True, exist_ok=True)
    settings.state_dir.mkdir(mode=0o700, exist_ok=True)
    engine = connect(settings.url)
    if settings.database_url is None:
        upgrade(engine)  # the embedded database is ours alone
    else:
        refuse_outdated(engine)
    store, tokens = Store(engine), Tokens(engine)
    backend: Backend
    if settings.ray_address is None:
        one_host.claim(store, settings.state_dir, settings.takes_over)
        backend = LocalBackend(settings.state_dir, settings.runs_dir, settings.data_dir, Capacity(settings.cpus, settings.gpus))
    else:
        backend = RayBackend(settings.ray_address, settings.store or settings.runs_dir.resolve(), settings.data_dir, settings.ray_python)
    copies = RunCopies(settings.store, settings.runs_dir, store.active_ids) if settings.store else None
    refresh = copies.refresh if copies else None
    return Dependencies(
        settings, store, tokens, backend, Reconciler(store, backend, settings, refresh),
        Watcher(store, settings.runs_dir, tokens.still_valid, refresh), AnalysisWorker(), RateLimit(settings.rate_per_minute),
        Tracking(settings.tracking_uri), copies,
    )  # fmt: skip


def make_app(deps: Dependencies) -> FastAPI:
    """The application of these deps; the reconciler and the watcher live as long as it does."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        from starlette.concurrency import run_in_threadpool

        if deps.copies is not None:
            deps.copies.start()
        deps.watcher.start()
        deps.reconciler.start()
        yield
        await deps.watcher.stop()
        await run_in_threadpool(deps.reconciler.stop)
        deps.readers.shutdown()
        deps.writers.shutdown()
        if deps.copies is not None:
            await run_in_threadpool(deps.copies.stop)
        deps.analysis_worker.close()
        deps.store.engine.dispose()

    app = FastAPI(
        title="largebatch", version="1", summary="Runs, sweeps, and what they answer.", lifespan=lifespan, docs_url=None, redoc_url=None,
    )  # fmt: skip
    app.state.deps = deps
    install(app, pages.render_problem)
    for router in (runs.router, sweeps.router, others.recipes, others.cluster, others.events, others.tokens, operations.router, pages.router):
        app.include_router(router)
    pages.mount_static(app)
    app.add_middleware(RequestMiddleware, settings=deps.settings)
    return app


def too_large() -> TooLargeError:
    """What is said of a body that is not read to its end."""
    return TooLargeError("body", f"is larger than {LARGEST_BODY >> 20} MiB.", "Nothing here needs that.")


class RequestMiddleware:
    """Around every request: an id, limits of size and host, headers, a log line, and no inside of ours in an answer."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._log = structlog.get_logger("request")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.perf_counter()
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0
        accepted = ""
        has_begun = False

        taken = 0

        async def sending(message: Message) -> None:
            nonlocal status, has_begun, accepted
            if taken > LARGEST_BODY and not has_begun and message.get("status") != TOO_LARGE:
                return  # what the application makes of half a body
            if message["type"] == "http.response.start":
                status, has_begun = message["status"], True
                given = dict(message["headers"])
                accepted = given.get(b"location", b"").decode("latin-1").rpartition("/")[2] if status == 202 else ""
                message["headers"] = [
                    *message["headers"],
                    *((name, value) for name, value in HEADERS.items() if name not in given),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        async def receiving() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > LARGEST_BODY:
                raise too_large()
            return message

        try:
            refusal = self._refused(scope, request_id)
            if refusal is None:
                with contextlib.suppress(TooLargeError):
                    await self._app(scope, receiving, sending)
                if taken > LARGEST_BODY and not has_begun:
                    await respond(problem_of(too_large(), request_id))(scope, receive, sending)
            else:
                await refusal(scope, receive, sending)
        except Exception:
            self._log.exception("failed", request=request_id, path=scope["path"])
            if not has_begun:
                problem = Problem(title="Our fault", status=500, detail="Something of ours failed.", request_id=request_id,
                                  hint="The service's log has this request's id.")  # fmt: skip
                await respond(problem)(scope, receive, sending)
        finally:
            self._note(scope, status, time.perf_counter() - began_s, request_id, accepted)

    def _refused(self, scope: Scope, request_id: str) -> Any:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > LARGEST_BODY:
            return respond(problem_of(too_large(), request_id))
        if not self._settings.needs_tokens:
            # On loopback nothing but the browser's honesty stands between a foreign page and us: names that a
            # foreign page can point at this machine are not answered.
            host = headers.get(b"host", b"").decode("latin-1").rsplit(":", 1)[0].strip("[]")
            if host not in LOOPBACK:
                return respond(Problem(title="Not allowed", status=421, detail=f"This service is not called {host[:100]!r}.", request_id=request_id))
        return None

    def _note(self, scope: Scope, status: int, took_s: float, request_id: str, accepted: str) -> None:
        route = getattr(scope.get("route"), "path", "none")
        operations.REQUESTS.labels(scope["method"] if scope["method"] in METHODS else "other", route, str(status)).observe(took_s)
        if route == "/healthz":
            return
        job = str(scope.get("path_params", {}).get("job_id") or accepted)[:160]
        self._log.info(
            "request", request=request_id, **({"job": job} if job else {}),
            method=scope["method"], path=scope["path"][:200], status=status, ms=round(took_s * 1000, 1),
            owner=scope["state"].get("owner"),
        )  # fmt: skip


METHODS = {"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"}
