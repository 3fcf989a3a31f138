"""Fields of the custom resources that k8s/ uses, and a check of objects against them: their schemas are on no package index.

Sources. Ray: KubeRay 1.6's "KubeRay CRD API reference" (Ray's documentation, cluster/kubernetes/references/api) and the types it is made
from (ray-project/kuberay, ray-operator/apis/ray/v1/raycluster_types.go and rayjob_types.go). Monitoring: the Prometheus operator's API
reference, monitoring.coreos.com/v1. Kueue: its API reference, kueue.x-k8s.io/v1beta2. Gateway API: its reference, gateway.networking.k8s.io/v1,
the standard channel of 1.2 and later (timeouts).
"""

from typing import Any

ANY = object()
"""Checked elsewhere, or free: pod templates, resources, labels."""
REDIS_CREDENTIAL = {"value": str, "valueFrom": ANY}
AUTOSCALER = {
    "resources": ANY, "image": str, "imagePullPolicy": str, "env": ANY, "envFrom": ANY, "volumeMounts": ANY, "securityContext": ANY,
    "idleTimeoutSeconds": int, "upscalingMode": {"Default", "Aggressive", "Conservative"}, "version": {"v1", "v2"},
}  # fmt: skip
HEAD = {
    "template": ANY, "headService": ANY, "enableIngress": bool, "resources": ANY, "labels": ANY, "rayStartParams": {str: str},
    "serviceType": {"ClusterIP", "NodePort", "LoadBalancer"},
}  # fmt: skip
WORKERS = {
    "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int, "idleTimeoutSeconds": int, "numOfHosts": int, "resources": ANY,
    "labels": ANY, "rayStartParams": {str: str}, "template": ANY, "suspend": bool, "scaleStrategy": ANY,
}  # fmt: skip
CLUSTER = {
    "rayVersion": str,
    "authOptions": {"mode": {"disabled", "token"}, "secretName": str, "enableK8sTokenAuth": bool},
    "gcsFaultToleranceOptions": {
        "redisAddress": str, "redisUsername": REDIS_CREDENTIAL, "redisPassword": REDIS_CREDENTIAL, "externalStorageNamespace": str,
    },
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": AUTOSCALER,
    "upgradeStrategy": {"type": {"Recreate", "None"}},
    "headServiceAnnotations": ANY,
    "suspend": bool,
    "managedBy": str,
    "headGroupSpec": HEAD,
    "workerGroupSpecs": [WORKERS],
}  # fmt: skip
JOB = {
    "entrypoint": str, "runtimeEnvYAML": str, "jobId": str, "submissionMode": {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"},
    "submitterPodTemplate": ANY, "metadata": ANY, "clusterSelector": ANY, "backoffLimit": int, "activeDeadlineSeconds": int,
    "shutdownAfterJobFinishes": bool, "ttlSecondsAfterFinished": int, "suspend": bool, "managedBy": str, "rayClusterSpec": CLUSTER,
}  # fmt: skip
ENDPOINT = {
    "port": str, "path": str, "interval": str, "scrapeTimeout": str, "scheme": str,
    "authorization": {"type": str, "credentials": {"name": str, "key": str}},
}  # fmt: skip
LISTENER = {
    "name": str, "hostname": str, "port": int, "protocol": {"HTTP", "HTTPS", "TLS", "TCP", "UDP"}, "allowedRoutes": ANY,
    "tls": {"mode": {"Terminate", "Passthrough"}, "certificateRefs": [{"group": str, "kind": str, "name": str, "namespace": str}], "options": ANY},
}  # fmt: skip
REDIRECT = {"requestRedirect": {"scheme": {"http", "https"}, "hostname": str, "path": ANY, "port": int, "statusCode": {301, 302, 303, 307, 308}}}
FILTER = {"type": {"RequestRedirect", "URLRewrite", "RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "ExtensionRef"}, **REDIRECT}
ROUTE_RULE = {
    "name": str, "matches": ANY, "filters": [FILTER], "timeouts": {"request": str, "backendRequest": str},
    "backendRefs": [{"group": str, "kind": str, "name": str, "namespace": str, "port": int, "weight": int, "filters": ANY}],
}  # fmt: skip
ROUTE = {
    "parentRefs": [{"group": str, "kind": str, "namespace": str, "name": str, "sectionName": str, "port": int}],
    "hostnames": [str],
    "rules": [ROUTE_RULE],
}
SELECTOR = {"matchLabels": {str: str}}
RULE = {"alert": str, "expr": str, "for": str, "labels": {str: str}, "annotations": {str: str}}
SPECS: dict[tuple[str, str], Any] = {
    ("ray.io/v1", "RayCluster"): CLUSTER,
    ("ray.io/v1", "RayJob"): JOB,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): {"selector": SELECTOR, "endpoints": [ENDPOINT]},
    ("monitoring.coreos.com/v1", "PodMonitor"): {"selector": SELECTOR, "podMetricsEndpoints": [ENDPOINT]},
    ("monitoring.coreos.com/v1", "PrometheusRule"): {"groups": [{"name": str, "rules": [RULE]}]},
    ("gateway.networking.k8s.io/v1", "Gateway"): {"gatewayClassName": str, "listeners": [LISTENER], "addresses": ANY, "infrastructure": ANY},
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): ROUTE,
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"): {"clusterQueue": str},
}
REQUIRED = {
    "headGroupSpec": {"template"}, "workerGroupSpecs": {"groupName", "minReplicas", "maxReplicas", "template"},
    "listeners": {"name", "port", "protocol"}, "parentRefs": {"name"}, "backendRefs": {"name", "port"}, "filters": {"type"},
}  # fmt: skip


def problems(value: Any, fields: Any, place: str = "spec") -> list[str]:
    """What an object has that its kind does not know, or knows otherwise."""
    if fields is ANY:
        return []
    if isinstance(fields, list):
        if not isinstance(value, list):
            return [f"{place} is no list"]
        return [found for number, each in enumerate(value) for found in problems(each, fields[0], f"{place}[{number}]")]
    if isinstance(fields, set):
        return [] if value in fields else [f"{place} is {value!r}, not one of {sorted(fields)}"]
    if isinstance(fields, type):
        return [] if type(value) is fields else [f"{place} is {value!r}, no {fields.__name__}"]
    if not isinstance(value, dict):
        return [f"{place} is no object"]
    if str in fields:
        return [found for key, each in value.items() for found in problems(each, fields[str], f"{place}.{key}")]
    unknown = [f"{place}.{key} is unknown" for key in value if key not in fields]
    needed = REQUIRED.get(place.rpartition(".")[2].partition("[")[0], set())
    missing = [f"{place}.{key} is missing" for key in sorted(needed - value.keys())]
    return [*unknown, *missing, *(found for key in value if key in fields for found in problems(value[key], fields[key], f"{place}.{key}"))]
