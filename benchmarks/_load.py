"""A load on an HTTP service, as light as it can be: the load must not be what is slow."""

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

CONNECTIONS = 64


class Connection:
    """One keep-alive connection."""

    def __init__(self, port: int, headers: str = "") -> None:
        self._port, self._headers = port, f"Host: localhost\r\nContent-Type: application/json\r\n{headers}"
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, body: bytes = b"", headers: str = "", is_cut: bool = False) -> tuple[int, bytes]:
        """Status and body. Raises: ConnectionError, also when it is cut."""
        writer = await self._send(method, path, body, headers)
        if is_cut:
            await asyncio.sleep(random.random() * 0.02)
            self.close()
            raise ConnectionError
        await writer.drain()
        assert self._reader is not None
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = next((int(line.split(b":")[1]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length")), 0)
        return int(answer.split(b" ", 2)[1]), await self._reader.readexactly(length)

    async def lines(self, path: str) -> AsyncIterator[bytes]:
        """Those of an answer that goes on."""
        await self._send("GET", path)
        assert self._reader is not None
        while line := await self._reader.readline():
            yield line.rstrip()

    async def _send(self, method: str, path: str, body: bytes = b"", headers: str = "") -> asyncio.StreamWriter:
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = f"{method} {path} HTTP/1.1\r\n{self._headers}Content-Length: {len(body)}\r\n{headers}\r\n"
        self._writer.write(head.encode() + body)
        return self._writer

    def close(self) -> None:
        """Let it go, whatever is under way."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Taken(NamedTuple):
    """Seconds of each request."""

    whole: list[float]
    """From when it was due to its last byte."""
    late: list[float]
    """From when it was due to when this process came to it: what the load itself adds."""


async def at_a_rate(connections: Sequence[Connection], paths: Sequence[str], rate: float, at_a_tenth: Callable[[], None]) -> Taken:
    """GET each path at its time, whatever became of those before. Args: rate: a second; at_a_tenth: called after a tenth of them."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for connection, path in zip(connections, paths, strict=False):  # nothing is cold when the clock starts
        await connection.ask("GET", path)
        free.put_nowait(connection)
    taken = Taken([], [])
    gc.collect()
    gc.freeze()  # what is there by now need not be looked through again while the clock runs
    began = time.perf_counter() + 0.1

    async def one(path: str, due: float) -> None:
        connection = await free.get()
        status, _ = await connection.ask("GET", path)
        assert status == 200, (status, path)
        taken.whole.append(time.perf_counter() - due)
        free.put_nowait(connection)

    async with asyncio.TaskGroup() as group:
        for number, path in enumerate(paths):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            taken.late.append(time.perf_counter() - due)
            group.create_task(one(path, due))
            if number == len(paths) // 10:
                at_a_tenth()
    return taken
