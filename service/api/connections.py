"""The service's socket and its connections: a request must come within a time, and there are never more of them than files may be open."""

import asyncio
import heapq
import resource
import socket
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from largebatch.jobs.errors import InputError
from largebatch.service.added_run import is_added_run
from largebatch.service.bundle import is_upload

ACCEPTED_AT_ONCE = 16
"""Connections that are accepted at one look; some looks pass before those that make room for them are closed."""
QUEUE = 1024
"""Connections that the system keeps until they are accepted (net.core.somaxconn may be less): one that finds no place asks again after a second."""
OTHER_FILES = 128
"""Files that are not connections, and connections that are being accepted or closed."""
MOST_CONNECTIONS = 4096
MAKES_ROOM_FOR = 16
"""Connections that are given up together: looking for them goes through all there are."""
HEADERS_S = 10.0
"""How long a request's line and headers may take."""
BODY_S = 30.0
"""How long a request's body may take, at most 1 MiB."""
UPLOAD_S = 600.0
"""How long a bundle of code may take, at most 21 MiB, or a run that is added, at most 66, each read only once it is known who sends it."""
READ_S = 30.0
"""How long a reader may leave an answer lying before any more of it is taken."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises: InputError.

    Its protocol is named: asyncio sends small answers at once (TCP_NODELAY) on connections of such a socket alone, and an answer on a connection
    that is kept otherwise waits 40 ms for the other side's acknowledgement.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(QUEUE)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise InputError("--port", f"{host}:{port} cannot be listened on ({error.strerror or error}).", "Give another --port.") from error
    return listener


def open_as_many_files_as_allowed() -> None:
    """Raise this process's soft limit of open files to the hard one: each connection is a file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_connections() -> int:
    """Connections at a time: half of the files that may be open beside those that there are anyway; what a request opens is a file too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, max(soft - OTHER_FILES, 2) // 2)


class Server(uvicorn.Server):
    """uvicorn's, with few connections accepted at one look and many kept by the system until then: asyncio takes one number for both."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        self.config.backlog = ACCEPTED_AT_ONCE
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(QUEUE)


class BoundedConnection(H11Protocol):
    """One connection of the service: it is closed where its request does not come in time, and makes room for others before that."""

    headers_s: ClassVar[float] = HEADERS_S
    body_s: ClassVar[float] = BODY_S
    upload_s: ClassVar[float | None] = None
    read_s: ClassVar[float] = READ_S

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._awaits: str | None = None
        self._is_upload, self._waits_since_s = False, 0.0
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Begin to wait for a request; where there are too many connections, those that have waited longest go."""
        super().connection_made(transport)
        if len(self.connections) > (most := most_connections()):
            self._make_room(most)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read on, and wait for what is still missing."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._set_deadline(None)
        self._forget_unread()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the reader, for so long."""
        super().pause_writing()
        self._forget_unread()
        self._waits_since_s, self._unread = self.loop.time(), self.loop.call_later(self.read_s, self.give_up)

    def resume_writing(self) -> None:
        """The reader reads on."""
        super().resume_writing()
        self._forget_unread()

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for the other side: the request has not come, or not wholly, the connection is idle, or the answer is not read."""
        return self._unread is not None or self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def waits_since_s(self) -> float:
        """Since when it waits, in the loop's seconds; 0 for one that is idle between requests: it loses nothing.

        Not when it will be given up: bodies may take longer than headers, so half-sent bodies would outlast whoever has just come.
        """
        return 0.0 if self._unread is None and self._deadline is None else self._waits_since_s

    def give_up(self) -> None:
        """Close it, at once; it no longer counts."""
        self.connections.discard(self)
        self.transport.abort()

    def _make_room(self, most: int) -> None:
        """Give up those that have waited longest, or this one where all others are being answered."""
        others = [other for other in self.connections if isinstance(other, BoundedConnection) and other is not self]
        waiting = (other for other in others if other.is_waiting)
        for connection in heapq.nsmallest(min(MAKES_ROOM_FOR, most), waiting, key=BoundedConnection.waits_since_s) or [self]:
            connection.give_up()

    def _watch(self) -> None:
        is_between = self.cycle is None or self.cycle.response_complete
        if (is_between or self.cycle.more_body) and not self.transport.is_closing():
            self._set_deadline("headers" if is_between else "body")
        else:
            self._set_deadline(None)

    def _set_deadline(self, awaits: str | None) -> None:
        """More of the same gives no more time, but an upload, whose sender is known, waits since its last part.

        Args: awaits: "headers", "body" or nothing.
        """
        if awaits == self._awaits:
            if self._is_upload:
                self._waits_since_s = self.loop.time()
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._awaits, self._deadline, self._is_upload = awaits, None, False
        if awaits is not None:
            within_s = self.headers_s if awaits == "headers" else self._body_within_s()
            self._is_upload = awaits == "body" and within_s > self.body_s
            self._waits_since_s, self._deadline = self.loop.time(), self.loop.call_later(within_s, self.give_up)

    def _body_within_s(self) -> float:
        content_type = next((value for name, value in self.scope["headers"] if name == b"content-type"), b"").decode("latin-1")
        asked = (self.scope["method"], self.scope["path"], content_type)
        if is_added_run(*asked):
            return UPLOAD_S
        return self.upload_s if self.upload_s is not None and is_upload(*asked) else self.body_s


class TakesCode(BoundedConnection):
    """One connection of a service that takes bundles of code: nobody unknown holds it longer than elsewhere, for they are refused before the body."""

    upload_s: ClassVar[float | None] = UPLOAD_S
