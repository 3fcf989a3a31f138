"""The service's deps, made once and handed to every request."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from largebatch.service.api.analysis_worker import AnalysisWorker
from largebatch.service.api.auth import ANYONE_HERE, ForbiddenError, Principal, Tokens, UnauthorizedError
from largebatch.service.api.errors import NotFoundError, TooManyRequestsError
from largebatch.service.api.live import Watcher
from largebatch.service.backends.base import Backend
from largebatch.service.db.engine import DatabaseError
from largebatch.service.db.store import Store
from largebatch.service.job import Job, Kind
from largebatch.service.present.tracking import Tracking
from largebatch.service.queue.reconcile import Reconciler
from largebatch.service.queue.run_copies import RunCopies
from largebatch.service.settings import Settings

T = TypeVar("T")
COOKIE = "largebatch_session"
MOST_ASKERS = 10_000
WAIT_S = 30.0
"""How long a request waits for the database."""
READERS = WRITERS = 2
"""Threads that read, and that submit, for requests. More of them would only wait for the interpreter's lock, and for each other at every row."""


async def _within(seconds: float, pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    """Behind a database that hangs nobody waits for ever: whose turn has not come by then is told so, and is done nothing for."""
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(pool, call), seconds)
    except TimeoutError as error:
        raise DatabaseError("database", f"has not answered for {seconds:g} s.", "Try again in a moment.") from error


class RateLimit:
    """So many requests a minute for each asker, in bursts of a tenth of that."""

    def __init__(self, per_minute: int) -> None:
        self._per_s, self._burst = per_minute / 60.0, max(per_minute / 10.0, 1.0)
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, asker: str) -> None:
        """Count one request. Raises: TooManyRequestsError."""
        now = time.monotonic()
        with self._lock:
            if len(self._left) > MOST_ASKERS:
                self._left.clear()
            left, at_s = self._left.get(asker, (self._burst, now))
            left = min(self._burst, left + (now - at_s) * self._per_s)
            self._left[asker] = (max(left - 1.0, 0.0), now)
        if left < 1.0:
            raise TooManyRequestsError("", "too many requests.", "Wait a little.")


@dataclass
class Dependencies:
    """Everything that requests need."""

    settings: Settings
    store: Store
    tokens: Tokens
    backend: Backend
    reconciler: Reconciler
    watcher: Watcher
    analysis_worker: AnalysisWorker
    rate_limit: RateLimit
    tracking: Tracking
    copies: RunCopies | None = None
    """Where runs are kept by URI."""
    began_s: float = field(default_factory=time.monotonic)
    readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(READERS, "reader"))
    writers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(WRITERS, "writer"))

    async def read(self, look: Callable[[], T]) -> T:
        """A short look at the database, beside the event loop. Raises: DatabaseError."""
        return await _within(WAIT_S, self.readers, look)

    async def write(self, change: Callable[[], T]) -> T:
        """A short change of the database, which waits for the disk; no read waits behind it. Raises: DatabaseError."""
        return await _within(WAIT_S, self.writers, change)

    def folder(self, job: Job) -> Path:
        """A job's folder, or this machine's copy of it. Raises: StorageError."""
        if self.copies is not None:
            self.copies.refresh(job.id)
        return self.settings.runs_dir / job.id

    def visible(self, job_id: str, kind: Kind, who: Principal) -> Job:
        """A job that this asker may see. Raises: NotFoundError, also for another owner's: that it exists is theirs."""
        job = self.store.find(job_id)
        if job is None or not (who.may("admin") or job.owner == who.owner):
            raise NotFoundError("id", f"there is no {kind} {job_id[:160]!r}.", f"GET /v1/{kind}s lists yours.")
        if job.kind is not kind:
            option = "with" if job.kind is Kind.SWEEP else "without"
            raise NotFoundError("id", f"there is no {kind} {job.id!r}: it is a {job.kind}.", f"It is at /v1/{job.kind}s ({option} --sweep).")
        return job


async def _dependencies_of(request: Request) -> Dependencies:  # async: no thread is needed for that
    return dependencies_of(request)


def dependencies_of(request: Request) -> Dependencies:
    """The deps of the service that is asked."""
    found: Dependencies = request.app.state.deps
    return found


Deps = Annotated[Dependencies, Depends(_dependencies_of)]
_bearer = HTTPBearer(auto_error=False, description="A token that `largebatch token create` printed.")


async def shown_by(
    request: Request, deps: Deps, bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Callable[[], Principal]:
    """What says, by a look at the database, who asks; the look raises UnauthorizedError. Raises: UnauthorizedError, TooManyRequestsError."""
    address = request.client.host if request.client else ""
    cookie = request.cookies.get(COOKIE)
    if bearer is not None:
        deps.rate_limit.take(f"token {hash(bearer.credentials)}")
        look: Callable[[], Principal] = partial(deps.tokens.principal, bearer.credentials)
    elif cookie is not None and deps.settings.needs_tokens:
        refuse_foreign(request)
        deps.rate_limit.take(f"session {hash(cookie)}")
        look = partial(deps.tokens.of_session, cookie)
    elif deps.settings.needs_tokens:
        deps.rate_limit.take(f"address {address}")
        raise UnauthorizedError("Authorization", "a token is needed.", "Send: Authorization: Bearer TOKEN. Make one: largebatch token create OWNER")
    else:
        refuse_foreign(request)
        deps.rate_limit.take(f"address {address}")
        look = _anyone

    def known() -> Principal:
        who = look()
        request.state.owner = who.owner
        return who

    request.state.shown = known
    return known


def _anyone() -> Principal:
    return ANYONE_HERE


Shown = Annotated[Callable[[], Principal], Depends(shown_by)]


async def principal_of(deps: Deps, shown: Shown) -> Principal:
    """Who asks. Raises: UnauthorizedError, TooManyRequestsError."""
    return await deps.read(shown)


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
