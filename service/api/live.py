"""One watcher, many listeners: journals are read once, whoever listens, and each line is encoded once.

A listener begins at any byte of a journal (its Last-Event-ID): what is older comes from the file, what is newer from
the watcher, with no gap and nothing twice.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import structlog

from largebatch.jobs.errors import FaultError
from largebatch.jobs.run.json_lines import CHUNK_BYTES, parse_object, read_last_lines, read_lines
from largebatch.jobs.run.run_folder import JOURNAL
from largebatch.service.db.store import Store
from largebatch.service.job import Job, Kind
from largebatch.service.present.views import JobView
from largebatch.service.queue.run_copies import Refresh
from largebatch.service.states import FINAL
from largebatch.tuning.sweep.ledger import LEDGER

LOOK_EVERY_S = 0.5
KEEP_ALIVE_S = 15.0
CHECK_EVERY_S = 3.0
"""How long a stream may outlive the token it was opened with."""
LISTED = 50
"""Jobs on a page of a list."""
LATELY = 200
"""Newest jobs that lists follow, beside all that are active."""
LINES = {Kind.RUN: JOURNAL, Kind.SWEEP: LEDGER}
"""The file whose lines are told of a job."""
MOST_WAITING = 2000
"""Chunks that a listener may be behind; then it is let go, and comes back with its Last-Event-ID."""


class Tail:
    """One journal's end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        """Bytes that were told to the listeners, up to the end of a line."""
        self.listeners: set[asyncio.Queue[bytes | None]] = set()
        self.job: Job | None = None


class Watcher:
    """Reads journals and job rows for all listeners together; lives in the event loop."""

    def __init__(
        self,
        store: Store,
        runs_dir: Path,
        still_valid: Callable[[set[str]], set[str]] = set,
        refresh: Refresh | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._chunk_bytes = chunk_bytes
        self._store, self._runs_dir, self._still_valid, self._refresh = store, runs_dir, still_valid, refresh
        self._tails: dict[str, Tail] = {}
        self._everyone: dict[asyncio.Queue[bytes | None], tuple[Kind, str | None]] = {}
        self._shown: dict[asyncio.Queue[bytes | None], str] = {}
        """What each listener showed to be let in; one that is no longer here is let go."""
        self._checked_at_s = 0.0
        self._refreshing: dict[str, asyncio.Task[bool]] = {}
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
        for tail in self._tails.values():
            _tell(tail.listeners, None)
        _tell(self._everyone, None)

    @property
    def num_listeners(self) -> int:
        """How many listen now."""
        return len(self._everyone) + sum(len(tail.listeners) for tail in self._tails.values())

    async def listen_to_all(self, kind: Kind, owner: str | None, shown: str = "") -> AsyncIterator[bytes]:
        """Frames for each job that is new or changed from now on.

        Args: owner: None for everybody's; shown: the token or session, while which is valid it goes on.
        """
        queue = self._new_queue(shown)
        self._everyone[queue] = (kind, owner)
        try:
            # What changed between the page's making and now, or while the stream was broken.
            for told in (await asyncio.to_thread(self._store.lately, LISTED)).values():
                if told.kind is kind and owner in {None, told.owner}:
                    yield _job_frame(told)
            async for frame in _taken(queue):
                yield frame
        finally:
            del self._everyone[queue]
            self._shown.pop(queue, None)

    async def listen(self, job: Job, after: int, shown: str = "") -> AsyncIterator[bytes]:
        """Frames of server-sent events: the journal's lines after a byte, changes of the job, and the end.

        Args: after: 0, or an id that an earlier listening was given, or a byte that the journal was read up to; shown: as for `listen_to_all`.
        """
        tail = self._tails.setdefault(job.id, Tail(self._runs_dir / job.id / LINES[job.kind]))
        if tail.job is None:
            tail.job = job.model_copy(update={"spec": {}, "base": None, "summary": None})  # as it is read in brief
            tail.offset = _whole_size(tail.path)  # at once, not in a thread: nobody may find a tail that has no offset yet
        queue = self._new_queue(shown)
        tail.listeners.add(queue)
        begins = tail.offset  # the queue has everything beyond
        try:
            yield _job_frame(tail.job)
            while after < begins and queue in self._shown:
                frames, after = await asyncio.to_thread(read_frames, tail.path, after, begins, self._chunk_bytes)
                if not frames:
                    break
                yield frames
            async for frame in _taken(queue):
                told = frame if after <= begins else _newer(frame, after)  # others may have read further than the watcher
                if told:
                    yield told
        finally:
            tail.listeners.discard(queue)
            self._shown.pop(queue, None)
            if not tail.listeners and self._tails.get(job.id) is tail:
                del self._tails[job.id]

    def _new_queue(self, shown: str) -> asyncio.Queue[bytes | None]:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(MOST_WAITING)
        self._shown[queue] = shown
        return queue

    async def _check(self) -> None:
        """Let those go whose token has ended: one question for all of them, every few seconds."""
        if time.monotonic() - self._checked_at_s < CHECK_EVERY_S:
            return
        self._checked_at_s = time.monotonic()
        asked = set(self._shown.values()) - {""}
        ended = asked - await asyncio.to_thread(self._still_valid, asked) if asked else set()
        for queue in [queue for queue, shown in self._shown.items() if shown in ended]:
            del self._shown[queue]
            _let_go(queue)

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
            self.lag_s = max(0.0, took_s - LOOK_EVERY_S)
            await asyncio.sleep(max(0.0, LOOK_EVERY_S - took_s))

    async def _look(self) -> None:
        if self._everyone:
            await self._look_at_all()
        else:
            self._known = None
        tails = dict(self._tails)
        self._refreshing = {job_id: task for job_id, task in self._refreshing.items() if job_id in tails}
        if not tails:
            return
        found = await asyncio.to_thread(self._store.find_all, list(tails))
        for job_id, tail in tails.items():
            job = found.get(job_id)
            if job is not None and job.state in FINAL and not self._is_fresh(job_id):
                continue
            # The row was read before the journal: a job that is over has no more lines than these.
            while True:
                frames, offset = await asyncio.to_thread(read_frames, tail.path, tail.offset, None, self._chunk_bytes)
                is_more, tail.offset = offset > tail.offset, offset  # and told in the same breath: who attaches now begins behind it
                if frames:
                    _tell(tail.listeners, frames)
                if not is_more:
                    break
            if job is None or job != tail.job:
                tail.job = job
                _tell(tail.listeners, _job_frame(job) if job else b"event: deleted\ndata: {}\n\n")
            if job is None or job.state in FINAL:
                _tell(tail.listeners, b"event: over\ndata: {}\n\n")
                _tell(tail.listeners, None)

    def _is_fresh(self, job_id: str) -> bool:
        """Whether all of a run that is over is here; a storage that is slow or away keeps nobody else's records back."""
        if self._refresh is None:
            return True
        task = self._refreshing.get(job_id)
        if task is None:
            self._refreshing[job_id] = asyncio.create_task(self._refresh_all(job_id, self._refresh))
        elif task.done():
            return self._refreshing.pop(job_id).result()
        return False

    async def _refresh_all(self, job_id: str, refresh: Refresh) -> bool:
        try:
            await asyncio.to_thread(refresh, job_id, 0.0)
        except FaultError:
            return False
        return True

    async def _look_at_all(self) -> None:
        """The newest jobs and those under way, once for all who look at lists."""
        before, now = self._known, await asyncio.to_thread(self._store.lately, LATELY)
        if before is not None:
            gone = [job_id for job_id in before if job_id not in now and before[job_id].state not in FINAL]
            now |= await asyncio.to_thread(self._store.find_all, gone) if gone else {}
            for job in now.values():
                if job != before.get(job.id):
                    frame = _job_frame(job)
                    _tell([queue for queue, (kind, owner) in self._everyone.items() if kind is job.kind and owner in {None, job.owner}], frame)
        self._known = now


async def _taken(queue: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
    """Frames as they come, with a sign of life where none does, until the end."""
    while True:
        try:
            frame = await asyncio.wait_for(queue.get(), KEEP_ALIVE_S)
        except TimeoutError:
            frame = b": still here\n\n"
        if frame is None:
            return
        yield frame


def _newer(frames: bytes, after: int) -> bytes:
    """The events among these that lie beyond a byte of the journal, or in none."""
    events = (event + b"\n\n" for event in frames.split(b"\n\n") if event)
    return b"".join(event for event in events if not event.startswith(b"id: ") or int(event[4 : event.index(b"\n")]) > after)


def _tell(queues: Iterable[asyncio.Queue[bytes | None]], frame: bytes | None) -> None:
    for queue in list(queues):
        try:
            queue.put_nowait(frame)
        except asyncio.QueueFull:
            _let_go(queue)


def _let_go(queue: asyncio.Queue[bytes | None]) -> None:
    """The end, before anything that waits."""
    while not queue.empty():
        queue.get_nowait()
    queue.put_nowait(None)


def _job_frame(job: Job) -> bytes:
    return b"event: job\ndata: " + JobView.of(job).model_dump_json().encode() + b"\n\n"


def read_frames(path: Path, offset: int, end: int | None, chunk_bytes: int = CHUNK_BYTES) -> tuple[bytes, int]:
    """Whole lines from a byte on, one event each, and the byte after the last; at most a chunk of them."""
    frames = []
    try:
        lines = read_lines(path, offset, end, chunk_bytes)
    except OSError:  # one folder that cannot be read keeps no other's lines back
        lines = []
    for line, offset in lines:
        kind = _kind(line)
        if kind is not None:
            frames.append(b"id: %d\nevent: %s\ndata: %s\n\n" % (offset, kind, line))
    return b"".join(frames), offset


def _kind(line: bytes) -> bytes | None:
    """What a line is called: a journal's says so itself; a ledger's is a run that was decided on, or how one ended."""
    document = parse_object(line) or {}  # a kill cut it short
    kind = document.get("kind", "ending" if "how" in document else "trial" if "phase" in document else None)
    return str(kind).encode() if kind is not None and str(kind).isalpha() else None


def _whole_size(path: Path) -> int:
    """The byte after the last whole line."""
    try:
        lines = read_last_lines(path)
    except OSError:
        return 0
    return lines[-1].end if lines else 0
