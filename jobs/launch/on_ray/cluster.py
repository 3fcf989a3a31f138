"""Finding a Ray to train on, or starting one, and refusing what it does not have before anything begins."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from largebatch.jobs.errors import FaultError, InputError
from largebatch.jobs.import_paths import refuse_hiding
from largebatch.jobs.launch.on_ray.leftovers import socket_folders
from largebatch.jobs.launch.on_ray.priority import standing_back
from largebatch.jobs.launch.options import TrainOptions, Workers
from largebatch.jobs.launch.signals import stops_kept_from_children

CONNECT_S = 10.0
SAID_MACHINES = 8
"""So many are listed in a refusal."""
SETTINGS = {
    # Nothing is sent to anybody.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray Train looks after its workers once a second, not every two: a lost one is found soon.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1.0",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",
    # A group that cannot get its machines says so, and asks again, after this long.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
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


class Resources(NamedTuple):
    """What each worker gets."""

    cpus: float
    gpus: float

    @property
    def num_threads(self) -> int:
        """Threads of one worker's arithmetic."""
        return max(int(self.cpus), 1)


@contextmanager
def connected(options: TrainOptions) -> Iterator[Any]:
    """Ray's module, connected to the address or to a Ray of our own that ends with the block.

    Raises: InputError for an address that does not answer, and for a current folder that Ray cannot work in; FaultError if Ray does not start.
    """
    refuse_hiding(Path.cwd())
    address = _address(options)
    for name, value in {**SETTINGS, **(OWN_SETTINGS if address is None else {})}.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():  # a process that lives in somebody's Ray already, such as a sweep's trial
        yield ray
        return
    given: dict[str, Any] = {"log_to_driver": options.worker_logs, "logging_level": "ERROR"}
    if address is not None:
        _refuse_silence(address)
        given["address"] = address
    else:
        # Not whatever Ray may be up on this machine. Fractions of a core make room for more workers than cores; everything else is counted as it is.
        given.update(address="local", include_dashboard=True, dashboard_host="127.0.0.1", num_cpus=os.cpu_count())
    try:
        with contextlib.ExitStack() as own:
            if address is None:
                own.enter_context(standing_back())
                own.enter_context(stops_kept_from_children())
            ray.init(**given)
        if address is None:
            # One asks whether machines should be added, the other reads all logs ten times a second to pass on new lines: for nobody, here.
            _end(ray, "monitor", *(() if options.worker_logs else ("log_monitor",)))
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address is not None:
            raise InputError(
                "--address", f"Ray at {address} refuses: {error}.", "Check the address, and RAY_AUTH_TOKEN if it asks for one."
            ) from error
        raise FaultError("ray", f"did not start: {error}.", f"Its logs are in {log_folder(ray)}.") from error
    try:
        yield ray
    finally:
        with contextlib.suppress(Exception):
            if address is None:
                _end_own(ray)
        with contextlib.suppress(Exception):
            ray.shutdown()


def _address(options: TrainOptions) -> str | None:
    """Of the Ray that is there already; None for one of our own."""
    address = options.address or os.environ.get("RAY_ADDRESS")
    return None if address == "local" else address or None


def _end_own(ray: Any) -> None:
    """What an own Ray's processes do not see is SIGTERM, and Ray waits a second for each; those that only watch can end at once."""
    folders: set[Path] = set()
    with contextlib.suppress(OSError):
        folders.update(*(socket_folders(found.pid) for found in _processes(ray, "dashboard")))
    _end(ray, "dashboard", "log_monitor", "monitor")
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _end(ray: Any, *kinds: str) -> None:
    """End processes of an own Ray that nothing else of it waits for."""
    for found in _processes(ray, *kinds):
        found.kill()


def _processes(ray: Any, *kinds: str) -> "list[subprocess.Popen[bytes]]":
    """Those of an own Ray that are of these kinds."""
    started = ray._private.worker._global_node.all_processes
    return [found.process for kind in kinds for found in started.get(kind, [])]


def _refuse_silence(address: str) -> None:
    """Ray itself tries for minutes. Raises: InputError if nothing listens there."""
    if address == "auto":
        return
    parts = urlsplit(address if "//" in address else f"//{address}")
    if not parts.hostname or not parts.port:
        raise InputError("--address", f"{address!r} is not an address of Ray.", "Example: 10.0.0.1:6379, ray://10.0.0.1:10001, or auto.")
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=CONNECT_S).close()
    except OSError as error:
        raise InputError("--address", f"nothing answers at {address} ({error}).", "Is that Ray's head, and can it be reached from here?") from error


def share_out(ray: Any, options: TrainOptions, device: str) -> Resources:
    """What each worker gets. Raises: InputError for more than the cluster has, with what it has."""
    assert options.workers is not None
    _refuse_impossible_workers(options, options.workers, device)
    have = ray.cluster_resources()
    cpus, gpus = float(have.get("CPU", 0)), float(have.get("GPU", 0))
    least, most = options.workers.least, options.workers.most
    # An elastic run may begin while its machines are still coming, and stays with what it began with.
    wanted_gpus = options.gpus_per_worker
    if wanted_gpus is None:
        wanted_gpus = 1.0 if device != "cpu" and gpus >= least else 0.0
    if device == "cuda" and not wanted_gpus:
        raise InputError("--device", f"cuda for {least} workers, and the cluster has {gpus:g} GPUs.", "Use fewer workers, or --device cpu.")
    wanted_cpus = options.cpus_per_worker
    if wanted_cpus is None:
        wanted_cpus = 1.0 if _address(options) else max(cpus // most, 1.0)
    if least * wanted_gpus > gpus:
        raise InputError("--gpus-per-worker", f"{least} workers with {wanted_gpus:g} GPUs each, and the cluster has {gpus:g} GPUs.", "Ask for less.")
    if least * wanted_cpus > cpus:
        raise InputError(
            "--workers",
            f"{least} workers with {wanted_cpus:g} CPUs each, and the cluster has {cpus:g} CPUs on {len(ray.nodes())} machines.",
            f"Use at most {int(cpus // wanted_cpus)} workers, or a smaller --cpus-per-worker.",
        )
    resources = Resources(wanted_cpus, wanted_gpus)
    _refuse_small_machines(ray.nodes(), least, resources)
    return resources


def _refuse_small_machines(nodes: list[dict[str, Any]], least: int, resources: Resources) -> None:
    """Raises: InputError if the cluster has enough together, but no machine can hold a worker, or too few can."""
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    room = 0
    for machine in machines:
        shares = [machine.get(name, 0.0) / wanted for name, wanted in (("CPU", resources.cpus), ("GPU", resources.gpus)) if wanted]
        room += int(min(shares) + 1e-6)
    if room < least:
        has = ", ".join(f"{machine.get('CPU', 0):g} CPUs and {machine.get('GPU', 0):g} GPUs" for machine in machines[:SAID_MACHINES])
        has += f", and {len(machines) - SAID_MACHINES} more" if len(machines) > SAID_MACHINES else ""
        raise InputError(
            "--workers",
            f"{least} workers with {resources.cpus:g} CPUs and {resources.gpus:g} GPUs each, none of which can be spread over machines, "
            f"and these have room for {room}: {has}.",
            "Use fewer workers, or a smaller --cpus-per-worker or --gpus-per-worker.",
        )


def _refuse_impossible_workers(options: TrainOptions, workers: Workers, device: str) -> None:
    """Raises: InputError for what no cluster could give."""
    gpus, cpus = options.gpus_per_worker, options.cpus_per_worker
    if gpus is not None and gpus < 0:
        raise InputError("--gpus-per-worker", f"{gpus:g} is less than none.", "Give 1, or 0 for workers on CPUs.")
    if gpus and gpus % 1 and workers.most > 1:
        raise InputError(
            "--gpus-per-worker",
            f"{gpus:g} of a GPU for each of several workers, and NCCL joins whole GPUs only.",
            "Give 1, or 0 for workers on CPUs.",
        )
    if gpus and device == "cpu":
        raise InputError("--gpus-per-worker", f"{gpus:g}, and --device cpu uses none.", "Leave one of the two out.")
    if cpus is not None and cpus <= 0:
        raise InputError("--cpus-per-worker", f"{cpus:g} is not more than none.", "Give 1, or a fraction such as 0.5.")


def dashboard_url(ray: Any) -> str | None:
    """Where Ray's dashboard can be looked at."""
    url = ray._private.worker._global_node.webui_url if ray._private.worker._global_node else None
    return f"http://{url}" if url else None


def log_folder(ray: Any) -> str:
    """Where this machine's Ray writes its logs; without one, where the newest has."""
    node = ray._private.worker._global_node
    return node.get_logs_dir_path() if node else str(Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()), "ray", "session_latest", "logs"))
