"""The service's dependencies, made once and handed to every request."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from largebatch.jobs.run.storage import Storage
from largebatch.service.api.analysis_worker import AnalysisWorker
from largebatch.service.api.errors import NotFoundError
from largebatch.service.api.live import Watcher
from largebatch.service.api.rate_limit import RateLimit, StreamLimit
from largebatch.service.backends.base import Backend, no_code
from largebatch.service.backends.local import LocalBackend
from largebatch.service.bundle import FIELD, references_in, refuse_misplaced
from largebatch.service.db.bundles import Bundles, CodeBundle
from largebatch.service.db.engine import DatabaseError, open_database, reading
from largebatch.service.db.listing import Sight
from largebatch.service.db.store import Store
from largebatch.service.db.tokens import ForbiddenError, Principal, Tokens
from largebatch.service.job import Capacity, Job, Kind
from largebatch.service.present.elsewhere import Elsewhere, backend_server, tracking_server
from largebatch.service.queue.one_host import OneHost
from largebatch.service.queue.reconcile import Reconciler
from largebatch.service.queue.run_folders import RunCopies, RunFolders
from largebatch.service.settings import Settings, make_folder

T = TypeVar("T")
WAIT_S = 30.0
"""How long a request waits for the database."""
REFUSALS_PER_MINUTE = 600
"""Of one address: what people and programs with an old token need, and no search for one."""
READERS = WRITERS = 2
"""Threads that read, and that submit, for requests. More of them would only wait for the interpreter's lock, and for each other at every row."""


@dataclass
class Dependencies:
    """Everything that requests need."""

    settings: Settings
    store: Store
    tokens: Tokens
    bundles: Bundles
    backend: Backend
    run_folders: RunFolders
    reconciler: Reconciler
    watcher: Watcher
    analysis_worker: AnalysisWorker
    rate_limit: RateLimit
    refusals: RateLimit
    """Of those who show no valid token, by address."""
    tracking: Elsewhere
    backend_server: Elsewhere
    streams: StreamLimit = field(default_factory=StreamLimit)
    readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(READERS, "reader"))
    writers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(WRITERS, "writer"))

    async def read(self, look: Callable[[], T]) -> T:
        """A short look at the database, beside the event loop; all that it asks there is one transaction. Raises: DatabaseError."""

        def looked() -> T:
            with reading(self.store.engine):
                return look()

        return await run_within(WAIT_S, self.readers, looked)

    async def write(self, change: Callable[[], T]) -> T:
        """A short change of the database, which waits for the disk; no read waits behind it. Raises: DatabaseError."""
        return await run_within(WAIT_S, self.writers, change)

    def folder(self, job: Job) -> Path:
        """A job's folder, or this machine's copy of it. Raises: StorageError."""
        self.run_folders.refresh(job.id)
        return self.run_folders.root / job.id

    def sight(self, who: Principal) -> Sight | None:
        """Whose jobs an asker sees; None: everybody's."""
        return None if who.may("admin") else Sight(who.owner, who.project if self.settings.sharing else None)

    def sees(self, who: Principal, job: Job) -> bool:
        """Whether an asker sees a job."""
        sight = self.sight(who)
        return sight is None or job.owner == sight.owner or (job.project is not None and job.project == sight.project)

    def visible(self, job_id: str, kind: Kind, who: Principal) -> Job:
        """A job that this asker may see. Raises: NotFoundError, also for another's that is not shared: that it exists is theirs."""
        job = self.store.find(job_id)
        if job is None or not self.sees(who, job):
            listing = f"largebatch remote list{'' if kind is Kind.RUN else f' --{kind.plural}'}, or GET /v1/{kind.plural}, lists yours."
            raise NotFoundError("id", f"there is no {kind} {job_id[:160]!r}.", listing)
        if job.kind is not kind:
            option = "neither --sweep nor --study" if job.kind is Kind.RUN else f"--{job.kind}"
            raise NotFoundError("id", f"there is no {kind} {job.id!r}: it is a {job.kind}.", f"It is at /v1/{job.kind.plural} ({option}).")
        return job

    def own(self, job_id: str, kind: Kind, who: Principal) -> Job:
        """A job that this asker may change. Raises: NotFoundError, ForbiddenError."""
        who.require("submit")
        job = self.visible(job_id, kind, who)
        if not self.may_change(who, job):
            raise ForbiddenError("", f"this {kind} is {job.owner}'s, who alone changes it.", "Ask them, or submit your own like it.")
        return job

    def bundle(self, sha256: str, who: Principal) -> CodeBundle:
        """A bundle of own code that this asker may see: theirs, for an administrator everybody's. Raises: NotFoundError."""
        bundle = self.bundles.find(sha256, None if who.may("admin") else who.owner)
        if bundle is None:
            raise NotFoundError(FIELD, f"there is no bundle {sha256[:64]!r}.", "GET /v1/code lists yours.")
        return bundle

    def refuse_code_of(self, job: Job, who: Principal) -> None:
        """Refuse a job whose code is not its submitter's, or not where a job looks for it. Raises: NotFoundError, ForbiddenError, SpecError."""
        if job.code is None:
            return
        bundle = self.bundle(job.code, who)
        if who.owner not in bundle.owners:
            raise ForbiddenError(FIELD, f"this bundle is {bundle.owners[0]}'s.", "Send the same zip yourself: then it is yours, too.")
        refuse_misplaced(bundle.files, references_in({"spec": job.spec, "base": job.base}))

    def has_code(self, who: Principal, job: Job) -> bool:
        """Whether what own code a job came with, if any, is this asker's, too: else they cannot run it again as their own."""
        return job.code is None or self.bundles.find(job.code, who.owner) is not None

    def may_change(self, who: Principal, job: Job) -> bool:
        """Whether an asker who sees a job may change it, too."""
        return who.may("admin") or (who.may("submit") and job.owner == who.owner)

    def close(self) -> None:
        """End all that works beside the requests."""
        self.reconciler.stop()
        self.readers.shutdown()
        self.writers.shutdown()
        self.run_folders.stop()
        self.analysis_worker.close()
        self.store.engine.dispose()


def make_dependencies(settings: Settings) -> Dependencies:
    """Connect to the database, and choose the backend. Raises: InputError, DatabaseError."""
    make_folder("--runs-dir", settings.runs_dir)
    make_folder("--runs-dir", settings.state_dir, mode=0o700)
    engine = open_database(settings)
    store, tokens, bundles = Store(engine), Tokens(engine), Bundles(engine, settings.max_code_bytes_per_owner)
    code = bundles.content if settings.allows_code else no_code
    backend: Backend
    one_host = None
    if settings.ray_address is None:
        one_host = OneHost(store, settings.state_dir)
        one_host.claim(settings.takes_over)
        capacity = Capacity(settings.cpus, settings.gpus, settings.memory_gib)
        backend = LocalBackend(settings.state_dir, settings.runs_dir, settings.data_dir, capacity, code=code)
    else:
        from largebatch.service.backends.ray import RayBackend  # imports Ray, a second that local jobs need not wait

        output_dir = settings.store or settings.runs_dir.resolve()
        backend = RayBackend(settings.ray_address, output_dir, settings.data_dir, settings.ray_python, code, settings.memory_gib)
    run_folders = RunCopies(Storage(settings.store), settings.runs_dir, store.active_ids) if settings.store else RunFolders(settings.runs_dir)
    return Dependencies(
        settings, store, tokens, bundles, backend, run_folders, Reconciler(store, backend, settings, run_folders, one_host),
        Watcher(store, run_folders, tokens.still_valid), AnalysisWorker(), RateLimit(settings.rate_per_minute),
        RateLimit(min(settings.rate_per_minute, REFUSALS_PER_MINUTE)), tracking_server(settings.tracking_uri),
        backend_server(backend),
    )  # fmt: skip


async def run_within(seconds: float, pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    """What a call in a thread gives. Behind a database that hangs nobody waits for ever: a call whose turn has not come by then is never made.

    Raises: DatabaseError.
    """
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.get_running_loop().run_in_executor(pool, call)
    except TimeoutError as error:
        raise DatabaseError("database", f"has not answered for {seconds:g} s.", "Try again in a moment.") from error


async def dependencies_of(request: Request) -> Dependencies:  # async: no thread is needed for that
    """The dependencies of the service that is asked."""
    deps: Dependencies = request.app.state.dependencies
    return deps


Deps = Annotated[Dependencies, Depends(dependencies_of)]
