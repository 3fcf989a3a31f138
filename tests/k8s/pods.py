"""The pods that built objects ask for, KubeRay's among them, and what they hold."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from small_runs import ROOT

K8S = ROOT / "k8s"
OVERLAYS = ("overlays/local", "overlays/cpu", "overlays/gpu")
EXAMPLES = ("examples/admin", "examples/jobs", "examples/kueue")
INGRESS = "production/ingress"
"""What may stand in place of `production/gateway`."""
Object = dict[str, Any]
TOKENS = "/var/run/secrets/kubernetes.io/serviceaccount"


class Pod(NamedTuple):
    """One pod template."""

    name: str
    """Kind and name of what makes it, and its group."""
    template: Object
    claims: frozenset[str] = frozenset()
    """Volumes that its owner makes for it."""

    @property
    def spec(self) -> Object:
        return self.template["spec"]

    @property
    def labels(self) -> dict[str, str]:
        return self.template["metadata"]["labels"]

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods(objects: Iterable[Object]) -> list[Pod]:
    """Every pod template of these objects."""
    return [pod for each in objects for pod in _pods(each)]


def _pods(part: Object) -> Iterator[Pod]:
    name, spec = f"{part['kind']}/{part['metadata']['name']}", part.get("spec", {})
    if part["kind"] == "Pod":
        yield Pod(name, part)
    elif part["kind"] in {"Deployment", "StatefulSet", "Job"}:
        yield Pod(name, spec["template"], frozenset(claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])))
    elif part["kind"] == "CronJob":
        yield Pod(name, spec["jobTemplate"]["spec"]["template"])
    elif part["kind"] in {"RayCluster", "RayJob"}:
        cluster = ray_cluster(part)
        head = cluster["headGroupSpec"]["template"]
        if cluster.get("enableInTreeAutoscaling"):
            head = {**head, "spec": {**head["spec"], "containers": [*head["spec"]["containers"], autoscaler(part)]}}
        # A RayJob's cluster gets a name of its own each time.
        cluster_name = part["metadata"]["name"] if part["kind"] == "RayCluster" else f"{part['metadata']['name']}-x7k2p"
        yield Pod(f"{name}/head", _with_kuberays_labels(head, cluster_name, "head"))
        for group in cluster["workerGroupSpecs"]:
            yield Pod(f"{name}/{group['groupName']}", _with_kuberays_labels(group["template"], cluster_name, "worker"))


def _with_kuberays_labels(template: Object, cluster: str, kind: str) -> Object:
    own = {"ray.io/cluster": cluster, "ray.io/node-type": kind, "ray.io/is-ray-node": "yes"}
    return {**template, "metadata": {**template["metadata"], "labels": {**template["metadata"]["labels"], **own}}}


def ray_cluster(part: Object) -> Object:
    """A RayCluster's spec, or that which a RayJob brings along."""
    return part["spec"]["rayClusterSpec"] if part["kind"] == "RayJob" else part["spec"]


def autoscaler(part: Object) -> Object:
    """The container that KubeRay puts beside Ray's head: its image, and what the options say."""
    cluster = ray_cluster(part)
    options = cluster["autoscalerOptions"]
    given = {key: options[key] for key in ("env", "resources", "securityContext", "volumeMounts") if key in options}
    return {"name": "autoscaler", "image": cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["image"], **given}


def secret_references(part: Any) -> Iterator[tuple[str, str]]:
    """(secret, key) of every reference below a part of an object."""
    if isinstance(part, list):
        for each in part:
            yield from secret_references(each)
    elif isinstance(part, dict):
        for key, each in part.items():
            if key in {"secretKeyRef", "credentials"}:
                yield each["name"], each["key"]
            elif key == "authOptions":
                yield each["secretName"], "auth_token"
            else:
                yield from secret_references(each)


def bytes_of(quantity: str) -> int:
    """A quantity of memory."""
    for suffix, power in (("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)):
        if quantity.endswith(suffix):
            return int(quantity.removesuffix(suffix)) << power
    return int(quantity)


def cores_of(quantity: str) -> float:
    """A quantity of CPU."""
    return int(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def is_selected(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Whether labels hold everything that a selector of equalities asks."""
    return selector.items() <= labels.items()
