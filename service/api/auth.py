"""Who asks, found out for every request: by a token, by a browser's session, or nobody in particular on this machine."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from largebatch.service.api.dependencies import Dependencies, Deps
from largebatch.service.db.tokens import ANYONE_HERE, MAKE_ONE, ForbiddenError, Principal, UnauthorizedError

COOKIE = "largebatch_session"
_bearer = HTTPBearer(auto_error=False, description="A token that `largebatch token create` printed.")
Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


class Asker:
    """Who asks, as yet unknown: a read finds it out where it reads the rest, for one more change of threads costs more than the look."""

    def __init__(self, request: Request, deps: Dependencies, bearer: HTTPAuthorizationCredentials | None) -> None:
        self._request, self._deps = request, deps
        self._token = None if bearer is None else bearer.credentials
        self._cookie = request.cookies.get(COOKIE) if deps.settings.needs_tokens else None

    async def found(self) -> Principal:
        """Who asks; a look at the database is made beside the event loop. Raises: as `principal`."""
        is_looked_up = self._token is not None or self._cookie is not None
        return await self._deps.read(self.principal) if is_looked_up else self.principal()

    def principal(self) -> Principal:
        """Who asks; the request is counted. Raises: UnauthorizedError, ForbiddenError, TooManyRequestsError."""
        deps = self._deps
        if self._token is not None:
            who = self._known(deps.tokens.principal, self._token)
            deps.rate_limit.take(f"token {hash(self._token)}")
        elif self._cookie is not None:
            refuse_foreign(self._request)
            who = self._known(deps.tokens.of_session, self._cookie)
            deps.rate_limit.take(f"session {hash(self._cookie)}")
        elif deps.settings.needs_tokens:
            deps.refusals.take(address_of(self._request))
            raise UnauthorizedError("Authorization", "a token is needed.", f"Send: Authorization: Bearer TOKEN. {MAKE_ONE}")
        else:
            refuse_foreign(self._request)
            deps.rate_limit.take(address_of(self._request))
            who = ANYONE_HERE
        self._request.state.owner, self._request.state.who = who.owner, who
        return who

    def _known(self, find: Callable[[str], Principal], secret: str) -> Principal:
        """Whom a token or session is of; who shows none that is valid is limited by address, whatever is shown each time."""
        try:
            return find(secret)
        except UnauthorizedError:
            self._deps.refusals.take(address_of(self._request))
            raise


async def asker_of(request: Request, deps: Deps, bearer: Bearer) -> Asker:
    """Who asks, to be found out by the route itself, or where what is asked turns out to be no request."""
    asker = Asker(request, deps, bearer)
    request.state.asker = asker
    return asker


async def principal_of(request: Request, deps: Deps, bearer: Bearer) -> Principal:
    """Who asks. Raises: UnauthorizedError, ForbiddenError, TooManyRequestsError."""
    return await Asker(request, deps, bearer).found()


async def known(request: Request) -> Principal:
    """Who asks, before any route is. Raises: as `principal_of`."""
    return await principal_of(request, request.app.state.dependencies, await _bearer(request))


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
Asking = Annotated[Asker, Depends(asker_of)]
