"""A Ray head of a benchmark's own, started and settled before anything is measured."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from largebatch.jobs.launch.on_ray.cluster import OWN_SETTINGS

SETTLE_S = 25.0
"""Ray's dashboard and agents load their modules for some seconds after the head answers."""


@contextmanager
def head() -> Iterator[str]:
    """The address of a settled Ray on this machine, with the settings of one that the command brings along."""
    os.environ.update(OWN_SETTINGS)
    folder = tempfile.mkdtemp(prefix="lbb", dir="/tmp")  # sockets' names must be short
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--temp-dir", folder, "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--disable-usage-stats", "--object-store-memory", str(200 * 2**20)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"},
    )
    try:
        time.sleep(SETTLE_S)
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)
