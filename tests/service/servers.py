"""The real service and the real PostgreSQL, each on a free port, each ended with all it started."""

import contextlib
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from command_line import largebatch
from forked import Forked
from launch_runs import descendants, kill
from ports import free_port
from small_runs import ROOT

from largebatch.service.db.engine import connect, upgrade, writing
from largebatch.service.db.store import Store
from largebatch.service.db.tables import leases
from largebatch.service.job import Job, Kind

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Without it httpx reads the world's certificates at each request, 20 ms of a core: much for who asks ten times a second."""
SECRET = "hidden-7"
"""Of a service's environment; nobody may ever be told."""

IMPORTS = (
    "largebatch.service.cli.main", "largebatch.service.cli.commands.serve", "largebatch.service.api.serve", "uvicorn.lifespan.on",
    "uvicorn.loops.asyncio", "psycopg", "sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.sqlite.pysqlite",
)  # fmt: skip
"""Of a service, before it is forked: neither torch nor Ray, which it imports where it needs them."""


class Service:
    """One `largebatch serve` process, forked where its imports are done."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        self.folder, self._options = folder, options
        self._environment = {"PYTHONPATH": str(ROOT), **environment}
        self._process: Forked | subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def runs_dir(self) -> Path:
        return self.folder / "runs"

    @property
    def log(self) -> str:
        return (self.folder / "service.log").read_text()

    def start(self, is_ready: bool = True, is_fresh: bool = False) -> None:
        """Begin. Args: is_fresh: as a person begins it, not forked."""
        words = ["-m", "largebatch", "serve", "--port", str(self.port), "--runs-dir", str(self.runs_dir), *self._options]
        with (self.folder / "service.log").open("ab") as log:
            if is_fresh:
                environment = {**os.environ, "OMP_NUM_THREADS": "1", **self._environment}
                self._process = subprocess.Popen([sys.executable, *words], env=environment, stdout=log, stderr=log, cwd=self.folder)
            else:
                self._process = Forked(*words, folder=self.folder, usual_imports=IMPORTS, log=log, **self._environment)
        ends_at = time.monotonic() + 60
        while is_ready:
            assert self._process.poll() is None, self.log[-3000:]
            assert time.monotonic() < ends_at, self.log[-3000:]
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{self.url}/healthz", timeout=5, verify=NO_TLS)
                return
            time.sleep(0.05)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM. Returns the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(40)

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        """The service and every job that it left."""
        if self._process is not None and self._process.poll() is None:
            kill(descendants(self.pid))
            self.kill()
        kill(job_processes(self.runs_dir))

    def wait(self, job_id: str, *states: str, seconds: float = 90, kind: str = "run", headers: Any = None) -> dict[str, Any]:
        """Until a job is in one of these states."""
        ends_at = time.monotonic() + seconds
        while True:
            with contextlib.suppress(httpx.TransportError):
                job: dict[str, Any] = httpx.get(f"{self.url}/v1/{Kind(kind).plural}/{job_id}", headers=headers, timeout=20, verify=NO_TLS).json()
                if job.get("state") in states:
                    return job
            assert time.monotonic() < ends_at, (job, self.log[-3000:])
            time.sleep(0.25)

    @property
    def database_url(self) -> str:
        """Where nothing else was said."""
        return f"sqlite:///{self.runs_dir}/service.sqlite"

    def put(self, job: Job) -> None:
        """A job's row, as the service would have written it."""
        store = Store(connect(self.database_url))
        store.accept(job, None, "", 10)
        store.engine.dispose()

    def end_leases(self, database_url: str | None = None) -> None:
        """Leases of a service that was killed run out after 15 seconds, as test_store has it; here at once."""
        engine = connect(database_url or self.database_url)
        with writing(engine) as connection:
            connection.execute(leases.delete())
        engine.dispose()


@contextmanager
def upgraded(url: str) -> Iterator[Store]:
    """The store of a database whose schema is up to date."""
    engine = connect(url)
    upgrade(engine)
    yield Store(engine)
    engine.dispose()


def new_token(runs_dir: Path, owner: str, *options: str) -> str:
    """What `largebatch token create` prints, without a process of its own: importing the command takes longer than the token."""
    made = largebatch("token", "create", owner, *options, "--runs-dir", runs_dir)
    assert made.exit_code == 0, made.output
    return made.stdout.strip()


def job_processes(runs_dir: Path) -> list[psutil.Process]:
    """Processes, of whatever parent, that work below this folder."""
    others = [process for process in psutil.process_iter(["cmdline"]) if process.pid != os.getpid()]
    return [process for process in others if any(str(runs_dir) in word for word in process.info["cmdline"] or ())]


@contextmanager
def serving(folder: Path, *options: str, is_fresh: bool = False, **environment: str) -> Iterator[Service]:
    """A service that answers. Args: is_fresh: see `Service.start`."""
    service = Service(folder, *options, **environment)
    try:
        service.start(is_fresh=is_fresh)
        yield service
    finally:
        service.end()


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """A new folder on a file system of its own, of so many MiB."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", folder], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


class Postgres:
    """One PostgreSQL server in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._bin = postgres_bin()
        # The server refuses to run as root.
        self._user: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        if self._user:
            shutil.chown(folder, "postgres", "postgres")
        options = ["--auth=trust", "--username=tester", "--encoding=UTF8", "--no-sync", "--locale=C"]
        subprocess.run([self._bin / "initdb", "-D", folder / "data", *options], check=True, stdout=subprocess.DEVNULL, cwd=folder, **self._user)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["-p", str(self._port), "-k", str(self._folder), "-c", "fsync=off", "-c", "listen_addresses=127.0.0.1"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._folder / "data", *options], stdout=log, stderr=log, cwd=self._folder, **self._user
            )
        ends_at = time.monotonic() + 30
        asks = [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self._port)]
        while subprocess.run(asks, check=False).returncode:
            assert time.monotonic() < ends_at, (self._folder / "log").read_text()[-2000:]
            time.sleep(0.05)

    def stop(self) -> None:
        """At once, as by a power cut of the server's clients."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
            self._process = None

    def new_database(self) -> str:
        """The address of an empty database."""
        import psycopg

        name = f"d{time.monotonic_ns()}"
        with psycopg.connect(f"postgresql://tester@127.0.0.1:{self._port}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        return f"postgresql://tester@127.0.0.1:{self._port}/{name}"


def postgres_bin() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(re.sub(r"\D", "", path.parts[-3]) or 0))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        pytest.skip("these tests need PostgreSQL's server: apt-get install postgresql")
    return Path(on_path).resolve().parent


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server that answers, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="lbpg", dir="/tmp"))
    folder.chmod(0o755)
    server = Postgres(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
