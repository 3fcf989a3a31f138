"""The Ray to train on: somebody's by its address, or one of the command's own."""

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import ray

from largebatch.jobs.errors import FaultError, InputError
from largebatch.jobs.import_paths import refuse_hiding
from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.launch.signals import stops_kept_from_children

CONNECT_S = 15.0
HEADS_PORT = "Give the port of Ray's head, by default 6379; the dashboard's, by default 8265, is for `largebatch submit`."
HTTP_2_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""An empty frame of settings (RFC 9113, 6.5); the fourth byte of a frame is its kind, and a server's first is one of these."""
HTTP_2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HTTP_2_SETTINGS
SETTINGS = {
    # Nothing is sent to anybody.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray Train looks after its workers once a second, not every two: a lost one is found soon.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1.0",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",
    # Workers that do not get their cores, which another run took meanwhile, are given up after this long: then room is looked for again.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
    # A worker that hangs when its group ends is not waited for long.
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
    # Workers' lines come once, through Ray's own log, and in the folder where the person is.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
OWN_SETTINGS = {
    # It neither asks for a token nor leaves one in the home folder.
    "RAY_AUTH_MODE": "disabled",
    # Ray puts workers behind all else on their machine (nice 15); here they are what the machine is for.
    "RAY_worker_niceness": "0",
    # A cluster may say that it will take a machine away; this one will not, and asking is a process more.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Counts of its own doings, sent around every few seconds for a Prometheus that is not there.
    "RAY_enable_metrics_collection": "0",
}
"""Beside these, for a Ray that the command brings along."""


class Connection(NamedTuple):
    """A Ray that this process is connected to."""

    is_own: bool
    """Whether it was started for this process, and ends with it."""
    dashboard_url: str | None
    log_folder: str
    """Where this machine's Ray writes its logs."""


@contextmanager
def connected(options: TrainOptions) -> Iterator[Connection]:
    """Connect this process to Ray: at the address, or a Ray of its own that ends with the block.

    Raises: InputError for an address that does not answer, and for a current folder that Ray cannot work in; FaultError if Ray does not start.
    """
    refuse_hiding(Path.cwd())
    address = options.ray_address
    for name, value in {**SETTINGS, **(OWN_SETTINGS if address is None else {})}.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():  # a process that lives in somebody's Ray already, such as a sweep's trial
        yield Connection(address is None, None, _newest_logs())
        return
    common: dict[str, Any] = {"log_to_driver": options.worker_logs, "logging_level": "ERROR"}
    context = _start(common) if address is None else _connect(address, common)
    try:
        url = context.dashboard_url
        logs = getattr(context, "address_info", {}).get("session_dir")  # a client of Ray by ray:// is not told
        yield Connection(address is None, f"http://{url}" if url else None, str(Path(logs, "logs")) if logs else _newest_logs())
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()


def _start(common: dict[str, Any]) -> Any:
    """A Ray of our own, not whatever may be up on this machine. Raises: FaultError."""
    try:
        with stops_kept_from_children():
            # Fractions of a core make room for more workers than cores; everything else is counted as it is.
            return ray.init(address="local", include_dashboard=True, dashboard_host="127.0.0.1", num_cpus=os.cpu_count(), **common)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise FaultError("ray", f"did not start: {error}.", f"Its logs are in {_newest_logs()}.") from error


def _connect(address: str, common: dict[str, Any]) -> Any:
    """The Ray at that address. Raises: InputError."""
    refuse_silence(address)
    try:
        return ray.init(address=address, **common)
    except (ConnectionError, RuntimeError, ValueError) as error:
        hint = "Check the address, that both have one version of Ray and one of Python, and RAY_AUTH_TOKEN if it asks for one."
        raise InputError("--address", f"Ray at {address} refuses: {str(error).strip().rstrip('.')}.", hint) from error


def _newest_logs() -> str:
    return str(Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()), "ray", "session_latest", "logs"))


def refuse_silence(address: str, patience_s: float = CONNECT_S) -> None:
    """Raise InputError if nothing listens at an address, or what listens there does not speak as Ray does: Ray itself would try for minutes.

    Ray's head speaks HTTP/2 (gRPC), its dashboard HTTP/1. Where connections are encrypted, only that something listens is seen.

    Args: patience_s: how long it may take to answer.
    """
    if address == "auto":
        return
    parts = urlsplit(address if "//" in address else f"//{address}")
    if not parts.hostname or not parts.port:
        raise InputError("--address", f"{address!r} is not an address of Ray.", "Example: 10.0.0.1:6379, ray://10.0.0.1:10001, or auto.")
    answer = b""
    try:
        with socket.create_connection((parts.hostname, parts.port), timeout=patience_s) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in {"1", "true"}:
                return
            connection.sendall(HTTP_2_GREETING)
            answer = connection.recv(len(HTTP_2_SETTINGS))
    except TimeoutError:
        problem = f"{address} has not answered within {patience_s:g} s as Ray's head does."
        raise InputError("--address", problem, HEADS_PORT) from None
    except ConnectionResetError:
        pass
    except OSError as error:
        raise InputError("--address", f"nothing answers at {address} ({error}).", "Is that Ray's head, and can it be reached from here?") from error
    if answer[3:4] != HTTP_2_SETTINGS[3:4]:
        raise InputError("--address", f"what listens at {address} is not Ray's head.", HEADS_PORT)
