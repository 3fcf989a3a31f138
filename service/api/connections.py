"""The service's socket and its connections: a request must come within a time, and there are never more of them than files may be open."""

import asyncio
import resource
import socket
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from largebatch.jobs.errors import InputError

BACKLOG = 128
"""Connections that the system keeps until they are accepted; asyncio accepts as many of them at one look."""
MOST_CONNECTIONS = 4096
HEADERS_S = 10.0
"""How long a request's line and headers may take."""
BODY_S = 30.0
"""How long a request's body may take, at most 1 MiB."""
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
            listener.listen(BACKLOG)
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
    """Connections at a time: half of the files that may be open beside those that one look accepts; databases, logs and jobs are files too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, max(soft - BACKLOG, 2) // 2)


class BoundedConnection(H11Protocol):
    """One connection of the service: it is closed where its request does not come in time, and makes room for others before that."""

    headers_s: ClassVar[float] = HEADERS_S
    body_s: ClassVar[float] = BODY_S
    read_s: ClassVar[float] = READ_S

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._awaits: str | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Begin to wait for a request; where there are too many connections, the one that has waited longest goes."""
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
        self._unread = self.loop.call_later(self.read_s, self.give_up)

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

    def ends_at(self) -> float:
        """When it will be given up, in the loop's seconds; 0 for one that is idle between requests: it loses nothing."""
        deadline = self._unread or self._deadline
        return 0.0 if deadline is None else deadline.when()

    def give_up(self) -> None:
        """Close it, at once."""
        self.transport.abort()

    def _make_room(self, most: int) -> None:
        """Give up the connection that has waited longest, or this one where all others are being answered. Those that close already do not count."""
        others = [other for other in self.connections if isinstance(other, BoundedConnection) and not other.transport.is_closing()]
        if len(others) > most:
            waiting = [other for other in others if other is not self and other.is_waiting]
            (min(waiting, key=BoundedConnection.ends_at) if waiting else self).give_up()

    def _watch(self) -> None:
        is_between = self.cycle is None or self.cycle.response_complete
        if (is_between or self.cycle.more_body) and not self.transport.is_closing():
            self._set_deadline("headers" if is_between else "body")
        else:
            self._set_deadline(None)

    def _set_deadline(self, awaits: str | None) -> None:
        """More of the same gives no more time. Args: awaits: "headers", "body" or nothing."""
        if awaits == self._awaits:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._awaits, self._deadline = awaits, None
        if awaits is not None:
            self._deadline = self.loop.call_later(self.headers_s if awaits == "headers" else self.body_s, self.give_up)
