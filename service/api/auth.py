"""Who asks, found out for every request: by a token, by a browser's session, or nobody in particular on this machine."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from largebatch.service.api.dependencies import Dependencies, Deps
from largebatch.service.db.tokens import ANYONE_HERE, ForbiddenError, Principal, UnauthorizedError

COOKIE = "largebatch_session"
_bearer = HTTPBearer(auto_error=False, description="A token that `largebatch token create` printed.")


async def principal_of(request: Request, deps: Deps, bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]) -> Principal:
    """Who asks. Raises: UnauthorizedError, ForbiddenError, TooManyRequestsError."""
    cookie, needs_tokens = request.cookies.get(COOKIE), deps.settings.needs_tokens
    if bearer is not None:
        who = await _known(request, deps, partial(deps.tokens.principal, bearer.credentials))
        deps.rate_limit.take(f"token {hash(bearer.credentials)}")
    elif cookie is not None and needs_tokens:
        refuse_foreign(request)
        who = await _known(request, deps, partial(deps.tokens.of_session, cookie))
        deps.rate_limit.take(f"session {hash(cookie)}")
    elif needs_tokens:
        deps.refusals.take(address_of(request))
        raise UnauthorizedError("Authorization", "a token is needed.", "Send: Authorization: Bearer TOKEN. Make one: largebatch token create OWNER")
    else:
        refuse_foreign(request)
        deps.rate_limit.take(address_of(request))
        who = ANYONE_HERE
    request.state.owner, request.state.who = who.owner, who
    return who


async def _known(request: Request, deps: Dependencies, find: Callable[[], Principal]) -> Principal:
    """Whom a token or session is of; who shows none that is valid is limited by address, whatever is shown each time."""
    try:
        return await deps.read(find)
    except UnauthorizedError:
        deps.refusals.take(address_of(request))
        raise


def address_of(request: Request) -> str:
    """The asker's address, as the rate limit knows it."""
    return f"address {request.client.host if request.client else ''}"


def refuse_foreign(request: Request) -> None:
    """Where a browser answers for its user: only pages of our own may change anything. Raises: ForbiddenError.

    Browsers say themselves where a request comes from, and no page can change what they say: Fetch Metadata, which decides alone where it is
    sent (a proxy may have changed the Host that Origin is held against), else Origin. Programs send neither.
    """
    if request.method in {"GET", "HEAD", "OPTIONS"}:
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        is_ours = site in {"same-origin", "none"}
    else:
        is_ours = origin is None or origin.partition("://")[2] == request.headers.get("host", "")
    if not is_ours:
        raise ForbiddenError("Origin", "this request comes from another site's page.", "Open the service's own page, and do it there.")


Who = Annotated[Principal, Depends(principal_of)]
