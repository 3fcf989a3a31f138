"""The service under load, on loopback: reads over 10,000 runs, submits with cut connections, hundreds of listeners,
honest clients beside half-sent requests and heavy plans, and what the service costs a job that runs beside it.

The load comes from a process of its own, reads at a fixed rate: a request that is late counts from when it was due.
Every request carries a token. Both databases in turn; PostgreSQL's server must be installed (it is started here, in a
folder of its own).
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import _tests_path
import psutil
from _crowd import EVERY_S, NUM_PLANS, ask_in_a_crowd
from _load import CONNECTIONS, Connection, Taken, at_a_rate
from _report import in_turn, parser, publish, ratios, spread
from servers import Service, postgres, serving

from largebatch.jobs.run.journal import Journal
from largebatch.jobs.run.records import StepRecord
from largebatch.jobs.spec.read import build_spec, read_spec
from largebatch.service.db.engine import connect, upgrade, writing
from largebatch.service.db.tables import jobs
from largebatch.service.db.tokens import Tokens
from largebatch.service.job import Job, Kind, State

STORED = 10_000
SPEC = read_spec("digits-lamb").model_dump(mode="json")
ACCEPTS_ONLY = ("--max-running-per-owner", "0")
"""Nothing that is submitted here begins, so nothing trains beside the measurement."""
PARTS = ("reads", "submits", "listeners", "crowd", "job")
DATABASES = ("SQLite", "PostgreSQL")
STEPS = 400
"""Records that every listener hears."""
FILES = 1024
"""That the service beside a crowd may open."""


class Served(NamedTuple):
    """A service that answers, and what opens it."""

    process: psutil.Process
    service: Service
    headers: str

    def connection(self) -> Connection:
        """A new one, with the token."""
        return Connection(self.service.port, self.headers)


def main() -> None:
    """Measure, print."""
    arguments = parser(__doc__, repetitions=8)
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    arguments.add_argument("--databases", nargs="+", choices=DATABASES, default=DATABASES)
    arguments.add_argument("--rate", type=float, default=200.0, help="reads a second")
    arguments.add_argument("--seconds", type=float, default=60.0, help="of reads, and of each of the three crowds")
    arguments.add_argument("--submits", type=int, default=10_000)
    arguments.add_argument("--clients", type=int, default=50)
    arguments.add_argument("--listeners", type=int, default=500)
    arguments.add_argument("--half-sent", type=int, default=1200, help="requests that are never sent whole")
    arguments.add_argument("--data-dir", type=Path, default=Path("data"))
    given = arguments.parse_args()
    rows: list[dict[str, str]] = []
    more: dict[str, list[str]] = {part: [] for part in PARTS}
    for database in given.databases:
        for part, measure in (("reads", _reads), ("submits", _submits)):
            if part in given.only:
                with _served(database) as served:
                    row, note = measure(served, given)
                    rows.append({"what": f"{part}, {database}", **row})
                    more[part] += [f"{database}: {note}"] if note else []
    if "listeners" in given.only:
        with _served("SQLite") as served:
            rows.append({"what": "listeners", **_listeners(served, given)})
    if "crowd" in given.only:
        for what, half_sent, with_plans in (("alone", 0, False), ("beside half-sent", given.half_sent, False), ("and plans", given.half_sent, True)):
            with _served("SQLite") as served:
                row, note = _crowd(served, given, half_sent, with_plans)
                rows.append({"what": f"{given.clients} clients {what}", **row})
                more["crowd"].append(f"{what}: {note}")
    if "job" in given.only:
        row, note = _job_beside(given)
        rows.append({"what": "a job beside it", **row})
        more["job"].append(note)
    columns = dict.fromkeys(name for row in rows for name in row)
    publish("The service under load", [{name: row.get(name, "") for name in columns} for row in rows], _notes(given, more), given)


def _notes(given: argparse.Namespace, more: dict[str, list[str]]) -> list[str]:
    what = {
        "reads": f"Reads: {given.rate:g} a second for {given.seconds:g} s over {STORED:,} stored runs: of ten, four are a page of 50, three one run,"
        f" three a filtered page; {CONNECTIONS} connections, each warmed by one read. Times are from when a request was due to its last byte.",
        "submits": f"Submits: {given.submits:,} from {given.clients} clients, each under its own key, beside {STORED:,} stored runs; one request in"
        " ten is cut before its answer, and sent again. Times are from the first try to the answer.",
        "listeners": f"Listeners: {given.listeners} event streams on one run that writes 20 records a second for 20 s. Times are from a record's"
        " write to its arrival.",
        "crowd": f"A crowd: {given.clients} clients, each with one request a second for {given.seconds:g} s on a connection that it keeps (a tenth"
        f" submits, the rest read); beside them {given.half_sent:,} half-sent requests, sent anew a second after they are closed, and"
        f" {NUM_PLANS} plans of vit_l_16 (304 million parameters) at a time. SQLite, {FILES:,} files allowed.",
        "job": "A job beside it: F1 on MNIST at batch 256, 700 steps on all cores, started by the service while one listener follows it, against the"
        " same command by hand with no service there, in turn.",
    }
    columns = (
        "Memory: the service's resident set, with its growth since the first tenth of the reads, or over the rest; cores: its processor time over"
        " time."
    )
    notes = [" ".join([what[part], *more[part]]) for part in given.only]
    return [*notes[:-1], f"{notes[-1]} {columns}"]


@contextlib.contextmanager
def _served(database: str, *options: str) -> Iterator[Served]:
    """A service of its own over 10,000 runs; without options it accepts and begins nothing."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        given = ["--with-tokens", "--requests-per-minute", "10000000", *(options or ACCEPTS_ONLY)]
        url = f"sqlite:///{folder}/runs/service.sqlite"
        if database == "PostgreSQL":
            url = stack.enter_context(postgres()).new_database()
            given += ["--database-url", url]
        engine = connect(url)
        upgrade(engine)
        with writing(engine) as connection:
            connection.execute(jobs.insert(), [_stored(number) for number in range(STORED)])
        secret, _ = Tokens(engine).create("root", "admin")
        engine.dispose()
        service = stack.enter_context(serving(folder, *given))
        yield Served(psutil.Process(service.pid), service, f"Authorization: Bearer {secret}\r\n")


def _stored(number: int) -> dict[str, Any]:
    job = Job(
        id=f"run-{number:06}", kind=Kind.RUN, owner=f"owner{number % 40}", name="run", recipe="digits-lamb", spec=SPEC, cpus=1.0, gpus=0,
        state=State.SUCCEEDED if number % 10 else State.FAILED, created_at_s=1e9 + number, progress={"step": 60, "score": 0.97},
    )  # fmt: skip
    return {**job.model_dump(), "kind": "run", "state": str(job.state)}


def _reads(served: Served, given: argparse.Namespace) -> tuple[dict[str, str], str]:
    draw = random.Random(0)
    paths = []
    for _ in range(int(given.rate * given.seconds)):
        kind, number = draw.random(), draw.randrange(STORED)
        if kind < 0.4:
            paths.append(f"/v1/runs?cursor={1e9 + number!r}~run-{number:06}")
        elif kind < 0.7:
            paths.append(f"/v1/runs/run-{number:06}")
        else:
            paths.append(draw.choice(["/v1/runs?state=failed", f"/v1/runs?owner=owner{number % 40}", "/v1/runs?limit=20"]))
    with _watched(served.process) as seen:
        taken: Taken = asyncio.run(at_a_rate([served.connection() for _ in range(CONNECTIONS)], paths, given.rate, seen.mark))
    late = f"the load itself came to a request {median(taken.late) * 1e3:.1f} ms after it was due (p99 {_p99(taken.late) * 1e3:.1f} ms)."
    return {"load": f"{given.rate:g} a second", **_times(taken.whole), **seen.told()}, late


def _submits(served: Served, given: argparse.Namespace) -> tuple[dict[str, str], str]:
    draw = random.Random(1)
    body = json.dumps({"recipe": "digits-lamb", "deadline_s": 1e6}).encode()
    times: list[float] = []
    accepted: dict[int, str] = {}
    cut = 0

    async def client(numbers: range) -> None:
        nonlocal cut
        connection = served.connection()
        for number in numbers:
            began = time.perf_counter()
            while True:
                is_cut = draw.random() < 0.1
                cut += is_cut
                try:
                    status, answer = await connection.ask("POST", "/v1/runs", body, f"Idempotency-Key: key-{number}\r\n", is_cut)
                except (ConnectionError, asyncio.IncompleteReadError):
                    connection.close()
                    continue
                assert status == 202, answer
                accepted[number] = json.loads(answer)["id"]
                break
            times.append(time.perf_counter() - began)
        connection.close()

    async def load() -> None:
        await asyncio.gather(*(client(range(first, given.submits, given.clients)) for first in range(given.clients)))

    with _watched(served.process) as seen:
        asyncio.run(load())
    stored = _get(served, "/v1/cluster")["jobs"]
    lost, doubled = given.submits - len(set(accepted.values())), sum(stored.values()) - STORED - given.submits
    row = {"load": f"{given.submits / seen.took_s:.0f} a second", **_times(times), **seen.told(), "lost": str(lost), "doubled": str(doubled)}
    return row, f"{cut:,} requests were cut."


def _listeners(served: Served, given: argparse.Namespace) -> dict[str, str]:
    job_id = _get(served, "/v1/runs", json.dumps({"recipe": "digits-lamb"}).encode())["id"]
    folder = served.service.runs_dir / job_id
    folder.mkdir(exist_ok=True)
    heard: list[list[int]] = [[] for _ in range(given.listeners)]
    delays: list[float] = []
    written: dict[int, float] = {}

    async def listen(number: int) -> None:
        connection = served.connection()
        async for line in connection.lines(f"/v1/runs/{job_id}/events"):
            if line.startswith(b'data: {"kind":"step"'):
                step = json.loads(line[6:])["step"]
                heard[number].append(step)
                delays.append(time.time() - written[step])
                if step == STEPS:
                    break
        connection.close()

    async def write() -> None:
        await asyncio.sleep(3.0)
        with Journal(folder) as journal:
            for step in range(1, STEPS + 1):
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

    with _watched(served.process) as seen:
        asyncio.run(load())
    whole = sum(steps == list(range(1, STEPS + 1)) for steps in heard)
    return {"load": f"{given.listeners} streams", **_times(delays), **seen.told(), "in order and whole": f"{whole} of {given.listeners}"}


def _crowd(served: Served, given: argparse.Namespace, half_sent: int, with_plans: bool) -> tuple[dict[str, str], str]:
    served.process.rlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    with _watched(served.process) as seen:
        crowd = ask_in_a_crowd(served.connection, served.service.port, given.seconds, given.clients, half_sent, with_plans)
        asked = asyncio.run(crowd)
    log_kb = (served.service.folder / "service.log").stat().st_size / 1e3
    row = {"load": f"{given.clients / EVERY_S:.0f} a second", **_times(asked.times), **seen.told(), "log": f"{log_kb:.0f} kB"}
    plans = ", ".join(f"{count} answered {status}" for status, count in sorted(asked.plans.items()))
    return row, f"{asked.num_broken} requests sent again{'; plans: ' + (plans or 'none answered yet') if with_plans else ''}."


def _job_beside(given: argparse.Namespace) -> tuple[dict[str, str], str]:
    """Samples a second by service and by hand; the ratio is what the service costs."""
    spec = {
        "name": "beside", "dataset": {"name": "mnist"}, "model": {"name": "keskar-f1"}, "batch": {"global_batch_size": 256},
        "optimizer": {"name": "sgd"}, "learning_rate": {"base": 0.01}, "stop": {"steps": 700}, "evaluation": {"every_epochs": 1000},
        "tracking": {"enabled": False},
    }  # fmt: skip
    data_dir = given.data_dir.resolve()
    cores: list[float] = []

    def by_service() -> float:
        with _served("SQLite", "--data-dir", str(data_dir)) as served:
            job_id = _get(served, "/v1/runs", json.dumps({"spec": spec}).encode())["id"]

            async def follow() -> None:
                async for _ in served.connection().lines(f"/v1/runs/{job_id}/events"):
                    pass  # until it is over

            with _watched(served.process) as seen:
                asyncio.run(follow())
            cores.append(seen.cores)
            return float(_get(served, f"/v1/runs/{job_id}")["summary"]["samples_per_second"])

    def by_hand() -> float:
        with tempfile.TemporaryDirectory() as folder:
            threads = str(os.cpu_count())
            environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}
            environment["LARGEBATCH_SPEC"] = build_spec(spec).model_dump_json()
            command = [
                sys.executable,
                "-m",
                "largebatch.jobs",
                "env:LARGEBATCH_SPEC",
                "--run-id",
                "beside",
                "--output-dir",
                folder,
                "--data-dir",
                str(data_dir),
            ]
            subprocess.run(command, check=True, env=environment, cwd=_tests_path.ROOT, capture_output=True)
            return float(json.loads((Path(folder) / "beside" / "summary.json").read_text())["samples_per_second"])

    seen = in_turn({"service": by_service, "hand": by_hand}, given.repetitions)
    row = {"load": f"{median(seen['service']):,.0f} samples/s", "cores": f"{median(cores):.3f}"}
    ratio = f"{spread(ratios(seen['service'], seen['hand']))}; by hand {spread(seen['hand'], ',.0f')}."
    return row, f"The job's samples a second, by service over by hand: {ratio}"


def _get(served: Served, path: str, body: bytes = b"") -> Any:
    """One answer; with a body it is sent by POST."""
    connection = served.connection()
    status, answer = asyncio.run(connection.ask("POST" if body else "GET", path, body))
    assert status < 300, answer
    return json.loads(answer)


class Seen:
    """Memory and processor time of the service while something happens."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._cpu_s, self._began_s = self._used(), time.perf_counter()
        self._bytes = process.memory_info().rss
        self.took_s = self.cores = 0.0

    def mark(self) -> None:
        """Count memory's growth from now on."""
        self._bytes = self._process.memory_info().rss

    def end(self) -> None:
        """It has happened."""
        self.took_s = time.perf_counter() - self._began_s
        self.cores = (self._used() - self._cpu_s) / self.took_s

    def told(self) -> dict[str, str]:
        """For the table."""
        now = self._process.memory_info().rss
        return {"memory": f"{now / 2**20:.0f} MiB ({(now - self._bytes) / 2**20:+.0f})", "cores": f"{self.cores:.2f}"}

    def _used(self) -> float:
        return sum(self._process.cpu_times()[:2])


@contextlib.contextmanager
def _watched(process: psutil.Process) -> Iterator[Seen]:
    seen = Seen(process)
    yield seen
    seen.end()


def _times(times: list[float]) -> dict[str, str]:
    return {"median": f"{median(times) * 1e3:.1f} ms", "p99": f"{_p99(times) * 1e3:.1f} ms", "longest": f"{max(times) * 1e3:.0f} ms"}


def _p99(times: list[float]) -> float:
    return quantiles(times, n=100)[98]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
