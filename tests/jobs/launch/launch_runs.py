"""Short runs on Ray, and looking at what they left."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import slow
import small_runs
from ports import free_port
from ray.util.state import list_nodes
from small_runs import distance, notices, parameters, same, starts, steps, wait_for

from largebatch.jobs.launch.on_ray.train import train_on_ray
from largebatch.jobs.launch.options import TrainOptions, Workers
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import Record, RunSummary, StepRecord
from largebatch.jobs.spec.read import build_spec

STEPS = 60
__all__ = ["distance", "notices", "parameters", "same", "starts", "steps", "wait_for"]
"""What those who use this module look for beside it."""


S3_PORT = free_port()
S3_ENVIRONMENT = {
    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{S3_PORT}",
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}
"""Where the tests' own S3 will listen; Ray's workers have it from their head."""


class Head(NamedTuple):
    """Where one Ray can be reached."""

    address: str
    dashboard: str
    pid: int


def document(**parts: Any) -> dict[str, Any]:
    usual = {
        "dataset": {"name": "digits", "augment": {"translate": 1}},
        # Smooth: where a ReLU's input is within rounding of zero, the order of a sum would decide whether a sample counts.
        "model": {"name": "mlp", "arguments": {"width": 24, "depth": 2, "batch_norm": True, "activation": "gelu"}},
        "batch": {"global_batch_size": 250, "micro_batch_size": 50},
        "batch_norm": {"span": 25},
        "optimizer": {"name": "sgd", "momentum": 0.9},
        "learning_rate": {"base": 0.1, "warmup_epochs": 1.0},
        "stop": {"steps": STEPS},
        "checkpoint": {"every_steps": 10, "keep": 99, "every_seconds": None},
    }
    return small_runs.document(**{"name": "launched", **usual, **parts})


def slow_document(until: Path, **parts: Any) -> dict[str, Any]:
    """The same run, slow until the file `until` is there: told of once a second, it can still be acted on in the middle."""
    spec_document = document(**parts)
    return {**spec_document, "model": {"entry_point": "slow:build", "arguments": {**spec_document["model"]["arguments"], "until": str(until)}}}


class Watcher:
    """Listens to a run, and does something once at a step."""

    def __init__(self, at_step: int = 0, act: Callable[[], None] | None = None) -> None:
        self.records: list[Record] = []
        self.notices: list[str] = []
        self.stops = threading.Event()
        self._at_step, self._act = at_step, act

    def then(self, at_step: int, act: Callable[[], None]) -> None:
        """Do something else, once, at a later step."""
        self._at_step, self._act = at_step, act

    def record(self, record: Record) -> None:
        self.records.append(record)
        if self._act is not None and isinstance(record, StepRecord) and record.step >= self._at_step:
            act, self._act = self._act, None
            act()

    def listener(self) -> Listener:
        return Listener(on_record=self.record, on_notice=self.notices.append, should_stop=self.stops.is_set)


def train(
    folder: Path, address: str, workers: Workers, spec_document: dict[str, Any], watcher: Watcher | None = None, run_id: str = "run", **options: Any
) -> RunSummary:
    """One run of so many workers, half a core each."""
    draw = options.pop("draw", lambda run_dir: None)
    launch = TrainOptions(
        output_dir=folder, device=options.pop("device", "cpu"), run_id=run_id, workers=workers, cpus_per_worker=options.pop("cpus", 0.5),
        address=address, **options,
    )  # fmt: skip
    return train_on_ray(build_spec(spec_document), launch, (watcher or Watcher()).listener(), draw=draw)


def kill_a_worker(folder: Path, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to one of the workers of the slow run whose `until` is in `folder`.

    Ray's titles do not tell: a worker of the run before may still be ending, and Ray starts processes ahead.
    """
    newest = max(folder.glob(f"{slow.WORKER}*"), key=lambda file: file.stat().st_mtime_ns)  # the numbers of processes begin again now and then
    os.kill(int(newest.name.removeprefix(slow.WORKER)), number)


def descendants(pid: int) -> list[psutil.Process]:
    """The processes that a process has started, and theirs."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def kill(processes: list[psutil.Process]) -> None:
    """Whatever of these is still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a head and all that it started."""
    started = descendants(process.pid)
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    kill(started)


START_S = 60.0


@contextmanager
def new_node(head: Head, num_cpus: int) -> Iterator[None]:
    """A machine more for a head, for as long as this is open."""

    def num_alive() -> int:
        return len(list_nodes(address=head.dashboard, filters=[("state", "=", "ALIVE")]))

    before = max(num_alive(), 1)  # a head may answer before it counts itself
    log = tempfile.TemporaryFile()  # noqa: SIM115
    ray = Path(sys.executable).parent / "ray"
    process = subprocess.Popen(
        [ray, "start", "--block", "--address", head.address, "--num-cpus", str(num_cpus), "--object-store-memory", str(200 * 2**20)],
        stdout=log, stderr=log, start_new_session=True, env={**os.environ, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"},
    )  # fmt: skip
    try:
        wait_for(lambda: num_alive() > before, START_S)
        yield
    finally:
        end(process)
        log.close()


def drain(head: Head, node_id: str) -> None:
    """Say, as a cluster does of a machine that is reclaimed, that it will be taken away in five minutes."""
    command = [Path(sys.executable).parent / "ray", "drain-node", "--address", head.address, "--node-id", node_id]
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the test takes it", "--deadline-remaining-seconds", "300"]
    subprocess.run([*command, *reason], check=True, capture_output=True)


@contextmanager
def new_head(environment: dict[str, str], ports: Sequence[int] = ()) -> Iterator[Head]:
    """A Ray of its own with four logical cores. Args: ports: six of them, for a head that comes back where it was."""
    # Unix sockets' names must be short.
    folder = tempfile.mkdtemp(prefix="lb", dir="/tmp")
    ports = ports or [free_port() for _ in range(6)]
    names = ["--port", "--dashboard-port", "--dashboard-agent-listen-port", "--ray-client-server-port", "--metrics-export-port"]
    options = [text for name, port in zip(names, ports, strict=False) for text in (name, str(port))]
    log = Path(folder, "head.log").open("wb")  # noqa: SIM115
    process = subprocess.Popen(
        [Path(sys.executable).parent / "ray", "start", "--head", "--block", "--temp-dir", folder, "--num-cpus", "4", "--disable-usage-stats",
         "--dashboard-host", "127.0.0.1", "--object-store-memory", str(200 * 2**20), *options],
        stdout=log, stderr=log, start_new_session=True,
        env={**os.environ, **environment, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0", "TMPDIR": folder},
    )  # fmt: skip
    head = Head(f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", process.pid)
    try:
        ends_at = time.monotonic() + START_S
        while True:
            assert process.poll() is None, Path(folder, "head.log").read_text()[-3000:]
            assert time.monotonic() < ends_at, "Ray's head does not answer"
            try:
                with urllib.request.urlopen(f"{head.dashboard}/api/version", timeout=2):
                    break
            except urllib.error.HTTPError:
                break  # it answers, and wants a token
            except OSError:
                time.sleep(0.2)
        yield head
    finally:
        end(process)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)
