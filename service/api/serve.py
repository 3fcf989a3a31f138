"""The service: its application, and its process with logs, the socket, and an end in good order."""

import gc
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from largebatch.jobs.errors import InputError
from largebatch.service.api.added import route as added_runs
from largebatch.service.api.connections import BoundedConnection, Server, TakesCode, listen, open_as_many_files_as_allowed
from largebatch.service.api.dependencies import Dependencies, make_dependencies
from largebatch.service.api.errors import Problem, answer_errors
from largebatch.service.api.logs import log_to_stderr
from largebatch.service.api.middleware import RequestMiddleware
from largebatch.service.api.pages import about, assets, compare, lists, new_job, one_job, operators, rendering, sign_in
from largebatch.service.api.routes import cluster, code, jobs, operations, runs, studies, sweeps, tokens
from largebatch.service.present.views import refuse_unless_public
from largebatch.service.settings import Settings

GRACE_S = 10
KEEP_ALIVE_S = 75
"""How long a connection may idle between requests: longer than proxies keep theirs (a minute, most of them), or a request that they send on one
that is just being closed is lost. Where room is short idle ones go first."""
LARGEST_HEADERS = 1 << 14


def serve(settings: Settings) -> None:
    """Answer until SIGTERM or Ctrl-C; jobs go on without the service. Raises: InputError, DatabaseError."""
    log_to_stderr(settings.log_json)
    open_as_many_files_as_allowed()
    if settings.store is not None and settings.ray_address is None:
        raise InputError("--runs-dir", "this machine's own jobs need a folder of this machine.", "Give a folder, or --ray-address.")
    for option, address in (("--mlflow-url", settings.mlflow_url), ("--ray-dashboard-url", settings.ray_dashboard_url)):
        if address is not None:
            refuse_unless_public(option, address)
    deps = make_dependencies(settings)
    if not settings.is_loopback and not deps.tokens.all():
        problem = f"{settings.host} is reached by others, and there is no token yet."
        raise InputError("--host", problem, "First: largebatch token create OWNER --scope admin")
    listener = listen(settings.host, settings.port)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    where = "this machine's own cores" if settings.ray_address is None else f"Ray at {settings.ray_address}"
    text = f"largebatch serves http://{host}:{listener.getsockname()[1]} and runs jobs on {where}. Ctrl-C ends it; jobs go on."
    print(text, file=sys.stderr, flush=True)
    app = make_app(deps)
    # A look of the garbage collector through a whole program stops every request for a fifth of a second; what is there by now stays.
    gc.collect()
    gc.freeze()
    config = uvicorn.Config(
        app,
        loop="asyncio",  # another that happens to be installed accepts connections in its own way: see Server
        http=TakesCode if settings.allows_code else BoundedConnection,
        h11_max_incomplete_event_size=LARGEST_HEADERS,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=KEEP_ALIVE_S,
        server_header=False,
        ws="none",
    )
    server = Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises it again when all is done; it was answered then
    server.run(sockets=[listener])


class Application(FastAPI):
    """A FastAPI whose document describes problems, too: it would describe them as `application/json`, which no error is."""

    @cached_property
    def document(self) -> bytes:
        """The OpenAPI document as JSON, written once: anybody may ask for it, and writing it takes as long as some ten requests."""
        return json.dumps(self.openapi()).encode()

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        document = super().openapi()
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        document["components"]["schemas"] |= {**problem.pop("$defs"), "Problem": problem}
        return document


def make_app(deps: Dependencies) -> FastAPI:
    """The application; the reconciler and the watcher live as long as it does."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        deps.run_folders.start()
        deps.watcher.start()
        deps.reconciler.start()
        yield
        await deps.watcher.stop()
        await run_in_threadpool(deps.close)

    summary = "Runs, sweeps, and what they answer."
    app = Application(
        title="largebatch", version="1", summary=summary, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    app.state.dependencies, app.state.readiness = deps, operations.SharedAnswer()
    answer_errors(app, rendering.render_problem)
    api = (runs.router, sweeps.router, studies.router, runs.recipes, cluster.router, jobs.events, tokens.router, tokens.me, operations.router)
    of_jobs = (lists.router, new_job.router, one_job.router, about.router, compare.router)
    of_pages = (*of_jobs, operators.router, sign_in.router, assets.router)
    for router in (*api, code.router, added_runs.router, *of_pages):
        app.router.routes.extend(router.routes)  # each route as it stands: a router that is included is gone through twice for each request

    @app.get("/openapi.json", include_in_schema=False)
    async def document() -> Response:
        return Response(app.document, media_type="application/json")

    app.add_middleware(RequestMiddleware, is_open=not deps.settings.needs_tokens, takes_code=deps.settings.allows_code)
    return app
