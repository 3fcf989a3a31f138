"""/v1/recipes, /v1/cluster, /v1/tokens."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from largebatch.jobs.spec.read import build_spec, recipe_paths
from largebatch.service.api.auth import Who
from largebatch.service.api.dependencies import Deps
from largebatch.service.api.errors import NotFoundError
from largebatch.service.api.requests import recipe_document
from largebatch.service.api.routes.jobs import ERRORS, EVENT_STREAM, event_stream
from largebatch.service.db.tokens import Token
from largebatch.service.job import Kind, State

recipes = APIRouter(prefix="/v1/recipes", tags=["recipes"], responses=ERRORS)
cluster = APIRouter(prefix="/v1/cluster", tags=["cluster"], responses=ERRORS)
events = APIRouter(prefix="/v1/events", tags=["events"], responses=ERRORS)
tokens = APIRouter(prefix="/v1/tokens", tags=["tokens"], responses=ERRORS)


class Recipe(BaseModel):
    """A complete spec that comes along."""

    name: str
    description: str
    dataset: str | None
    optimizer: str
    global_batch_size: int | str


class Cluster(BaseModel):
    """What there is, and who waits for it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    backend: str
    cpus: float
    gpus: int
    cpus_held: float
    """By jobs that start or run."""
    gpus_held: int
    jobs: dict[str, int]
    """How many jobs stand in each state."""
    problem: str | None
    """Why the backend or database was not reached at the last try; for administrators."""


class NewToken(BaseModel):
    """What a token is for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    owner: Annotated[str, Field(min_length=1, max_length=100)]
    scope: Annotated[str, Field(max_length=20)] = "submit"
    expires_in_s: Annotated[float, Field(gt=0, le=1e10)] | None = None


class CreatedToken(BaseModel):
    """A new token; this is the only time it is shown."""

    secret: str
    token: Token


@recipes.get("", operation_id="list_recipes")
def list_recipes(who: Who) -> list[Recipe]:
    """The recipes that come along."""
    specs = {name: build_spec(recipe_document(name)) for name in recipe_paths()}
    return [
        Recipe(name=name, description=spec.description, dataset=spec.dataset.name, optimizer=spec.optimizer.name,
               global_batch_size=spec.batch.global_batch_size)
        for name, spec in specs.items()
    ]  # fmt: skip


@recipes.get("/{name}", operation_id="show_recipe")
def show_recipe(name: str, who: Who) -> dict[str, Any]:
    """A recipe's whole spec, defaults included."""
    if name not in recipe_paths():
        raise NotFoundError("name", f"there is no recipe {name[:100]!r}.", "GET /v1/recipes lists them.")
    return build_spec(recipe_document(name)).model_dump(mode="json")


@cluster.get("", operation_id="show_cluster")
def show_cluster(deps: Deps, who: Who) -> Cluster:
    """What the backend has, and how many jobs stand where."""
    capacity = deps.backend.capacity()
    holding = deps.store.in_states([State.STARTING, State.RUNNING])
    problem = deps.reconciler.problem if who.may("admin") else None
    return Cluster(
        backend=deps.backend.name, cpus=capacity.cpus, gpus=capacity.gpus, cpus_held=sum(job.cpus for job in holding),
        gpus_held=sum(job.gpus for job in holding), jobs=deps.store.counts(), problem=problem,
    )  # fmt: skip


@events.get("", operation_id="events", response_class=StreamingResponse, responses=EVENT_STREAM)
async def all_events(deps: Deps, who: Who, kind: Kind = Kind.RUN) -> StreamingResponse:
    """Server-sent events: a job's view whenever it is new or changed; one's own, for administrators everybody's."""
    return event_stream(deps.watcher.listen_to_all(kind, None if who.may("admin") else who.owner, who.credential))


@tokens.get("", operation_id="list_tokens")
def list_tokens(deps: Deps, who: Who) -> list[Token]:
    """All tokens, without what they are."""
    who.require("admin")
    return deps.tokens.all()


@tokens.post("", status_code=201, operation_id="create_token")
def create_token(new: NewToken, deps: Deps, who: Who) -> CreatedToken:
    """Make a token. The secret is in this answer and nowhere else."""
    who.require("admin")
    expires = None if new.expires_in_s is None else time.time() + new.expires_in_s
    secret, token = deps.tokens.create(new.owner, new.scope, expires)
    return CreatedToken(secret=secret, token=token)


@tokens.delete("/{token_id}", status_code=204, operation_id="revoke_token")
def revoke_token(token_id: str, deps: Deps, who: Who) -> Response:
    """End a token and the sessions that it opened."""
    who.require("admin")
    if not deps.tokens.revoke(token_id):
        raise NotFoundError("token_id", f"there is no valid token {token_id[:100]!r}.")
    return Response(status_code=204)
