"""Who may open a connection to whom, by the NetworkPolicies of the built overlays."""

import copy
from typing import Any

import pytest
from build import built
from network_policies import Peer, may_reach
from pods import INGRESS, K8S, OVERLAYS, pods

Object = dict[str, Any]
HERE = "largebatch"


def ours(name: str, component: str, **labels: str) -> Peer:
    return Peer(name, HERE, {"app.kubernetes.io/part-of": "largebatch", "app.kubernetes.io/component": component, **labels})


SERVICE, MLFLOW, ADMIN, BACKUP = ours("service", "service"), ours("mlflow", "mlflow"), ours("admin", "admin"), ours("backup", "backup")
HEAD, WORKER = ours("head", "ray", **{"ray-node": "head"}), ours("worker", "ray", **{"ray-node": "worker"})
POSTGRES, REDIS, S3, BUCKET = ours("postgres", "postgres"), ours("redis", "redis"), ours("s3", "s3"), ours("bucket", "s3-bucket")
STRANGER = Peer("a pod of ours that no rule knows", HERE, {"app.kubernetes.io/name": "stranger"})
NEIGHBOUR = Peer("a pod of another namespace, with our labels", "other", dict(WORKER.labels))
GATEWAY = Peer("gateway", "envoy-gateway-system", {"app.kubernetes.io/name": "envoy", "gateway.envoyproxy.io/owning-gateway-name": HERE})
IMPOSTOR = Peer("another's gateway", "envoy-gateway-system", {**GATEWAY.labels, "gateway.envoyproxy.io/owning-gateway-name": "other"})
CONTROLLER = Peer("an Ingress controller", "traefik", {"app.kubernetes.io/name": "traefik"})
PROMETHEUS = Peer("prometheus", "monitoring", {"app.kubernetes.io/name": "prometheus"})
OPERATOR = Peer("KubeRay", "kuberay-system", {"app.kubernetes.io/name": "kuberay-operator"})
DNS = Peer("DNS", "kube-system", {"k8s-app": "kube-dns"})
INTERNET = Peer("internet", None, {}, "203.0.113.7")
EVERYWHERE = [
    (PROMETHEUS, SERVICE, 8080, True), (INTERNET, SERVICE, 8080, False), (IMPOSTOR, SERVICE, 8080, False), (CONTROLLER, SERVICE, 8080, False),
    (WORKER, SERVICE, 8080, False), (STRANGER, SERVICE, 8080, False), (NEIGHBOUR, SERVICE, 8080, False),
    # Ray runs whatever reaches it.
    (SERVICE, HEAD, 8265, True), (SERVICE, HEAD, 6379, False), (SERVICE, HEAD, 10001, False), (SERVICE, WORKER, 8265, False),
    (SERVICE, WORKER, 52365, False), (HEAD, WORKER, 33333, True), (WORKER, HEAD, 6379, True), (WORKER, HEAD, 8265, True),
    (WORKER, WORKER, 29500, True),
    *((other, ray, port, False) for other in (INTERNET, GATEWAY, MLFLOW, ADMIN, BACKUP, STRANGER, NEIGHBOUR, OPERATOR)
      for ray in (HEAD, WORKER) for port in (6379, 8080, 8265, 10001, 52365)),
    (PROMETHEUS, HEAD, 8080, True), (PROMETHEUS, WORKER, 8080, True), (PROMETHEUS, HEAD, 8265, False), (PROMETHEUS, WORKER, 52365, False),
    (SERVICE, MLFLOW, 5000, True), (WORKER, MLFLOW, 5000, True), (HEAD, MLFLOW, 5000, True), (SERVICE, MLFLOW, 22, False),
    *((other, MLFLOW, 5000, False) for other in (INTERNET, GATEWAY, PROMETHEUS, ADMIN, STRANGER, NEIGHBOUR)),
    # Outwards: names for all, Kubernetes for the autoscaler, nothing of the world for the service.
    (HEAD, INTERNET, 443, True), (HEAD, INTERNET, 80, False), (SERVICE, INTERNET, 443, False), (SERVICE, INTERNET, 80, False),
    (WORKER, INTERNET, 80, False), (STRANGER, INTERNET, 443, False), (STRANGER, MLFLOW, 5000, False), (MLFLOW, SERVICE, 8080, False),
    (MLFLOW, HEAD, 8265, False),
]  # fmt: skip
LOCAL = [
    (SERVICE, POSTGRES, 5432, True), (MLFLOW, POSTGRES, 5432, True), (ADMIN, POSTGRES, 5432, True), (BACKUP, POSTGRES, 5432, True),
    (GATEWAY, SERVICE, 8080, False), (BACKUP, S3, 9000, False), (BACKUP, SERVICE, 8080, False),
    *((other, POSTGRES, 5432, False) for other in (HEAD, WORKER, PROMETHEUS, GATEWAY, INTERNET, STRANGER, NEIGHBOUR, S3)),
    (HEAD, REDIS, 6379, True), *((other, REDIS, 6379, False) for other in (WORKER, SERVICE, MLFLOW, INTERNET, STRANGER, NEIGHBOUR)),
    (MLFLOW, S3, 9000, True), (WORKER, S3, 9000, True), (HEAD, S3, 9000, True), (BUCKET, S3, 9000, True),
    *((other, S3, 9000, False) for other in (SERVICE, INTERNET, GATEWAY, STRANGER, NEIGHBOUR)),
    (POSTGRES, INTERNET, 443, False), (REDIS, INTERNET, 443, False), (S3, INTERNET, 443, False), (WORKER, INTERNET, 443, False),
    (MLFLOW, INTERNET, 443, False), (HEAD, INTERNET, 8443, True), (WORKER, INTERNET, 8443, False),
]  # fmt: skip
MANAGED = [
    (SERVICE, INTERNET, 5432, True), (MLFLOW, INTERNET, 5432, True), (ADMIN, INTERNET, 5432, True), (BACKUP, INTERNET, 5432, True),
    (GATEWAY, SERVICE, 8080, True), (GATEWAY, SERVICE, 22, False), (BACKUP, INTERNET, 443, False), (WORKER, INTERNET, 5432, False),
    (HEAD, INTERNET, 5432, False), (HEAD, INTERNET, 6379, True), (WORKER, INTERNET, 6379, False), (SERVICE, INTERNET, 6379, False),
    (MLFLOW, INTERNET, 443, True), (WORKER, INTERNET, 443, True),
]  # fmt: skip


def policies(*targets: str) -> list[Object]:
    return [part for target in targets for part in built(K8S / target) if part["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize("target", OVERLAYS)
def test_who_reaches_whom(target: str) -> None:
    found = policies(target)
    table = EVERYWHERE + (LOCAL if target == "overlays/local" else MANAGED)
    wrong = [f"{a.name} -> {b.name}:{port} is not {wanted}" for a, b, port, wanted in table if may_reach(found, a, b, port) != wanted]
    assert not wrong


def test_an_ingress_controller_comes_in_by_its_own_policy() -> None:
    found = policies("overlays/gpu", INGRESS)
    assert may_reach(found, CONTROLLER, SERVICE, 8080)
    assert [other.name for other in (MLFLOW, HEAD, WORKER) for port in (5000, 8080, 8265) if may_reach(found, CONTROLLER, other, port)] == []


@pytest.mark.parametrize("target", OVERLAYS)
def test_everybody_may_ask_for_names(target: str) -> None:
    for pod in (SERVICE, MLFLOW, HEAD, WORKER, ADMIN, BACKUP):
        assert may_reach(policies(target), pod, DNS, 53, "UDP")
        assert may_reach(policies(target), pod, DNS, 53, "TCP")
        assert not may_reach(policies(target), pod, DNS, 5353, "UDP")


def test_the_operator_reaches_heads_where_it_submits_jobs_and_nothing_else() -> None:
    found = policies("overlays/gpu", "examples/jobs")
    assert may_reach(found, OPERATOR, HEAD, 8265)
    assert [port for port in (6379, 8080, 10001, 52365) if may_reach(found, OPERATOR, HEAD, port)] == []
    assert not may_reach(found, OPERATOR, WORKER, 8265)
    assert not may_reach(found, Peer("beside it", "kuberay-system", {}), HEAD, 8265)


@pytest.mark.parametrize(
    ("name", "source", "target", "port"),
    [("service", SERVICE, HEAD, 8265), ("ray-head", SERVICE, HEAD, 8265), ("mlflow", WORKER, MLFLOW, 5000), ("ray", WORKER, HEAD, 6379)],
)
def test_without_its_rule_a_connection_is_refused(name: str, source: Peer, target: Peer, port: int) -> None:
    found = policies("overlays/gpu")
    assert may_reach(found, source, target, port)
    assert not may_reach([part for part in found if part["metadata"]["name"] != name], source, target, port)


def test_without_the_first_rule_everything_is_open_and_that_is_noticed() -> None:
    """What nobody's policy selects is free: the table would say so."""
    found = [part for part in policies("overlays/gpu") if part["metadata"]["name"] != "default-deny"]
    assert may_reach(found, INTERNET, STRANGER, 22)
    assert not may_reach(policies("overlays/gpu"), INTERNET, STRANGER, 22)


def test_a_rule_that_became_wider_is_noticed() -> None:
    found = copy.deepcopy(policies("overlays/gpu"))
    (wide,) = [part for part in found if part["metadata"]["name"] == "ray-head"]
    del wide["spec"]["ingress"][0]["from"]
    assert may_reach(found, INTERNET, HEAD, 8265)


@pytest.mark.parametrize("target", OVERLAYS)
def test_policies_are_about_pods_that_are_there(target: str) -> None:
    """A label that was misspelt selects nothing and forbids nothing."""
    labels = [pod.labels for each in (target, "examples/admin", "examples/jobs") for pod in pods(built(K8S / each))]
    for part in policies(target, "examples/jobs"):
        rules = [*part["spec"].get("ingress", []), *part["spec"].get("egress", [])]
        peers = [peer for rule in rules for peer in [*rule.get("from", []), *rule.get("to", [])]]
        own = [peer["podSelector"] for peer in peers if "podSelector" in peer and "namespaceSelector" not in peer]
        for selector in [part["spec"]["podSelector"], *own]:
            wanted = selector.get("matchLabels", {})
            assert [each for each in labels if wanted.items() <= each.items()], (part["metadata"]["name"], selector)
            for expression in selector.get("matchExpressions", []):
                there = {each.get(expression["key"]) for each in labels}
                assert set(expression["values"]) <= there, (part["metadata"]["name"], expression)
