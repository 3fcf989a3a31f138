"""Two network namespaces as two hosts, with nothing in common but a disk: python namespace_scenario.py FOLDER.

One has Ray's head, the other a node; each has one core, so a run of two workers spans both. All processes of the second
host are killed in the middle, and it comes back; later its cable is cut while its processes live on. The run must end as if
nothing had happened.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import launch_runs as runs
import slow

HERE = Path(__file__).parent
LINK = "eth0"
HEAD, NODE = "10.77.0.1", "10.77.0.2"
SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    # A dead host is found in seconds.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "8",
}


class Host:
    """A network namespace with one address."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address

    def start(self, arguments: Sequence[str | Path], log: Path) -> "subprocess.Popen[bytes]":
        """A command on this host."""
        with log.open("ab") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.name, *arguments],
                stdout=file,
                stderr=file,
                cwd=HERE,
                env={**os.environ, **SETTINGS},
                start_new_session=True,
            )

    def pids(self) -> list[int]:
        """All processes on this host."""
        return [int(pid) for pid in ip("netns", "pids", self.name).split()]

    def power_off(self) -> None:
        """End all that runs here, at once; what they were starting too."""
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)


def cable(on: Host, state: str) -> None:
    """Args: state: up or down. Without a word to either side: packets go nowhere."""
    ip("-n", on.name, "link", "set", LINK, state)


def ip(*arguments: str) -> str:
    """What iproute2 says. Raises: RuntimeError with its own words."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def host(name: str, address: str) -> Iterator[Host]:
    """A new namespace; at the end its processes are killed and it is gone, with its end of the link."""
    ip("netns", "add", name)
    made = Host(name, address)
    try:
        ip("-n", name, "link", "set", "lo", "up")
        yield made
    finally:
        made.power_off()
        ip("netns", "del", name)


def join(one: Host, other: Host) -> None:
    """A cable between two hosts."""
    ip("link", "add", LINK, "netns", one.name, "type", "veth", "peer", "name", LINK, "netns", other.name)
    for end in (one, other):
        ip("-n", end.name, "addr", "add", f"{end.address}/24", "dev", LINK)
        ip("-n", end.name, "link", "set", LINK, "up")


def start_ray(on: Host, folder: Path, *arguments: str, own: Path | None = None) -> None:
    """Args: own: a folder that has other content on this host."""
    ray = Path(sys.executable).parent / "ray"
    # `ip netns exec` gives a command its own view of what is mounted.
    mount = ["sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', own] if own else []
    memory = ["--object-store-memory", str(200 * 2**20), "--disable-usage-stats"]
    place = ["--node-ip-address", on.address, "--temp-dir", str(folder), "--num-cpus", "1"]
    on.start([*mount, ray, "start", "--block", *place, *memory, *arguments], folder / "ray.log")


ALIVE = """
import json, urllib.request
with urllib.request.urlopen("http://127.0.0.1:8265/nodes?view=summary", timeout=3) as answer:
    print(sum(node["raylet"].get("state") == "ALIVE" for node in json.load(answer)["data"]["summary"]))
"""


def num_nodes(head: Host) -> int:
    """Hosts that Ray's head counts as alive; 0 while it does not answer."""
    done = subprocess.run(["ip", "netns", "exec", head.name, sys.executable, "-c", ALIVE], capture_output=True, text=True)
    return int(done.stdout) if done.returncode == 0 else 0


def start_run(on: Host, folder: Path, name: str, log: Path, output_dir: Path | None = None) -> "subprocess.Popen[bytes]":
    recipe = folder / f"{name}.json"
    recipe.write_text(json.dumps(runs.slow_document(folder / "acted")))
    places = ["--run-id", name, "--output-dir", output_dir or folder, "--device", "cpu"]
    options = ["--workers", "2", "--cpus-per-worker", "1"]
    command = ["env", f"RAY_ADDRESS={HEAD}:6379", sys.executable, "-m", "largebatch.jobs", recipe, *places, *options]
    return on.start(command, log)


def hosts_of_workers(folder: Path) -> set[str]:
    """Namespaces in which the run's workers live."""
    namespaces = set()
    for file in folder.glob(f"{slow.WORKER}*"):
        with contextlib.suppress(OSError):
            namespaces.add(os.readlink(f"/proc/{file.name.removeprefix(slow.WORKER)}/ns/net"))
    return namespaces


def workers_of(folder: Path, on: Host) -> set[int]:
    """The run's workers that live on a host."""
    return {int(file.name.removeprefix(slow.WORKER)) for file in folder.glob(f"{slow.WORKER}*")} & set(on.pids())


def main(folder: Path) -> None:
    """Be refused a folder that is not shared, train undisturbed, then with a host that dies, and whose cable is cut."""
    log = folder / "run.log"
    mark = f"lb{os.getpid()}"
    with ExitStack() as stack:
        # Unix sockets' names must be short.
        places = [Path(f"/tmp/{mark}{letter}") for letter in "ab"]
        for place in places:
            place.mkdir()
            stack.callback(subprocess.run, ["rm", "-rf", place], check=False)
        first, second = stack.enter_context(host(f"{mark}a", HEAD)), stack.enter_context(host(f"{mark}b", NODE))
        join(first, second)
        start_ray(first, places[0], "--head", "--port", "6379")
        runs.wait_for(lambda: num_nodes(first) == 1, 60)
        private = folder / "private"
        private.mkdir()
        start_ray(second, places[1], "--address", f"{HEAD}:6379", own=private)
        runs.wait_for(lambda: num_nodes(first) == 2, 60)
        refused = start_run(first, folder, "refused", log, output_dir=private)
        assert refused.wait(90) == 2, log.read_text()[-3000:]
        assert "InputError: --output-dir" in log.read_text()
        assert "does not hold what worker 0 wrote there" in log.read_text()
        assert list(private.iterdir()) == []

        (folder / "acted").touch()
        whole = start_run(first, folder, "whole", log)
        assert whole.wait(120) == 0, log.read_text()[-3000:]
        (folder / "acted").unlink()
        for file in folder.glob(f"{slow.WORKER}*"):
            file.unlink()

        disturbed = start_run(first, folder, "disturbed", log)
        run_dir = folder / "disturbed"

        def is_at(num_starts: int, step: int) -> bool:
            assert disturbed.poll() is None, log.read_text()[-3000:]
            return run_dir.exists() and len(runs.starts(run_dir)) == num_starts and (runs.steps(run_dir) or [0])[-1] >= step

        runs.wait_for(lambda: is_at(1, 12), 90)
        assert len(hosts_of_workers(folder)) == 2, "one worker on each host"
        second.power_off()
        start_ray(second, places[1], "--address", f"{HEAD}:6379")
        runs.wait_for(lambda: is_at(2, runs.starts(run_dir)[-1].step + 5), 120)
        assert len(hosts_of_workers(folder)) == 2, "again one on each"

        cut_off = workers_of(folder, second)
        assert len(cut_off) == 1
        cable(second, "down")
        runs.wait_for(lambda: num_nodes(first) == 1, 60)
        runs.wait_for(lambda: not workers_of(folder, second) & cut_off, 90)  # it ends itself: nobody else can
        second.power_off()
        cable(second, "up")
        start_ray(second, places[1], "--address", f"{HEAD}:6379")
        runs.wait_for(lambda: is_at(3, runs.starts(run_dir)[-1].step + 5), 120)
        assert len(hosts_of_workers(folder)) == 2, "once more one on each"
        (folder / "acted").touch()
        assert disturbed.wait(120) == 0, log.read_text()[-3000:]
    assert runs.same(runs.parameters(folder / "whole"), runs.parameters(run_dir)), "bit for bit"
    assert runs.steps(run_dir) == list(range(1, runs.STEPS + 1)), "no step lost or doubled"
    gone = [text for text in runs.notices(run_dir) if "gone" in text]
    assert len(gone) == 2, gone
    assert all(re.match(rf"Failure: machine {re.escape(NODE)}.* is gone, with 1 of 2 workers\.", text) for text in gone), gone
    assert [record.samples_per_rank for record in runs.starts(run_dir)] == [[125, 125]] * 3


if __name__ == "__main__":
    main(Path(sys.argv[1]))
