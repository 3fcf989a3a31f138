"""Live events of jobs for all listeners together: journals are read once, whoever listens, and each line is encoded once.

A listener begins at any byte of a journal (its Last-Event-ID): what is older comes from the file, what is newer from
the watcher, with no gap and nothing twice.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import structlog
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from largebatch.jobs.errors import FaultError
from largebatch.jobs.run.journal import LONGEST_LINE
from largebatch.jobs.run.json_lines import CHUNK_BYTES, parse_object, read_last_lines, read_lines
from largebatch.jobs.run.run_folder import JOURNAL
from largebatch.service.db.store import Store
from largebatch.service.job import FINAL, Job, Kind
from largebatch.service.present.views import JobView
from largebatch.service.queue.run_folders import RunFolders
from largebatch.tuning.files import SWEEP_OF_STUDY
from largebatch.tuning.sweep.ledger import LEDGER

LOOK_EVERY_S = 0.5
KEEP_ALIVE_S = 15.0
CHECK_EVERY_S = 3.0
"""How long a stream may outlive the token it was opened with."""
LISTED = 50
"""Jobs on a page of a list."""
LATELY = 200
"""Newest jobs that lists follow, beside all that are active."""
LINES = {Kind.RUN: JOURNAL, Kind.SWEEP: LEDGER, Kind.STUDY: f"{SWEEP_OF_STUDY}/{LEDGER}"}
"""The file whose lines are a job's events."""
MOST_WAITING = 2000
"""Chunks of events that a listener may be behind; then its stream ends, and it comes back with its Last-Event-ID."""


class Event(NamedTuple):
    """A server-sent event."""

    frame: bytes
    """As it is sent."""
    end: int | None = None
    """Of a line of the file: the byte after it."""


OVER, DELETED = (Event(format_sse_event(event=name, data_str="{}")) for name in ("over", "deleted"))


class Listener:
    """One open stream. Args: credential: digest of the token or session that opened it; the stream lasts while that is valid."""

    def __init__(self, credential: str) -> None:
        self.credential, self.is_over = credential, False
        self._waiting: asyncio.Queue[list[Event] | None] = asyncio.Queue(MOST_WAITING)

    def tell(self, events: list[Event] | None) -> None:
        """Send these events too; None: end after those that wait."""
        try:
            self._waiting.put_nowait(events)
        except asyncio.QueueFull:
            self.end()

    def end(self) -> None:
        """End the stream before anything that waits."""
        self.is_over = True
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self._waiting.put_nowait(None)

    async def frames(self, after: int = 0) -> AsyncIterator[bytes]:
        """What is sent, with a sign of life where there is nothing to send. Args: after: lines up to this byte are left out."""
        while True:
            try:
                events = await asyncio.wait_for(self._waiting.get(), KEEP_ALIVE_S)
            except TimeoutError:
                yield KEEPALIVE_COMMENT
                continue
            if events is None:
                return
            if frames := b"".join(event.frame for event in events if event.end is None or event.end > after):
                yield frames


@dataclass
class Tail:
    """The end of one job's file of lines, and who listens to it."""

    path: Path
    job: Job | None
    """As it is read in brief."""
    offset: int
    """Byte up to which the lines were told to the listeners."""
    listeners: set[Listener] = field(default_factory=set)


class Watcher:
    """Reads journals and job rows for all listeners together; lives in the event loop.

    Args: still_valid: those of these credentials that would be let in now.
    """

    def __init__(
        self,
        store: Store,
        run_folders: RunFolders,
        still_valid: Callable[[set[str]], set[str]] = set,
        *,
        look_every_s: float = LOOK_EVERY_S,
        check_every_s: float = CHECK_EVERY_S,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._store, self._run_folders, self._still_valid = store, run_folders, still_valid
        self._look_every_s, self._check_every_s, self._chunk_bytes = look_every_s, check_every_s, chunk_bytes
        self._tails: dict[str, Tail] = {}
        self._of_lists: dict[Listener, tuple[Collection[Kind], Callable[[Job], bool]]] = {}
        self._checked_at_s = 0.0
        self._refreshing: dict[str, asyncio.Task[None]] = {}
        self._known: dict[str, Job] | None = None
        self._task: asyncio.Task[None] | None = None
        self.lag_s = 0.0
        """How long the last look took beyond its time."""
        self.problem: str | None = None
        """Why the last look broke off."""

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End, and let every listener go."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        _tell(self._listeners(), None)

    def _listeners(self) -> list[Listener]:
        return [*self._of_lists, *(listener for tail in self._tails.values() for listener in tail.listeners)]

    @property
    def num_listeners(self) -> int:
        """How many listen now."""
        return len(self._listeners())

    async def listen_to_all(self, kinds: Collection[Kind], sees: Callable[[Job], bool], credential: str = "") -> AsyncIterator[bytes]:
        """Frames for each job that is new or changed from now on. Args: sees: whether the listener may; credential: see `Listener`."""
        listener = Listener(credential)
        self._of_lists[listener] = (kinds, sees)
        try:
            if self._known is None:  # a look that has nothing to compare with tells nobody: what it would have found must be below
                known = await asyncio.to_thread(self._store.lately, LATELY)
                self._known = known if self._known is None else self._known
            # What changed between the page's making and now, or while the stream was broken.
            for job in (await asyncio.to_thread(self._store.lately, LISTED)).values():
                if job.kind in kinds and sees(job):
                    yield _job_event(job).frame
            async for frames in listener.frames():
                yield frames
        finally:
            del self._of_lists[listener]

    async def listen(self, job: Job, after: int, credential: str = "") -> AsyncIterator[bytes]:
        """Frames of server-sent events: the file's lines after a byte, changes of the job, and the end.

        Args: after: 0, or an id that an earlier listening was given, or a byte that the journal was read up to; credential: see `Listener`.
        """
        listener, path = Listener(credential), self._run_folders.root / job.id / LINES[job.kind]
        if job.id not in self._tails:
            # A tail finds its offset at once, not in a thread: nobody may find one that has none yet.
            self._tails[job.id] = Tail(path, job.model_copy(update={"spec": {}, "base": None, "summary": None}), _whole_size(path))
        tail = self._tails[job.id]
        tail.listeners.add(listener)
        begins = tail.offset  # the listener is told of everything beyond
        try:
            if tail.job is not None:
                yield _job_event(tail.job).frame
            read_up_to = after
            while read_up_to < begins and not listener.is_over:
                events, end = await asyncio.to_thread(read_events, tail.path, read_up_to, begins, self._chunk_bytes)
                if end == read_up_to:
                    break
                read_up_to = end
                yield b"".join(event.frame for event in events)
            async for frames in listener.frames(after):  # who reads first may have read further than the watcher
                yield frames
        finally:
            tail.listeners.discard(listener)
            if not tail.listeners and self._tails.get(job.id) is tail:
                del self._tails[job.id]

    async def _run(self) -> None:
        while True:
            began_s = time.monotonic()
            try:
                await self._check()
                await self._look()
                self.problem = None
            except FaultError as error:  # the database is away: the next look may find it
                self.problem = str(error)
            except Exception as error:
                self.problem = f"{type(error).__name__}: {error}"
                structlog.get_logger("watch").exception("a look broke off")
            took_s = time.monotonic() - began_s
            self.lag_s = max(0.0, took_s - self._look_every_s)
            await asyncio.sleep(max(0.0, self._look_every_s - took_s))

    async def _check(self) -> None:
        """Let those go whose credential has ended: one question for all of them, every few seconds."""
        if time.monotonic() - self._checked_at_s < self._check_every_s:
            return
        self._checked_at_s = time.monotonic()
        credentials = {listener.credential for listener in self._listeners() if not listener.is_over} - {""}
        ended = credentials - await asyncio.to_thread(self._still_valid, credentials) if credentials else set()
        for listener in self._listeners():
            if listener.credential in ended:
                listener.end()

    async def _look(self) -> None:
        if self._of_lists:
            await self._look_at_lists()
        else:
            self._known = None
        tails = dict(self._tails)
        self._refreshing = {job_id: task for job_id, task in self._refreshing.items() if job_id in tails}
        jobs = await asyncio.to_thread(self._store.find_all, list(tails)) if tails else {}
        for job_id, tail in tails.items():
            job = jobs.get(job_id)
            is_over = job is None or job.state in FINAL
            if job is not None and is_over and not self._is_fresh(job_id):
                continue
            # The row was read before the journal: a job that is over has no more lines than these.
            while True:
                events, end = await asyncio.to_thread(read_events, tail.path, tail.offset, None, self._chunk_bytes)
                if end == tail.offset:
                    break
                tail.offset = end
                _tell(tail.listeners, events)  # in the same breath: who attaches now begins behind it
            if job is None or job != tail.job:
                tail.job = job
                _tell(tail.listeners, [_job_event(job) if job else DELETED])
            if is_over:
                _tell(tail.listeners, [OVER])
                _tell(tail.listeners, None)

    def _is_fresh(self, job_id: str) -> bool:
        """Whether all of a run that is over is here; a storage that is slow or away keeps nobody else's records back."""
        if not self._run_folders.are_copies:
            return True
        if job_id not in self._refreshing:
            self._refreshing[job_id] = asyncio.create_task(asyncio.to_thread(self._run_folders.refresh, job_id, 0.0))
        elif self._refreshing[job_id].done():
            with contextlib.suppress(FaultError):
                self._refreshing.pop(job_id).result()
                return True
        return False

    async def _look_at_lists(self) -> None:
        """The newest jobs and those under way, once for all who look at lists."""
        now = await asyncio.to_thread(self._store.lately, LATELY)
        before = self._known  # a listener may have come meanwhile
        if before is not None:
            gone = [job_id for job_id in before if job_id not in now and before[job_id].state not in FINAL]
            now |= await asyncio.to_thread(self._store.find_all, gone) if gone else {}
            for job in now.values():
                if job != before.get(job.id):
                    its_listeners = [each for each, (kinds, sees) in self._of_lists.items() if job.kind in kinds and sees(job)]
                    _tell(its_listeners, [_job_event(job)])
        self._known = now


def _tell(listeners: Iterable[Listener], events: list[Event] | None) -> None:
    for listener in list(listeners):
        listener.tell(events)


def _job_event(job: Job) -> Event:
    return Event(format_sse_event(event="job", data_str=JobView.model_validate(job).model_dump_json()))


def read_events(path: Path, start: int, end: int | None = None, chunk_bytes: int = CHUNK_BYTES) -> tuple[list[Event], int]:
    """One event for each whole line of a chunk from a byte on, and the byte after the last line."""
    try:
        lines = read_lines(path, start, end, chunk_bytes)
    except OSError:  # one folder that cannot be read keeps no other's lines back
        lines = []
    events = [Event(format_sse_event(event=name, data_str=line.decode(), id=str(end)), end) for line, end in lines if (name := _name_of(line))]
    return events, lines[-1].end if lines else start


def _name_of(line: bytes) -> str | None:
    """A line's event: a journal's line names it itself; a ledger's is a run that was decided on, or how one ended."""
    document = (parse_object(line) if len(line) <= LONGEST_LINE else None) or {}  # a kill cut it short, or it is none of ours
    kind = document.get("kind", "ending" if "how" in document else "trial" if "phase" in document else None)
    return kind if isinstance(kind, str) and kind.isalpha() else None


def _whole_size(path: Path) -> int:
    """The byte after the last whole line."""
    try:
        lines = read_last_lines(path)
    except OSError:
        return 0
    return lines[-1].end if lines else 0
