"""/v1/tokens: what lets people and programs ask the service; an administrator's to make and to revoke."""

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from largebatch.service.api.auth import Who
from largebatch.service.api.dependencies import Deps
from largebatch.service.api.errors import ERRORS, NotFoundError
from largebatch.service.db.tokens import Token

router = APIRouter(prefix="/v1/tokens", tags=["tokens"], responses=ERRORS)


class NewToken(BaseModel):
    """What a token is for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    owner: Annotated[str, Field(min_length=1, max_length=100)]
    scope: Literal["read", "submit", "admin"] = "submit"
    expires_in_s: Annotated[float, Field(gt=0, le=1e10)] | None = None


class CreatedToken(BaseModel):
    """A new token; this is the only time it is shown."""

    secret: str
    token: Token


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
    secret, token = deps.tokens.create(new.owner, new.scope, expires)
    return CreatedToken(secret=secret, token=token)


@router.delete("/{token_id}", status_code=204, operation_id="revoke_token")
def revoke_token(token_id: str, deps: Deps, who: Who) -> Response:
    """End a token and the sessions that it opened."""
    who.require("admin")
    if not deps.tokens.revoke(token_id):
        raise NotFoundError("token_id", f"there is no valid token {token_id[:100]!r}.")
    return Response(status_code=204)
