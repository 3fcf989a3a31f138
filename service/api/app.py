"""The application: routes, errors and middleware around the service's dependencies."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from largebatch.service.api.dependencies import Dependencies
from largebatch.service.api.errors import Problem, answer_errors
from largebatch.service.api.middleware import RequestMiddleware
from largebatch.service.api.routes import jobs, operations, pages, runs, sweeps, tokens


class Application(FastAPI):
    """A FastAPI whose document describes problems, too: it would describe them as `application/json`, which no error is."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        document = super().openapi()
        document["components"]["schemas"]["Problem"] = Problem.model_json_schema()
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

    app = Application(
        title="largebatch", version="1", summary="Runs, sweeps, and what they answer.", lifespan=lifespan, docs_url=None, redoc_url=None,
    )  # fmt: skip
    app.state.dependencies = deps
    answer_errors(app, pages.render_problem)
    for router in (runs.router, sweeps.router, runs.recipes, operations.cluster, jobs.events, tokens.router, operations.router, pages.router):
        app.include_router(router)
    pages.mount_static(app)
    app.add_middleware(RequestMiddleware, is_open=not deps.settings.needs_tokens)
    return app
