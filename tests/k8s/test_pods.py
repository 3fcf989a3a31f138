"""What every pod template of every overlay and example must keep to, KubeRay's included."""

import re
import tomllib
from typing import Any

import pytest
from build import built
from parsers import largebatch_parameters
from pods import EXAMPLES, K8S, OVERLAYS, ROOT, TOKENS, Pod, bytes_of, cores_of, pods, ray_cluster

from largebatch.service.api.serve import GRACE_S
from largebatch.service.backends.ray_jobs import STOP_S

Object = dict[str, Any]
ALL = [(target, pod) for target in (*OVERLAYS, *EXAMPLES) for pod in pods(built(K8S / target))]
EACH = pytest.mark.parametrize("pod", [pod for _, pod in ALL], ids=[f"{target}:{pod.name}" for target, pod in ALL])
RAY = [(target, pod) for target, pod in ALL if pod.name.startswith("Ray")]
EACH_RAY = pytest.mark.parametrize("pod", [pod for _, pod in RAY], ids=[f"{target}:{pod.name}" for target, pod in RAY])
OURS = re.compile(r"(registry\.example\.com/)?largebatch:(.+)")
REGISTRY = "registry.example.com/"
LOOKS_SECRET = re.compile(r"TOKEN|PASSWORD|SECRET|ACCESS_KEY|DATABASE_URL|BACKEND_STORE_URI")


def test_there_are_pods_of_every_kind() -> None:
    """Else the tests below say nothing."""
    assert {"Deployment", "StatefulSet", "Job", "CronJob", "RayCluster", "RayJob", "Pod"} == {pod.name.partition("/")[0] for _, pod in ALL}
    assert [container for _, pod in ALL for container in pod.containers if container["name"] == "autoscaler"]


@EACH
def test_containers_say_what_they_need_and_may_have(pod: Pod) -> None:
    for container in pod.containers:
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert requests.keys() == limits.keys() >= {"cpu", "memory"}
        assert 0 < cores_of(requests["cpu"]) <= cores_of(limits["cpu"])
        assert 0 < bytes_of(requests["memory"]) <= bytes_of(limits["memory"])
        assert requests.get("nvidia.com/gpu") == limits.get("nvidia.com/gpu")


@EACH
def test_containers_are_confined(pod: Pod) -> None:
    """The restricted Pod Security level, and a root file system that is read-only beyond it."""
    whole = pod.spec["securityContext"]
    assert whole["runAsNonRoot"] is True
    assert whole["runAsUser"] >= 1
    assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys()
    for container in pod.containers:
        own = container["securityContext"]
        assert own == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert not [port for port in container.get("ports", []) if "hostPort" in port]
    kinds = {next(key for key in volume if key != "name") for volume in pod.spec.get("volumes", [])}
    assert kinds <= {"emptyDir", "configMap", "persistentVolumeClaim"}


@EACH
def test_what_is_written_has_a_place_and_a_limit(pod: Pod) -> None:
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    assert all("sizeLimit" in volume["emptyDir"] for volume in volumes.values() if "emptyDir" in volume)
    for container in pod.containers:
        if OURS.fullmatch(container["image"]):
            scratch = [mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == "/tmp"]
            assert scratch
            assert "emptyDir" in volumes[scratch[0]]
            assert {"name": "HOME", "value": "/tmp"} in container["env"]


@EACH
def test_images_are_pinned_and_ours_are_of_one_version(pod: Pod) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for container in pod.containers:
        name, _, tag = container["image"].rpartition(":")
        assert name
        assert re.search(r"\d+[.-]\d+", tag), container["image"]
        if ours := OURS.fullmatch(container["image"]):
            assert ours[2] in {version, f"{version}-cuda"}


@pytest.mark.parametrize("target", [*OVERLAYS, *EXAMPLES])
def test_whoever_pulls_from_the_registry_shows_its_secret(target: str) -> None:
    """By the pod, or by its account; those of the examples are the overlays'. Fetched from the demo's own machine, images need none."""
    accounts = {
        each["metadata"]["name"]: each for each in built(K8S / ("overlays/cpu" if target in EXAMPLES else target)) if each["kind"] == "ServiceAccount"
    }
    pulled = {pod.name: pod for pod in pods(built(K8S / target)) if any(each["image"].startswith(REGISTRY) for each in pod.containers)}
    assert bool(pulled) is (target != "overlays/local")
    for name, pod in pulled.items():
        shown = pod.spec.get("imagePullSecrets") or accounts[pod.spec["serviceAccountName"]].get("imagePullSecrets")
        assert shown == [{"name": "largebatch-registry"}], name


@EACH
def test_no_token_of_kubernetes_where_none_is_needed(pod: Pod) -> None:
    if pod.spec.get("automountServiceAccountToken") is False:
        return
    for container in pod.containers:
        hides = [mount for mount in container["volumeMounts"] if mount["mountPath"] == TOKENS]
        assert hides or container["name"] == "autoscaler", container["name"]


@EACH
def test_secrets_come_by_reference(pod: Pod) -> None:
    for container in pod.containers:
        for variable in container.get("env", []):
            assert "value" not in variable or not LOOKS_SECRET.search(variable["name"]), variable
            assert not re.search(r"://[^/\s]*:[^/\s]*@", variable.get("value", "")), variable
        names = [variable["name"] for variable in container.get("env", [])]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("target", [*OVERLAYS, *EXAMPLES])
def test_passwords_stand_in_the_demo_alone(target: str) -> None:
    objects = built(K8S / target)
    secrets = [part for part in objects if part["kind"] == "Secret"]
    assert bool(secrets) == (target == "overlays/local")
    assert all(part["metadata"]["labels"]["largebatch-secrets"] == "demo" for part in secrets)
    assert "demo-" not in str([part for part in objects if part["kind"] != "Secret"])


@EACH
def test_probes_ask_ports_that_are_there(pod: Pod) -> None:
    for container in pod.containers:
        names = {port["name"] for port in container.get("ports", [])}
        for probe in [probe for key, probe in container.items() if key.endswith("Probe")]:
            port = (probe.get("httpGet") or probe.get("tcpSocket") or {}).get("port")
            # 52365 is where Ray's agent answers, by KubeRay's own choice.
            assert port in {*names, None, 52365}


@EACH_RAY
def test_ray_has_shared_memory_for_its_object_store(pod: Pod) -> None:
    container = pod.spec["containers"][0]
    volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
    (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
    shared = volumes[mount["name"]]["emptyDir"]
    assert shared["medium"] == "Memory"
    # Pages in it count as the container's memory.
    assert bytes_of(shared["sizeLimit"]) <= bytes_of(container["resources"]["limits"]["memory"]) / 2


@pytest.mark.parametrize("target", [*OVERLAYS, "examples/jobs"])
def test_rays_groups_fit_their_pods(target: str) -> None:
    ray = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert ray
    for part in [part for part in built(K8S / target) if part["kind"] in {"RayCluster", "RayJob"}]:
        cluster = ray_cluster(part)
        assert (cluster["rayVersion"], cluster["authOptions"]["mode"]) == (ray[1], "token")
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "drivers and training would share cores"
        for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
            spec = group["template"]["spec"]
            (shm,) = [volume["emptyDir"] for volume in spec["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"]
            assert int(group["rayStartParams"]["object-store-memory"]) < bytes_of(shm["sizeLimit"])
        for group in cluster["workerGroupSpecs"]:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("target", OVERLAYS)
def test_rays_head_has_memory_for_as_many_jobs_as_the_service_begins(target: str) -> None:
    """docs/kubernetes.md has the measured parts: Ray itself within 1 GiB, 1.5 GiB for each job."""
    (cluster,) = [part["spec"] for part in built(K8S / target) if part["kind"] == "RayCluster"]
    head = cluster["headGroupSpec"]
    (serve,) = [container for pod in pods(built(K8S / target)) for container in pod.containers if container["name"] == "serve"]
    num_jobs = largebatch_parameters(["serve", *serve["args"]])["max_running"]
    requested = head["template"]["spec"]["containers"][0]["resources"]["requests"]["memory"]
    assert bytes_of(requested) >= int((1 + 1.5 * num_jobs) * 2**30) + int(head["rayStartParams"]["object-store-memory"])
    assert head["rayStartParams"]["memory"] == "0", "the service would give the head's memory to training"
    cores = sum(group["minReplicas"] * cores_of(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
                for group in cluster["workerGroupSpecs"])  # fmt: skip
    assert num_jobs >= cores, "else cores stand idle"


@pytest.mark.parametrize("target", OVERLAYS)
def test_the_service_asks_for_the_memory_that_planning_takes(target: str) -> None:
    """Measured: 0.15 GiB itself, 0.75 GiB the process that has planned a ResNet-50."""
    (serve,) = [container for pod in pods(built(K8S / target)) for container in pod.containers if container["name"] == "serve"]
    assert bytes_of(serve["resources"]["requests"]["memory"]) >= 2**30


@EACH
def test_databases_that_hang_are_started_again(pod: Pod) -> None:
    for container in pod.containers:
        if container["name"] in {"redis", "minio"}:
            assert "livenessProbe" in container


@EACH_RAY
def test_a_worker_that_must_go_has_time_to_save(pod: Pod) -> None:
    if pod.name.endswith("/head"):
        return
    drain = {variable["name"]: variable.get("value") for variable in pod.spec["containers"][0]["env"]}["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]
    assert STOP_S <= int(drain or 0) < pod.spec["terminationGracePeriodSeconds"]


def test_the_service_has_time_to_end_in_good_order() -> None:
    (pod,) = [pod for target, pod in ALL if (target, pod.name) == ("overlays/gpu", "Deployment/largebatch")]
    before = pod.spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    reconcilers_pass_s = 30
    assert int(before[1]) + GRACE_S + reconcilers_pass_s < pod.spec["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("target", OVERLAYS)
def test_the_documentation_says_what_stands_while_nothing_trains(target: str) -> None:
    """Rows such as: | local | 2.7 | 12 GiB | ..."""
    (row,) = re.findall(rf"^\| {target.rpartition('/')[2]} \| ([\d.]+) \| (\d+) GiB \|", (ROOT / "docs/kubernetes.md").read_text(), re.MULTILINE)
    standing = [(number, pod) for part in built(K8S / target) for number, pod in replicas(part)]
    requests = [(number, container["resources"]["requests"]) for number, pod in standing for container in pod.spec["containers"]]
    assert float(row[0]) == pytest.approx(sum(number * cores_of(each["cpu"]) for number, each in requests), abs=0.06)
    assert int(row[1]) == round(sum(number * bytes_of(each["memory"]) for number, each in requests) / 2**30)


def replicas(part: Object) -> list[tuple[int, Pod]]:
    """The pods that an object keeps up, and how many of each."""
    if part["kind"] == "RayCluster":
        least = {group["groupName"]: group["minReplicas"] for group in part["spec"]["workerGroupSpecs"]}
        return [(least.get(pod.name.rpartition("/")[2], 1), pod) for pod in pods([part])]
    return [(part["spec"]["replicas"], pod) for pod in pods([part])] if part["kind"] in {"Deployment", "StatefulSet"} else []


def test_gpu_pods_get_gpu_machines_and_the_cuda_image() -> None:
    found = [(target, pod) for target, pod in RAY if "nvidia.com/gpu" in pod.spec["containers"][0]["resources"]["limits"]]
    assert {target for target, _ in found} == {"overlays/gpu", "examples/jobs", "examples/kueue"}
    for _, pod in found:
        assert pod.spec["containers"][0]["image"].endswith("-cuda")
        assert "nvidia.com/gpu" in {toleration["key"] for toleration in pod.spec["tolerations"]}


def test_all_of_one_ray_has_one_image() -> None:
    for target in (*OVERLAYS, *EXAMPLES):
        for part in [part for part in built(K8S / target) if part["kind"] in {"RayCluster", "RayJob"}]:
            assert len({container["image"] for pod in pods([part]) for container in pod.containers}) == 1, (target, part["metadata"]["name"])
