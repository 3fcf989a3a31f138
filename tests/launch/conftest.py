"""A real Ray head with its dashboard, on free ports, in a folder of its own; gone when the tests are."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch_runs import S3_ENVIRONMENT, Head, free_port

# Before ray is imported anywhere: no token files, nothing sent, temporary files of our own.
os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
START_S = 60.0


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and theirs."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = set(), [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.add(child)
            waiting.append(child)
    return found


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a head and all that it started."""
    started = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in started:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """One Ray with four logical cores for all tests that do not break it."""
    # Unix sockets' names must be short.
    folder = tempfile.mkdtemp(prefix="lb", dir="/tmp")
    ports = [free_port() for _ in range(6)]
    names = ["--port", "--dashboard-port", "--dashboard-agent-listen-port", "--ray-client-server-port", "--metrics-export-port"]
    options = [text for name, port in zip(names, ports, strict=False) for text in (name, str(port))]
    log = Path(folder, "head.log").open("wb")  # noqa: SIM115
    process = subprocess.Popen(
        [Path(sys.executable).parent / "ray", "start", "--head", "--block", "--temp-dir", folder, "--num-cpus", "4", "--disable-usage-stats",
         "--dashboard-host", "127.0.0.1", "--object-store-memory", str(200 * 2**20), *options],
        stdout=log, stderr=log, start_new_session=True, env={**os.environ, **S3_ENVIRONMENT, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"},
    )  # fmt: skip
    found = Head(f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", process.pid)
    try:
        ends_at = time.monotonic() + START_S
        while True:
            assert process.poll() is None, Path(folder, "head.log").read_text()[-3000:]
            assert time.monotonic() < ends_at, "Ray's head does not answer"
            try:
                with urllib.request.urlopen(f"{found.dashboard}/api/version", timeout=2):
                    break
            except OSError:
                time.sleep(0.2)
        yield found
    finally:
        end(process)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)
