"""Every overlay and example builds, is valid, and refers to nothing that is not there."""

import asyncio
import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
from build import build, built, kubectl, with_kubectl
from custom_fields import SPECS, problems
from pods import EXAMPLES, INGRESS, K8S, OVERLAYS, ROOT, is_selected, pods, secret_references
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

Object = dict[str, Any]
OLDEST, NEWEST = "1.29", "1.37"
ALL = (*OVERLAYS, *EXAMPLES, INGRESS)
LABELS = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")


@pytest.mark.skipif(kubectl() is None, reason="there is no kubectl here, or an old one")
@pytest.mark.parametrize("target", ALL)
def test_our_builder_builds_what_kustomize_builds(target: str) -> None:
    assert by_name(build(K8S / target)) == by_name(with_kubectl(K8S / target))


def by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


@pytest.mark.parametrize("version", [pytest.param(OLDEST, marks=pytest.mark.slow), NEWEST])
def test_objects_are_valid_for_kubernetes_and_their_operators(version: str) -> None:
    mistakes = []
    for part in unique_objects():
        fields = SPECS.get((part["apiVersion"], part["kind"]))
        if fields is None:
            mistakes += schema_problems(part, version)
        else:
            mistakes += [f"{part['kind']}/{part['metadata']['name']}: {found}" for found in problems(part["spec"], fields)]
    for pod in pods(unique_objects()):  # those of custom resources, whose own schemas leave them out above
        metadata = {"name": "pod", **pod.template.get("metadata", {})}
        mistakes += schema_problems({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec}, version, pod.name)
    assert not mistakes


def unique_objects() -> list[Object]:
    texts = dict.fromkeys(json.dumps(part, sort_keys=True) for target in ALL for part in built(K8S / target))
    return [json.loads(text) for text in texts]


def schema_problems(part: Object, version: str, name: str = "") -> list[str]:
    try:
        kubernetes_validate.validate(part, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{name or part['kind'] + '/' + part['metadata']['name']}: {'.'.join(map(str, error.path))}: {error.message}"]
    return []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (("workerGroupSpecs", 0, "minReplica"), "is unknown"),
        (("autoscalerOptions", "version"), "not one of"),
        (("enableInTreeAutoscaling",), "no bool"),
    ],
)
def test_a_custom_resource_with_a_mistake_is_noticed(path: tuple[str | int, ...], said: str) -> None:
    cluster = copy.deepcopy(one("overlays/local", "RayCluster", "largebatch"))
    here = cluster["spec"]
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = "v3"
    assert [found for found in problems(cluster["spec"], SPECS["ray.io/v1", "RayCluster"]) if said in found]


def test_a_field_that_kubernetes_does_not_know_is_noticed() -> None:
    deployment = copy.deepcopy(one("overlays/local", "Deployment", "mlflow"))
    deployment["spec"]["template"]["spec"]["containers"][0]["resource"] = {}
    assert schema_problems(deployment, NEWEST)


def one(target: str, kind: str, name: str) -> Object:
    return by_name(list(built(K8S / target)))[kind, name]


@pytest.mark.parametrize("target", ALL)
def test_label_values_may_be_labels(target: str) -> None:
    """What the schemas do not say."""
    labels = [value for part in built(K8S / target) for value in part["metadata"].get("labels", {}).values()]
    labels += [value for pod in pods(built(K8S / target)) for value in pod.labels.values()]
    assert labels
    assert all(LABELS.fullmatch(value) for value in labels)


@pytest.mark.parametrize("target", OVERLAYS)
def test_everything_lives_in_one_namespace_under_the_restricted_standard(target: str) -> None:
    objects = built(K8S / target)
    (namespace,) = [part for part in objects if part["kind"] == "Namespace"]
    others = {part["metadata"].get("namespace") for part in objects if part is not namespace}
    assert others == {namespace["metadata"]["name"]}
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("target", ["overlays/gpu", INGRESS])
def test_people_come_in_by_tls_to_the_documented_host(target: str) -> None:
    """With the certificate that docs/kubernetes.md has made, and where nothing cuts off streams."""
    objects = built(K8S / target)
    listeners = [each for part in objects if part["kind"] == "Gateway" for each in part["spec"]["listeners"] if each["protocol"] == "HTTPS"]
    certificates = [each["name"] for listener in listeners for each in listener["tls"]["certificateRefs"]]
    certificates += [tls["secretName"] for part in objects if part["kind"] == "Ingress" for tls in part["spec"]["tls"]]
    assert certificates == ["largebatch-tls"]
    assert "secret tls largebatch-tls" in (ROOT / "docs/kubernetes.md").read_text()
    rules = [rule for part in objects if part["kind"] == "HTTPRoute" for rule in part["spec"]["rules"] if "backendRefs" in rule]
    assert all(rule["timeouts"] == {"request": "0s"} for rule in rules)


@pytest.mark.parametrize("target", OVERLAYS)
def test_a_client_writes_no_address_of_its_own(target: str) -> None:
    """uvicorn's own reading of the value: of the addresses that a gateway passes on, the one that it wrote itself."""
    (value,) = {
        entry["value"]
        for pod in pods(built(K8S / target))
        for container in pod.containers
        for entry in container.get("env", [])
        if entry["name"] == "FORWARDED_ALLOW_IPS"
    }
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        told.append(scope["client"][0])

    for gateway in ("10.244.1.7", "100.64.3.2", "172.17.0.5", "192.168.4.4", "fd00::7"):
        headers = [(b"x-forwarded-for", b"10.9.9.9, 8.8.8.8, 203.0.113.5")]
        asyncio.run(ProxyHeadersMiddleware(app, value)({"type": "http", "client": (gateway, 1), "headers": headers}, None, None))  # type: ignore[arg-type,typeddict-item]
    assert set(told) == {"203.0.113.5"}


@pytest.mark.parametrize("target", OVERLAYS)
def test_selectors_find_pods_and_ports(target: str) -> None:
    objects = built(K8S / target)
    there = pods(objects)
    for part in objects:
        spec, name = part.get("spec", {}), f"{part['kind']}/{part['metadata']['name']}"
        if part["kind"] == "Service":
            found = [pod for pod in there if is_selected(spec["selector"], pod.labels)]
            assert found, name
            for port in spec["ports"]:
                assert all(port["targetPort"] in port_names(pod.spec) for pod in found), name
        elif part["kind"] == "PodDisruptionBudget":
            assert [pod for pod in there if is_selected(spec["selector"]["matchLabels"], pod.labels)], name
        elif part["kind"] in {"Deployment", "StatefulSet"}:
            assert is_selected(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]), name
        elif part["kind"] == "PodMonitor":
            found = [pod for pod in there if is_selected(spec["selector"]["matchLabels"], pod.labels)]
            assert found, name
            assert all(endpoint["port"] in port_names(pod.spec) for endpoint in spec["podMetricsEndpoints"] for pod in found), name


@pytest.mark.parametrize("target", OVERLAYS)
def test_the_heads_disruption_budget_counts_no_head_of_a_ray_job(target: str) -> None:
    budget = one(target, "PodDisruptionBudget", "ray-head")["spec"]["selector"]["matchLabels"]
    there = pods([*built(K8S / target), *built(K8S / "examples/jobs")])
    assert [pod.name for pod in there if is_selected(budget, pod.labels)] == ["RayCluster/largebatch/head"]


def port_names(spec: Object) -> set[str]:
    return {port["name"] for container in spec["containers"] for port in container.get("ports", [])}


@pytest.mark.parametrize("target", OVERLAYS)
def test_what_points_at_services_and_deployments_finds_them(target: str) -> None:
    objects = [*built(K8S / target), *built(K8S / INGRESS)]
    services = {part["metadata"]["name"]: part for part in objects if part["kind"] == "Service"}
    for part in objects:
        spec = part.get("spec", {})
        if part["kind"] == "Ingress":
            for backend in [path["backend"]["service"] for rule in spec["rules"] for path in rule["http"]["paths"]]:
                assert backend["port"]["name"] in {port["name"] for port in services[backend["name"]]["spec"]["ports"]}
            assert {host for tls in spec["tls"] for host in tls["hosts"]} == {rule["host"] for rule in spec["rules"]}
        elif part["kind"] == "HTTPRoute":
            gateway = by_name(objects)["Gateway", spec["parentRefs"][0]["name"]]["spec"]
            (listener,) = [each for each in gateway["listeners"] if each["name"] == spec["parentRefs"][0]["sectionName"]]
            assert spec["hostnames"] == [listener["hostname"]]
            for backend in [backend for rule in spec["rules"] for backend in rule.get("backendRefs", [])]:
                assert backend["port"] in {port["port"] for port in services[backend["name"]]["spec"]["ports"]}
        elif part["kind"] == "ServiceMonitor":
            found = [each for each in services.values() if is_selected(spec["selector"]["matchLabels"], each["metadata"]["labels"])]
            assert len(found) == 1
            assert spec["endpoints"][0]["port"] in {port["name"] for port in found[0]["spec"]["ports"]}
        elif part["kind"] == "HorizontalPodAutoscaler":
            scaled = by_name(objects)["Deployment", spec["scaleTargetRef"]["name"]]
            assert scaled["spec"]["replicas"] >= spec["minReplicas"] >= 2
        elif part["kind"] == "StatefulSet":
            assert spec["serviceName"] in services


@pytest.mark.parametrize("target", [*OVERLAYS, "examples/jobs"])
def test_mounted_volumes_exist_with_their_keys(target: str) -> None:
    overlay = built(K8S / (target if target in OVERLAYS else "overlays/gpu"))  # an example stands on an overlay
    configs = {part["metadata"]["name"]: part["data"] for part in overlay if part["kind"] == "ConfigMap"}
    claims = {part["metadata"]["name"] for part in overlay if part["kind"] == "PersistentVolumeClaim"}
    accounts = {part["metadata"]["name"] for part in overlay if part["kind"] == "ServiceAccount"}
    for pod in pods(built(K8S / target)):
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        mounted = {mount["name"] for container in pod.containers for mount in container.get("volumeMounts", [])}
        assert mounted == volumes.keys() | pod.claims, pod.name
        assert pod.spec.get("serviceAccountName", next(iter(accounts))) in accounts, pod.name
        for volume in volumes.values():
            if "configMap" in volume:
                data = configs[volume["configMap"]["name"]]
                assert data, volume
                assert all(item["key"] in data for item in volume["configMap"].get("items", []))
            elif "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims


@pytest.mark.parametrize("target", ["overlays/local", *EXAMPLES])
def test_the_local_overlay_holds_every_secret(target: str) -> None:
    held = {(part["metadata"]["name"], key) for part in built(K8S / "overlays/local") if part["kind"] == "Secret" for key in part["stringData"]}
    assert set(secret_references(list(built(K8S / target)))) <= held


@pytest.mark.parametrize("target", [*OVERLAYS, *EXAMPLES])
def test_the_documentation_says_which_secrets_are_needed(target: str) -> None:
    assert set(secret_references(list(built(K8S / target)))) - set(documented_secrets()) <= {("largebatch-postgres", "password")}  # the demo's own


def test_the_documentation_names_no_secret_that_nobody_reads() -> None:
    assert set(documented_secrets()) == set(secret_references(list(built(K8S / "overlays/gpu"))))


def documented_secrets() -> Iterator[tuple[str, str]]:
    """Rows such as: | `largebatch-redis` | `password` | what it is |."""
    for name, keys in re.findall(r"^\| `(largebatch-[a-z0-9-]+)` \| ([^|]+) \|", (ROOT / "docs/kubernetes.md").read_text(), re.MULTILINE):
        yield from ((name, key) for key in re.findall(r"`([^`]+)`", keys))
