"""/v1/tokens: what lets people and programs ask the service; an administrator's to make and to revoke. /v1/me: whose it is."""

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from largebatch.service.api.auth import Who
from largebatch.service.api.dependencies import Deps
from largebatch.service.api.errors import ERRORS, NotFoundError
from largebatch.service.db.tokens import MAIN, Token

router = APIRouter(prefix="/v1/tokens", tags=["tokens"], responses=ERRORS)
me = APIRouter(prefix="/v1/me", tags=["tokens"], responses=ERRORS)


class NewToken(BaseModel):
    """What a token is for."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    owner: Annotated[str, Field(min_length=1, max_length=100)]
    name: Annotated[str, Field(max_length=100)] = ""
    """What it is for."""
    scope: Literal["read", "submit", "admin"] = "submit"
    project: Annotated[str, Field(min_length=1, max_length=100)] = MAIN
    """Whose people its owner is one of."""
    expires_in_s: Annotated[float, Field(gt=0, le=1e10)] | None = None


class CreatedToken(BaseModel):
    """A new token; this is the only time it is shown."""

    secret: str
    token: Token


class Me(BaseModel):
    """Who asks."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    owner: str
    scope: str
    project: str | None
    is_sharing: bool
    """Whether this service lets the people of a project see each other's runs."""


@me.get("", operation_id="show_me")
async def show_me(deps: Deps, who: Who) -> Me:
    """Whose token it is, and what it may."""
    return Me(owner=who.owner, scope=who.scope, project=who.project, is_sharing=deps.settings.sharing)


@router.get("", operation_id="list_tokens")
def list_tokens(deps: Deps, who: Who) -> list[Token]:
    """All tokens, without what they are."""
    who.require("admin")
    return deps.tokens.all()


@router.post("", status_code=201, operation_id="create_token")
def create_token(new: NewToken, deps: Deps, who: Who) -> CreatedToken:
    """Make a token. The secret is in this answer and nowhere else."""
    who.require("admin")
    expires = None if new.expires_in_s is None else time.time() + new.expires_in_s
    secret, token = deps.tokens.create(new.owner, new.scope, expires, name=new.name, project=new.project)
    return CreatedToken(secret=secret, token=token)


@router.delete("/{token_id}", status_code=204, operation_id="revoke_token")
def revoke_token(token_id: str, deps: Deps, who: Who) -> Response:
    """End a token and the sessions that it opened."""
    who.require("admin")
    if not deps.tokens.revoke(token_id):
        raise NotFoundError("token_id", f"there is no valid token {token_id[:100]!r}.")
    return Response(status_code=204)
