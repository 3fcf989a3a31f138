"""The service under load, on loopback: reads over 10,000 runs, submits with cut connections, hundreds of listeners.

The load comes from a process of its own, at a fixed rate: a request that is late counts from when it was due. Both
databases in turn; PostgreSQL's server must be installed (it is started here, in a folder of its own).
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import _tests_path  # noqa: F401
import psutil
from _report import parser, publish
from servers import Service, postgres, serving

from jobs.spec_reader import read_spec
from service.db.engine import connect, upgrade, writing
from service.db.tables import jobs
from service.job import Job, Kind
from service.states import State

STORED = 10_000
SPEC = read_spec("digits-lamb").model_dump(mode="json")
OPTIONS = ("--max-running-per-owner", "0", "--requests-per-minute", "10000000")
"""Nothing that is submitted here begins, so nothing trains beside the measurement."""


def main() -> None:
    """Measure, print."""
    arguments = parser(__doc__, repetitions=1)
    arguments.add_argument("--rate", type=float, default=200.0, help="reads a second")
    arguments.add_argument("--seconds", type=float, default=60.0, help="of reads")
    arguments.add_argument("--submits", type=int, default=10_000)
    arguments.add_argument("--clients", type=int, default=50)
    arguments.add_argument("--listeners", type=int, default=500)
    given = arguments.parse_args()
    rows, notes = [], []
    for name in ("SQLite", "PostgreSQL"):
        with tempfile.TemporaryDirectory() as folder, _service(Path(folder), name) as service:
            rows += [_reads(service, given, name), _submits(service, given, name)]
    with tempfile.TemporaryDirectory() as folder, _service(Path(folder), "SQLite") as service:
        rows.append(_listeners(service, given))
    notes += [
        f"Reads: {given.rate:g} a second for {given.seconds:g} s over {STORED:,} stored runs: of ten, four are a page of 50, three one run,"
        " three a filtered page.",
        f"Submits: {given.submits:,} from {given.clients} clients, each under its own key; one request in ten is cut before its answer, and sent"
        " again.",
        f"Listeners: {given.listeners} event streams on one run that writes 20 records a second for 20 s.",
        "Times are from when a request was due to its last byte; of listeners, from a record's write to its arrival.",
        "Memory is the service's resident set, with its growth from the middle of the reads, or over the submits or the streams.",
    ]
    publish("The service under load", rows, notes, given)


@contextlib.contextmanager
def _service(folder: Path, database: str) -> Iterator[Service]:
    with contextlib.ExitStack() as stack:
        options = list(OPTIONS)
        if database == "PostgreSQL":
            url = stack.enter_context(postgres()).new_database()
            options += ["--database-url", url]
        else:
            url = f"sqlite:///{folder}/runs/service.sqlite"
        engine = connect(url)
        upgrade(engine)
        with writing(engine) as connection:
            connection.execute(jobs.insert(), [_stored(number) for number in range(STORED)])
        engine.dispose()
        yield stack.enter_context(serving(folder, *options))


def _stored(number: int) -> dict[str, Any]:
    job = Job(
        id=f"run-{number:06}", kind=Kind.RUN, owner=f"owner{number % 40}", name="run", recipe="digits-lamb", spec=SPEC, cpus=1.0, gpus=0,
        state=State.SUCCEEDED if number % 10 else State.FAILED, created_at_s=1e9 + number, progress={"step": 60, "test_accuracy": 0.97},
    )  # fmt: skip
    return {**job.model_dump(), "kind": "run", "state": str(job.state)}


class Connection:
    """One keep-alive connection, as light as it can be: the load must not be the bottleneck."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, body: bytes = b"", headers: str = "", is_cut: bool = False) -> tuple[int, bytes]:
        """Status and body. Raises: ConnectionError, also when it is cut."""
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        assert self._reader is not None
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self._writer.write(head.encode() + body)
        await self._writer.drain()
        if is_cut:
            await asyncio.sleep(random.random() * 0.02)
            self.close()
            raise ConnectionError
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = next((int(line.split(b":")[1]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length")), 0)
        return int(answer.split(b" ", 2)[1]), await self._reader.readexactly(length)

    def close(self) -> None:
        """Let it go, whatever is under way."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _reads(service: Service, given: argparse.Namespace, name: str) -> dict[str, str]:
    draw = random.Random(0)
    paths = []
    for _ in range(int(given.rate * given.seconds)):
        kind = draw.random()
        number = draw.randrange(STORED)
        if kind < 0.4:
            paths.append(f"/v1/runs?cursor={1e9 + number!r}~run-{number:06}")
        elif kind < 0.7:
            paths.append(f"/v1/runs/run-{number:06}")
        else:
            paths.append(draw.choice(["/v1/runs?state=failed", f"/v1/runs?owner=owner{number % 40}", "/v1/runs?limit=20"]))
    process = psutil.Process(service.pid)
    times, middle = [], 0

    async def load() -> None:
        nonlocal middle
        free: asyncio.Queue[Connection] = asyncio.Queue()
        for _ in range(32):
            free.put_nowait(Connection(service.port))
        began = time.perf_counter() + 0.5

        async def one(path: str, due: float) -> None:
            connection = await free.get()
            status, _ = await connection.ask("GET", path)
            assert status == 200, (status, path)
            times.append(time.perf_counter() - due)
            free.put_nowait(connection)

        async with asyncio.TaskGroup() as group:
            for number, path in enumerate(paths):
                due = began + number / given.rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(one(path, due))
                if number == len(paths) // 2:
                    middle = process.memory_info().rss

    asyncio.run(load())
    return _row(f"reads, {name}", f"{given.rate:g} a second", times, process, middle)


def _submits(service: Service, given: argparse.Namespace, name: str) -> dict[str, str]:
    draw = random.Random(1)
    process = psutil.Process(service.pid)
    times, middle, accepted = [], process.memory_info().rss, {}
    body = json.dumps({"recipe": "digits-lamb", "deadline_s": 1e6}).encode()

    async def client(numbers: list[int]) -> None:
        connection = Connection(service.port)
        for number in numbers:
            due = time.perf_counter()
            while True:
                try:
                    status, answer = await connection.ask("POST", "/v1/runs", body, f"Idempotency-Key: key-{number}\r\n", is_cut=draw.random() < 0.1)
                except (ConnectionError, asyncio.IncompleteReadError):
                    connection.close()
                    continue
                assert status == 202, answer
                accepted[number] = json.loads(answer)["id"]
                break
            times.append(time.perf_counter() - due)
        connection.close()

    async def load() -> None:
        await asyncio.gather(*(client(list(range(first, given.submits, given.clients))) for first in range(given.clients)))

    began = time.perf_counter()
    asyncio.run(load())
    took = time.perf_counter() - began
    found = asyncio.run(_count(service.port))
    lost, doubled = given.submits - len(set(accepted.values())), found - STORED - given.submits
    row = _row(f"submits, {name}", f"{given.submits / took:.0f} a second", times, process, middle)
    return {**row, "lost": str(lost), "doubled": str(doubled)}


async def _count(port: int) -> int:
    connection = Connection(port)
    _, answer = await connection.ask("GET", "/v1/cluster")
    connection.close()
    return sum(json.loads(answer)["jobs"].values())


def _listeners(service: Service, given: argparse.Namespace) -> dict[str, str]:
    from jobs.records import StepRecord
    from jobs.tracking.journal import Journal

    body = json.dumps({"recipe": "digits-lamb"}).encode()
    _, answer = asyncio.run(Connection(service.port).ask("POST", "/v1/runs", body))
    job_id = json.loads(answer)["id"]
    folder = service.runs_dir / job_id
    folder.mkdir(exist_ok=True)
    process = psutil.Process(service.pid)
    heard: list[list[int]] = [[] for _ in range(given.listeners)]
    delays: list[float] = []
    written: dict[int, float] = {}
    steps = 400

    async def listen(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(f"GET /v1/runs/{job_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        async for line in _lines(reader):
            if line.startswith(b'data: {"kind":"step"'):
                step = json.loads(line[6:])["step"]
                heard[number].append(step)
                delays.append(time.time() - written[step])
                if step == steps:
                    break
        writer.close()

    async def write() -> None:
        await asyncio.sleep(3.0)
        with Journal(folder) as journal:
            for step in range(1, steps + 1):
                written[step] = time.time()
                journal.write(
                    StepRecord(step=step, epoch=step / 10, samples_seen=step, global_batch_size=1, loss=1.0, learning_rate=0.1, gradient_norm=1.0,
                               training_seconds=step / 20)
                )  # fmt: skip
                await asyncio.sleep(0.05)

    async def load() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            for number in range(given.listeners):
                group.create_task(listen(number))

    before, began = sum(process.cpu_times()[:2]), time.perf_counter()
    memory = process.memory_info().rss
    asyncio.run(load())
    cpu = (sum(process.cpu_times()[:2]) - before) / (time.perf_counter() - began)
    whole = sum(steps_heard == list(range(1, steps + 1)) for steps_heard in heard)
    row = _row("listeners", f"{given.listeners} streams", delays, process, memory)
    return {**row, "cores": f"{cpu:.2f}", "in order and whole": f"{whole} of {given.listeners}"}


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while line := await reader.readline():
        yield line.rstrip()


def _row(name: str, rate: str, times: list[float], process: psutil.Process, middle: int) -> dict[str, str]:
    cuts = quantiles(times, n=100)
    growth = (process.memory_info().rss - middle) / 2**20
    return {
        "what": name,
        "load": rate,
        "median": f"{median(times) * 1e3:.1f} ms",
        "p99": f"{cuts[98] * 1e3:.1f} ms",
        "longest": f"{max(times) * 1e3:.0f} ms",
        "memory": f"{process.memory_info().rss / 2**20:.0f} MiB ({growth:+.0f})",
        "lost": "",
        "doubled": "",
        "cores": "",
        "in order and whole": "",
    }


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
