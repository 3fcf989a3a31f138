"""The Helm chart is made of the overlays, and renders to the same objects."""

import filecmp
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from build import built, kubectl
from pods import INGRESS, K8S, ROOT

Object = dict[str, Any]
CHART = K8S / "chart"
BY_HELM = pytest.mark.skipif(shutil.which("helm") is None, reason="there is no helm here")


@pytest.mark.skipif(kubectl() is None, reason="there is no kubectl here, or an old one")
def test_the_chart_is_what_its_maker_makes_of_the_overlays(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(K8S / "make_chart.py"), str(tmp_path)], check=True, timeout=120)
    made = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(made) >= 14
    _, differing, missing = filecmp.cmpfiles(tmp_path, CHART, made, shallow=False)
    assert (differing, missing) == ([], []), "run python k8s/make_chart.py"
    assert {path.name for path in (CHART / "templates").iterdir()} - {Path(name).name for name in made} == {"NOTES.txt"}


def test_the_chart_has_the_projects_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (chart["version"], chart["appVersion"]) == (version, version)


def rendered(*options: str, namespace: str = "largebatch") -> dict[tuple[str, str], Object]:
    command = ["helm", "template", "largebatch", str(CHART), "--namespace", namespace, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return by_name([part for part in yaml.safe_load_all(done.stdout) if part])


def by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
    """All but the namespace, which Helm does not make."""
    return {(part["kind"], part["metadata"]["name"]): part for part in objects if part["kind"] != "Namespace"}


def overlay(name: str) -> dict[tuple[str, str], Object]:
    return by_name(list(built(K8S / "overlays" / name)))


@BY_HELM
def test_the_chart_renders_to_the_overlays_objects() -> None:
    assert rendered() == overlay("cpu")
    assert rendered("--values", str(CHART / "values-gpu.yaml")) == overlay("gpu")


@BY_HELM
def test_an_ingress_and_a_gateway_stand_for_each_other() -> None:
    gateway, ingress = by_name(list(built(K8S / "production/gateway"))), by_name(list(built(K8S / INGRESS)))
    wanted = {name: part for name, part in overlay("cpu").items() if name not in gateway} | ingress
    assert rendered("--set", "ingress.enabled=true,gateway.enabled=false") == wanted


@BY_HELM
def test_without_monitoring_no_kind_of_its_operator_is_there() -> None:
    monitoring = by_name(list(built(K8S / "monitoring")))
    assert rendered("--set", "monitoring.enabled=false").keys() == overlay("cpu").keys() - monitoring.keys()


@BY_HELM
def test_values_of_a_site_are_everywhere() -> None:
    options = ["image.repository=ghcr.io/you/largebatch", "host=lb.site.org", "redis.address=redis.site.org:6379", "service.maxRunning=3",
               "ray.head.nodeSelector.disk=fast", "gateway.annotations.issuer=ours", "storage.className=nfs"]  # fmt: skip
    objects = rendered("--set", ",".join(options), namespace="elsewhere")
    assert "example.com" not in json.dumps(list(objects.values()))
    assert {part["metadata"]["namespace"] for part in objects.values()} == {"elsewhere"}
    cluster = objects["RayCluster", "largebatch"]["spec"]
    assert cluster["gcsFaultToleranceOptions"]["externalStorageNamespace"] == "elsewhere"
    assert cluster["headGroupSpec"]["template"]["spec"]["nodeSelector"] == {"disk": "fast"}
    assert "nodeSelector" not in cluster["workerGroupSpecs"][0]["template"]["spec"]
    assert objects["Gateway", "largebatch"]["metadata"]["annotations"] == {"issuer": "ours"}
    args = objects["Deployment", "largebatch"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[args.index("--max-running") + 1] == "3"


@BY_HELM
def test_the_documented_values_are_values(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/kubernetes.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "my-values.yaml").write_text(text)
    objects = rendered("--values", str(CHART / "values-gpu.yaml"), "--values", str(tmp_path / "my-values.yaml"))
    assert objects["HTTPRoute", "largebatch"]["spec"]["hostnames"] == [yaml.safe_load(text)["host"]]
    assert "example.com" not in json.dumps(list(objects.values()))


@BY_HELM
@pytest.mark.parametrize(("option", "said"), [("service.maxRuning=3", "maxRuning"), ("host=3", "host"), ("ray.gpu.enabled=maybe", "enabled")])
def test_a_value_that_is_none_is_refused(option: str, said: str) -> None:
    done = subprocess.run(["helm", "template", str(CHART), "--set", option], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert said in done.stderr


@BY_HELM
def test_helm_finds_no_fault() -> None:
    done = subprocess.run(["helm", "lint", "--strict", str(CHART)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_uninstall_keeps_the_volumes() -> None:
    claims = [part for name, part in overlay("cpu").items() if name[0] == "PersistentVolumeClaim"]
    assert len(claims) == 2
    assert all(part["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for part in claims)
    assert not [name for name in overlay("cpu") if name[0] == "Secret"]
