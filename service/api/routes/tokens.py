"""/v1/tokens: what lets people and programs ask the service; everybody's own, and all of them an administrator's. /v1/me: whose it is."""

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from largebatch.service.api.auth import Who
from largebatch.service.api.dependencies import Dependencies, Deps
from largebatch.service.api.errors import ERRORS, NotFoundError
from largebatch.service.db.tokens import MAIN, ForbiddenError, Principal, Token
from largebatch.service.job import Described

router = APIRouter(prefix="/v1/tokens", tags=["tokens"], responses=ERRORS)
me = APIRouter(prefix="/v1/me", tags=["tokens"], responses=ERRORS)


class NewToken(BaseModel):
    """What a token is for."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    owner: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """Default: the asker, as whom alone administrators may name somebody else."""
    name: Annotated[str, Field(max_length=100)] = ""
    """What it is for."""
    scope: Literal["read", "submit", "admin"] = "submit"
    project: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """Whose people its owner is one of; an administrator's to choose."""
    expires_in_s: Annotated[float, Field(gt=0, le=1e10)] | None = None
    """Default: it ends with the token that it is made with; an administrator's does not expire."""


class CreatedToken(BaseModel):
    """A new token; this is the only time it is shown."""

    secret: str
    token: Token


class Me(Described):
    """The person whom a token stands for, and what that person may."""

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
    """One's own tokens, or an administrator everybody's, without what they are."""
    return tokens_of(who, deps)


@router.post("", status_code=201, operation_id="create_token")
def create_token(new: NewToken, deps: Deps, who: Who) -> CreatedToken:
    """Make a token. The secret is in this answer and nowhere else.

    Who is no administrator makes tokens of their own, of no more scope and no longer than the one they show, which end when that one is revoked.
    """
    return make_token(new, who, deps)


@router.delete("/{token_id}", status_code=204, operation_id="revoke_token")
def revoke_token(token_id: str, deps: Deps, who: Who) -> Response:
    """End a token, those that were made with it, and their sessions: one's own, or as an administrator anybody's."""
    if not deps.tokens.revoke(token_id, who):
        raise NotFoundError("token_id", f"there is no valid token {token_id[:100]!r}.")
    return Response(status_code=204)


def tokens_of(who: Principal, deps: Dependencies) -> list[Token]:
    """The tokens that an asker may know of, newest first."""
    return deps.tokens.all(None if who.may("admin") else who.owner)


def make_token(new: NewToken, who: Principal, deps: Dependencies) -> CreatedToken:
    """A token as far as the asker may make it. Raises: InputError, ForbiddenError."""
    expires = None if new.expires_in_s is None else time.time() + new.expires_in_s
    if who.may("admin"):
        secret, token = deps.tokens.create(new.owner or who.owner, new.scope, expires, name=new.name, project=new.project or MAIN)
        return CreatedToken(secret=secret, token=token)
    for field, value, own in (("owner", new.owner, who.owner), ("project", new.project, who.project)):
        if value not in {None, own}:
            raise ForbiddenError(field, f"only administrators make tokens of another {field}.", f"Leave it out: it is {own}.")
    secret, token = deps.tokens.create_own(who, new.scope, expires, name=new.name)
    return CreatedToken(secret=secret, token=token)
