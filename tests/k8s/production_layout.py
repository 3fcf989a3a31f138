"""The local overlay as plain processes of this machine: each container's own command, arguments and environment.

What a cluster would do is done in its place: names of services become 127.0.0.1 with a port, mounted paths become
folders, references to secrets their values, and KubeRay's `ray start` is made of the group's rayStartParams. Nothing
else is changed, and nothing of this process's environment is passed on. Users, limits and policies are not imitated.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
from ports import free_port
from servers import NO_TLS
from small_runs import ROOT

Object = dict[str, Any]
PATIENCE_S = 120.0
RESTARTS = 2
"""On a machine with much else to do, Ray gives up waiting for itself."""
WORKLOADS = {"Deployment", "StatefulSet", "Job", "CronJob"}
NAMES = {
    "mlflow:5000": ("mlflow", 5000),
    "postgres:5432": ("postgres", 5432),
    "redis:6379": ("redis", 6379),
    "s3:9000": ("s3", 9000),
    "largebatch-head-svc:8265": ("head", 8265),
    "largebatch-head-svc:6379": ("head", 6379),
}
"""Addresses in the cluster: whose port of this machine, and in place of which of its own."""


class Container(NamedTuple):
    """One container as Kubernetes would start it, with the cluster's own names."""

    name: str
    """The object's and its own."""
    command: list[str]
    environment: dict[str, str]
    volumes: dict[str, Object]
    """What is mounted, by path."""
    ports: set[int]
    readiness: Object | None
    folder: str
    """Where it begins."""


class Process:
    """One container's process, or one replica's."""

    def __init__(self, begin: Callable[[], "subprocess.Popen[bytes]"], log: Path, container: Container, ports: dict[int, int]) -> None:
        self._begin, self._log, self._container, self._ports = begin, log, container, ports
        self.popen = begin()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def url(self, port: int) -> str:
        return f"http://127.0.0.1:{self._ports[port]}"

    def wait_ready(self) -> Self:
        """Until the container's own readiness probe says so; one that ends before is begun again, as Kubernetes would."""
        probe = self._container.readiness["httpGet"]
        ends_at, said, restarts = time.monotonic() + PATIENCE_S, "", 0
        while True:
            if self.popen.poll() is not None:
                assert restarts < RESTARTS, (self._container.name, self.popen.returncode, self.log[-3000:])
                self.popen, restarts = self._begin(), restarts + 1
            assert time.monotonic() < ends_at, (self._container.name, said, self.log[-3000:])
            with contextlib.suppress(httpx.TransportError):
                answer = httpx.get(f"{self.url(probe['port'])}{probe['path']}", timeout=5, verify=NO_TLS)
                if answer.is_success:
                    return self
                said = answer.text
            time.sleep(0.1)

    def result(self) -> str:
        """What it printed, once it has ended, which must be a good end."""
        code = self.popen.wait(PATIENCE_S)
        assert code == 0, (self._container.name, code, self.log[-3000:])
        return self.log

    def kill(self) -> None:
        """As a machine that loses its power."""
        self.popen.kill()
        self.popen.wait()


def containers(objects: Sequence[Object]) -> dict[str, Container]:
    """Every container of these objects, by name."""
    found = []
    for part in objects:
        name, spec = part["metadata"]["name"], part.get("spec", {})
        if part["kind"] in WORKLOADS:
            pod = spec.get("jobTemplate", {}).get("spec", spec)["template"]["spec"]
            found += [_container(objects, name, each, pod, _given(each)) for each in [*pod.get("initContainers", []), *pod["containers"]]]
        elif part["kind"] == "Pod":
            found += [_container(objects, name, each, spec, _given(each)) for each in spec["containers"]]
        elif part["kind"] == "RayCluster":
            for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
                pod = group["template"]["spec"]
                first, *others = pod["containers"]
                found.append(_container(objects, name, first, pod, _ray_start(group, first, name)))
                found += [_container(objects, name, each, pod, _given(each)) for each in [*pod.get("initContainers", []), *others]]
    return {container.name: container for container in found}


def _given(container: Object) -> list[str]:
    return [*container.get("command", []), *container.get("args", [])]


def _ray_start(group: Object, container: Object, cluster: str) -> list[str]:
    """KubeRay's command for a group, without Redis: `with_redis` adds what is missing."""
    assert not _given(container), "KubeRay takes a command of one's own for what comes before its own"
    limits = container["resources"]["limits"]
    assert set(limits) == {"cpu", "memory"}
    assert limits["memory"].endswith("Gi")
    is_head = "serviceType" in group
    parameters = {
        "num-cpus": limits["cpu"], "memory": str(int(limits["memory"].removesuffix("Gi")) << 30), "metrics-export-port": "8080",
        "dashboard-agent-listen-port": "52365",
        # The rest have these values by default; on one machine each node needs its own.
        "temp-dir": "/tmp/ray",
        **({"port": "6379", "dashboard-port": "8265", "ray-client-server-port": "10001"} if is_head else {"address": f"{cluster}-head-svc:6379"}),
        **group["rayStartParams"],
    }  # fmt: skip
    flags = ["--head", "--no-monitor"] if is_head else []
    return ["ray", "start", *flags, "--block", *(f"--{name}={value}" for name, value in parameters.items())]


def _container(objects: Sequence[Object], owner: str, container: Object, pod: Object, command: list[str]) -> Container:
    secrets = {part["metadata"]["name"]: part["stringData"] for part in objects if part["kind"] == "Secret"}
    environment: dict[str, str] = {}
    for variable in container.get("env", []):
        if "value" in variable:
            environment[variable["name"]] = variable["value"]
        else:
            reference = variable["valueFrom"]["secretKeyRef"]
            environment[variable["name"]] = secrets[reference["name"]][reference["key"]]
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    mounts = container.get("volumeMounts", [])  # a claim's volume is no volume of the pod
    by_path = {mount["mountPath"]: volumes.get(mount["name"], {"name": mount["name"]}) for mount in mounts}
    numbers = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    readiness = container.get("readinessProbe")
    if readiness and "httpGet" in readiness:
        port = readiness["httpGet"]["port"]
        readiness = {**readiness, "httpGet": {**readiness["httpGet"], "port": numbers.get(port, port)}}
        numbers["probe"] = numbers.get(port, port)
    ours = {10001} if command[:1] == ["ray"] else set()  # Ray's clients'; not declared, since nobody may come that way
    folder = container.get("workingDir", "/tmp")
    return Container(f"{owner}/{container['name']}", command, environment, by_path, {*numbers.values(), *ours}, readiness, folder)


def with_redis(objects: Sequence[Object], head: Container) -> Container:
    """Ray's head as KubeRay makes it where gcsFaultToleranceOptions are given."""
    (options,) = [part["spec"]["gcsFaultToleranceOptions"] for part in objects if part["kind"] == "RayCluster"]
    reference = options["redisPassword"]["valueFrom"]["secretKeyRef"]
    (secret,) = [part["stringData"] for part in objects if part["kind"] == "Secret" and part["metadata"]["name"] == reference["name"]]
    given = {
        "RAY_REDIS_ADDRESS": options["redisAddress"], "RAY_external_storage_namespace": options["externalStorageNamespace"],
        "REDIS_PASSWORD": secret[reference["key"]],
    }  # fmt: skip
    command = [*head.command, f"--redis-password={given['REDIS_PASSWORD']}"]
    return head._replace(command=command, environment={**head.environment, **given})


def image_environment() -> dict[str, str]:
    """What the image sets, which every container has."""
    stage = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    lines = stage.replace("\\\n", " ").splitlines()
    return dict(pair.split("=", 1) for line in lines if line.startswith("ENV ") for pair in line.split()[1:])


class Layout:
    """The containers of one overlay on this machine."""

    def __init__(self, objects: Sequence[Object], folder: Path) -> None:
        self._objects, self._folder = objects, folder
        self.containers = containers(objects)
        self.ran: set[str] = set()
        self.popens: list[subprocess.Popen[bytes]] = []
        self._ports: dict[tuple[str, int], int] = {}

    def port(self, instance: str, number: int) -> int:
        """This machine's port in place of a container's."""
        if (instance, number) not in self._ports:
            self._ports[instance, number] = free_port()
        return self._ports[instance, number]

    def place(self, instance: str, number: int, port: int) -> None:
        """Say where a stand-in listens."""
        self._ports[instance, number] = port

    def path(self, instance: str, name: str, text: str) -> Path:
        """Where a path of a container is here."""
        return Path(self._here(instance, self.containers[name], text))

    def log(self, instance: str) -> str:
        """What all containers of a pod have printed."""
        return "".join(path.read_text() for path in sorted(self._folder.glob(f"{instance}-*.log")))

    def environment(self, instance: str, name: str) -> dict[str, str]:
        """What a container's process has here."""
        container = self.containers[name]
        given = {**image_environment(), **container.environment, "TMPDIR": "/tmp"}  # a container's /tmp is its own
        here = {key: self._here(instance, container, value) for key, value in given.items()}
        return {**here, "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"}  # this interpreter's programs, wherever they lie

    def start(self, name: str, instance: str, command: Sequence[str] = ()) -> Process:
        """Begin a container's process. Args: command: of somebody who enters it, in place of its own."""
        container = self.containers[name]
        self.ran.add(name)
        environment = self.environment(instance, name)
        expanded = [re.sub(r"\$\((\w+)\)", lambda found: container.environment[found[1]], part) for part in command or container.command]
        folder = self._here(instance, container, container.folder) if container.folder in container.volumes else environment["TMPDIR"]
        log = self._folder / f"{instance}-{container.name.rpartition('/')[2]}.log"
        # Its programs are looked for where it would: Popen itself asks this process's PATH.
        program = shutil.which(expanded[0], path=environment["PATH"])
        assert program is not None, expanded[0]
        words = [program, *(self._here(instance, container, part) for part in expanded[1:])]

        def begin() -> "subprocess.Popen[bytes]":
            with log.open("ab") as file:
                popen = subprocess.Popen(
                    words, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=folder, start_new_session=True,
                )  # fmt: skip
            self.popens.append(popen)
            return popen

        return Process(begin, log, container, {number: self.port(instance, number) for number in container.ports})

    def run(self, name: str, instance: str, command: Sequence[str] = ()) -> str:
        """A container's process to its end; returns what it printed."""
        return self.start(name, instance, command).result()

    def _here(self, instance: str, container: Container, text: str) -> str:
        """A value or an argument, with the cluster's names and places replaced by this machine's."""
        text = re.sub(rf"(?<![\w.-])({'|'.join(NAMES)})(?!\d)", lambda found: f"127.0.0.1:{self.port(*NAMES[found[1]])}", text)
        option, equals, value = text.partition("=") if text.startswith("--") else ("", "", text)
        if value.isdecimal() and int(value) in container.ports:
            return f"{option}{equals}{self.port(instance, int(value))}"
        for mount, volume in container.volumes.items():
            if value == mount or value.startswith(f"{mount}/"):
                return f"{option}{equals}{self._volume(instance, volume)}{value.removeprefix(mount)}"
        return text

    def _volume(self, instance: str, volume: Object) -> Path:
        if "persistentVolumeClaim" in volume:
            folder = self._folder / volume["persistentVolumeClaim"]["claimName"]
        elif "configMap" in volume:
            folder = self._folder / "config" / volume["configMap"]["name"]
        else:
            folder = self._folder / instance / volume["name"]
        if not folder.is_dir():
            folder.mkdir(parents=True)
            for name, content in self._config(volume).items():
                (folder / name).write_text(content)
        return folder

    def _config(self, volume: Object) -> dict[str, str]:
        asked = volume.get("configMap", {}).get("name")
        return next((part["data"] for part in self._objects if part["kind"] == "ConfigMap" and part["metadata"]["name"] == asked), {})


@contextmanager
def laid_out(objects: Sequence[Object]) -> Iterator[Layout]:
    """A place for the containers; whatever was started there is ended, and its files are removed."""
    folder = Path(tempfile.mkdtemp(prefix="lb", dir="/tmp"))  # Unix sockets' names must be short
    layout = Layout(objects, folder)
    try:
        yield layout
    finally:
        _end_all(folder, {popen.pid for popen in layout.popens})
        for popen in layout.popens:
            popen.wait()
        shutil.rmtree(folder)


def pids(folder: Path, sessions: set[int]) -> set[int]:
    """Processes, of whatever parent, that belong to a container: by session, folder or environment, which a new title can overwrite."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError, IndexError):
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                is_inside = f"={folder}/".encode() in (entry / "environ").read_bytes() or (entry / "cwd").readlink().is_relative_to(folder)
                if state != "Z" and (is_inside or int(session) in sessions):
                    found.add(int(entry.name))
    return found


def _end_all(folder: Path, sessions: set[int]) -> None:
    """At once: what they would still save goes away with the folder."""
    ends_at = time.monotonic() + 20
    while left := pids(folder, sessions):
        assert time.monotonic() < ends_at, left
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)
