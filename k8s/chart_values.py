"""The values of the Helm chart: what a site changes, and where it stands in the objects that kustomize builds."""

from dataclasses import dataclass
from typing import Any

POD = "template.spec"
SERVE, SCALER = "Deployment/largebatch:spec.template.spec.containers.0", "HorizontalPodAutoscaler/largebatch:"
DUMP = "CronJob/largebatch-backup:spec.jobTemplate.spec.template.spec.containers.0"
SHARED = "PersistentVolumeClaim/largebatch-shared:"
RAY = "RayCluster/largebatch:"
HEAD_POD, CPU, GPU = f"{RAY}spec.headGroupSpec.{POD}", f"{RAY}spec.workerGroupSpecs.0", f"{RAY}spec.workerGroupSpecs.1"
GATEWAY, INGRESS = "Gateway/largebatch:", "Ingress/largebatch:"
HOSTS = (
    f"{GATEWAY}spec.listeners.0.hostname", f"{GATEWAY}spec.listeners.1.hostname", "HTTPRoute/largebatch:spec.hostnames.0",
    "HTTPRoute/to-https:spec.hostnames.0", f"{INGRESS}spec.tls.0.hosts.0", f"{INGRESS}spec.rules.0.host",
)  # fmt: skip
MONITORS = ("ServiceMonitor/largebatch", "PodMonitor/largebatch-ray", "PrometheusRule/largebatch")


@dataclass(frozen=True)
class Value:
    """One value of the chart.

    Args:
        name: dotted.
        comment: what it is, for values.yaml.
        places: KIND/NAME:PATH of each field that it stands in; none: it has a place of its own below.
        absent: its default where no overlay has the field, which is then left out unless it is given.
        is_text: whether the field holds the number as a string.
    """

    name: str
    comment: str
    places: tuple[str, ...] = ()
    absent: Any = None
    is_text: bool = False


def group(name: str, what: str, place: str) -> tuple[Value, ...]:
    """The values of a group of Ray's workers."""
    return (
        Value(f"{name}.replicas", f"Pods of {what} at first.", (f"{place}.replicas",)),
        Value(f"{name}.minReplicas", "So many stay: the service begins a job only where there is room for it now.", (f"{place}.minReplicas",)),
        Value(f"{name}.maxReplicas", "Ray's autoscaler makes no more.", (f"{place}.maxReplicas",)),
        Value(f"{name}.resources", "Of each of these pods.", (f"{place}.{POD}.containers.0.resources",)),
        Value(f"{name}.nodeSelector", "Labels of their machines.", (f"{place}.{POD}.nodeSelector",), absent={}),
        Value(f"{name}.tolerations", "Taints of machines that they bear.", (f"{place}.{POD}.tolerations",), absent=[]),
    )


VALUES = (
    Value("host", "The name in people's browsers.", HOSTS),
    Value(
        "tlsSecret", "The secret with its certificate.", (f"{GATEWAY}spec.listeners.1.tls.certificateRefs.0.name", f"{INGRESS}spec.tls.0.secretName")
    ),
    Value("image.repository", "Where you push the image."),
    Value("image.tag", "Of the service and MLflow."),
    Value(
        "image.pullSecrets", "Secrets of the registry; they may be missing.", ("ServiceAccount/*:imagePullSecrets", f"{HEAD_POD}.imagePullSecrets")
    ),
    Value("gateway.enabled", "Whether people come in by a Gateway."),
    Value("gateway.className", "Its GatewayClass: Envoy Gateway's stands here.", (f"{GATEWAY}spec.gatewayClassName",)),
    Value("gateway.annotations", "Of the Gateway, such as cert-manager's.", (f"{GATEWAY}metadata.annotations",), absent={}),
    Value("gateway.from", "Its proxies: peers that a NetworkPolicy lets in.", ("NetworkPolicy/from-gateway:spec.ingress.0.from",)),
    Value("ingress.enabled", "Whether people come in by an Ingress."),
    Value("ingress.className", "Its controller's class: Traefik's stands here.", (f"{INGRESS}spec.ingressClassName",)),
    Value("ingress.annotations", "Of the Ingress, such as cert-manager's.", (f"{INGRESS}metadata.annotations",), absent={}),
    Value("ingress.from", "Its proxies: peers that a NetworkPolicy lets in.", ("NetworkPolicy/from-ingress:spec.ingress.0.from",)),
    Value("service.replicas", "So many pods at least.", ("Deployment/largebatch:spec.replicas", f"{SCALER}spec.minReplicas")),
    Value("service.maxReplicas", "The autoscaler makes no more.", (f"{SCALER}spec.maxReplicas",)),
    Value("service.resources", "Of each; planning takes 0.75 GiB and more.", (f"{SERVE}.resources",)),
    Value("service.maxRunning", "Jobs at a time. Ray's head needs 1.5 GiB for each, and 2 GiB besides.", (f"{SERVE}.args.12",), is_text=True),
    Value("service.mlflowUrl", "MLflow as browsers find it.", (f"{SERVE}.env.LARGEBATCH_MLFLOW_URL.value",)),
    Value("service.rayDashboardUrl", "Ray's dashboard as browsers find it.", (f"{SERVE}.env.LARGEBATCH_RAY_DASHBOARD_URL.value",)),
    Value("mlflow.resources", "Of MLflow's pod.", ("Deployment/mlflow:spec.template.spec.containers.0.resources",)),
    Value("ray.tag", "The image's, of all of Ray: the CUDA variant where there are GPUs."),
    Value("ray.head.resources", "Of Ray's head: see service.maxRunning.", (f"{HEAD_POD}.containers.0.resources",)),
    Value("ray.head.nodeSelector", "Labels of its machine.", (f"{HEAD_POD}.nodeSelector",), absent={}),
    *group("ray.cpu", "workers without GPUs", CPU),
    Value("ray.gpu.enabled", "Whether there are workers with GPUs."),
    *group("ray.gpu", "workers with GPUs", GPU),
    Value(
        "redis.address",
        "Where Ray's head keeps its state; rediss://... where Redis speaks TLS.",
        (f"{RAY}spec.gcsFaultToleranceOptions.redisAddress",),
    ),
    Value("storage.className", "A class whose volumes many machines can write at once.", (f"{SHARED}spec.storageClassName",)),
    Value("storage.size", "Of the volume of runs and data sets.", (f"{SHARED}spec.resources.requests.storage",)),
    Value("backup.schedule", "When the databases are dumped, UTC.", ("CronJob/largebatch-backup:spec.schedule",)),
    Value("backup.image", "Its pg_dump must be of your server's version.", (f"{DUMP}.image",)),
    Value("backup.size", "Of the volume of dumps.", ("PersistentVolumeClaim/largebatch-backups:spec.resources.requests.storage",)),
    Value("networks.kubernetes", "Where Kubernetes itself is, for Ray's autoscaler.", ("NetworkPolicy/ray-head:spec.egress.0.to.0.ipBlock.cidr",)),
    Value("networks.postgres", "Where PostgreSQL is.", ("NetworkPolicy/to-postgres:spec.egress.0.to.0.ipBlock.cidr",)),
    Value("networks.redis", "Where Redis is.", ("NetworkPolicy/to-redis:spec.egress.0.to.0.ipBlock.cidr",)),
    Value("networks.s3", "Where the object store is.", ("NetworkPolicy/to-s3:spec.egress.0.to.0.ipBlock.cidr",)),
    Value("monitoring.enabled", "Whether there are the Prometheus operator, and Grafana's sidecar for the dashboard."),
    Value(
        "monitoring.release", "The label `release` that your Prometheus selects by.", tuple(f"{each}:metadata.labels.release" for each in MONITORS)
    ),
)
