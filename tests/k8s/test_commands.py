"""Every command line, recipe and metric's name in k8s/ means something to the program that will read it."""

import contextlib
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from build import built, documents
from parsers import largebatch_parameters
from pods import EXAMPLES, K8S, OVERLAYS, ROOT, Pod, pods, ray_cluster
from prometheus_client.metrics import MetricWrapperBase

from largebatch.jobs.__main__ import read_arguments
from largebatch.jobs.spec.read import read_spec
from largebatch.service.api.routes import operations
from largebatch.service.cli.main import app
from largebatch.service.job import State
from largebatch.tuning.sweep.space import base_spec, groups, read_sweep

Object = dict[str, Any]
TARGETS = (*OVERLAYS, *EXAMPLES)
PLACES = {"/etc/largebatch/recipes": "largebatch-recipes", "/etc/largebatch/sweeps": "largebatch-sweeps"}
FOREIGN = {"sleep", "redis-server", "minio"}
BY_PROMETHEUS = {"pod", "le"}
OTHERS = {"kube_cronjob_status_last_successful_time": {"cronjob"}}
"""Of kube-state-metrics."""
MLFLOW_WARNS = pytest.mark.filterwarnings("ignore::UserWarning")  # when it is imported
METRIC = re.compile(r"(largebatch_\w+|kube_\w+)(?:\{([^}]*)\})?")


def ray_objects(target: str) -> list[Object]:
    return [part for part in built(K8S / target) if part["kind"] in {"RayCluster", "RayJob"}]


def containers() -> Iterator[tuple[str, Pod, Object]]:
    yield from ((target, pod, container) for target in TARGETS for pod in pods(built(K8S / target)) for container in pod.containers)


@MLFLOW_WARNS
def test_containers_command_lines_parse() -> None:
    from mlflow.cli import server

    seen = set()
    for _, _, container in containers():
        words = [*container.get("command", []), *container.get("args", [])]
        if not words:
            continue  # KubeRay's: the test of its parameters is below
        seen.add(words[0])
        if words[0] == "largebatch":
            largebatch_parameters(words[1:])
        elif words[0] == "mlflow":
            assert words[1] == "server"
            assert set(re.findall(r"\$\((\w+)\)", " ".join(words))) <= {variable["name"] for variable in container["env"]}
            assert server.make_context("server", words[2:]).params["serve_artifacts"]
        elif words[:2] == ["python", "-c"]:
            compile(words[2], "command", "exec")
        elif words[:2] == ["sh", "-euc"]:
            subprocess.run(["/bin/sh", "-n", "-c", words[2]], check=True, timeout=60)
        else:
            assert words[0] in FOREIGN, words
    assert seen == {"largebatch", "mlflow", "python", "sh", *FOREIGN}


def test_the_service_listens_where_it_is_asked() -> None:
    for target in OVERLAYS:
        (serve,) = [container for each, _, container in containers() if each == target and container["name"] == "serve"]
        given = largebatch_parameters([*serve["command"], *serve["args"]][1:])
        assert [given["port"]] == [port["containerPort"] for port in serve["ports"]]
        (cluster,) = ray_objects(target)
        assert given["ray_address"] == f"http://{cluster['metadata']['name']}-head-svc:8265", "KubeRay's name of the head's service"
        mounts = [mount["mountPath"] for mount in serve["volumeMounts"]]
        assert all(any(Path(place).is_relative_to(mount) for mount in mounts) for place in (given["runs_dir"], given["data_dir"]))


def test_rays_start_parameters_are_options_of_ray_start() -> None:
    from ray.scripts.scripts import start

    known = {name for parameter in start.params for name in parameter.opts}
    for part in [part for target in TARGETS for part in ray_objects(target)]:
        cluster = ray_cluster(part)
        for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
            assert {f"--{name}" for name in group["rayStartParams"]} <= known


def test_settings_of_the_service_are_known_to_it() -> None:
    commands: list[Any] = [typer.main.get_command(app)]
    known = set()
    for command in commands:
        context = command.make_context("largebatch", [], resilient_parsing=True)
        commands += [command.resolve_command(context, [name])[1] for name in getattr(command, "commands", ())]
        known |= {getattr(parameter, "envvar", None) for parameter in command.params}
    names = {variable["name"] for _, _, container in containers() for variable in container.get("env", [])}
    ours = {name for name in names if name.startswith("LARGEBATCH_")}
    assert "LARGEBATCH_DATABASE_URL" in ours
    assert ours <= known


@MLFLOW_WARNS
def test_settings_of_mlflow_are_known_to_it() -> None:
    from mlflow import environment_variables
    from mlflow.cli import server

    by_command = {parameter.envvar for parameter in server.params}
    names = {variable["name"] for _, _, container in containers() for variable in container.get("env", [])}
    ours = {name for name in names if name.startswith("MLFLOW_")}
    assert ours
    assert all(name in by_command or hasattr(environment_variables, name) for name in ours - {"MLFLOW_DISABLE_TELEMETRY"})


def test_entrypoints_of_ray_jobs_parse_and_their_files_are_mounted(tmp_path: Path) -> None:
    lay_out_configs(tmp_path)
    jobs = [part for part in ray_objects("examples/jobs") if part["kind"] == "RayJob"]
    assert {part["metadata"]["name"] for part in jobs} == {"resnet50-lars", "digits-batches"}
    for part in jobs:
        head = ray_cluster(part)["headGroupSpec"]["template"]["spec"]["containers"][0]
        mounted = {mount["mountPath"] for mount in head["volumeMounts"]}
        words = shlex.split(part["spec"]["entrypoint"])
        assert words[0] == "exec", "a shell between Ray and the program would keep SIGTERM to itself"
        if words[1] == "largebatch":
            given = largebatch_parameters(words[2:])
            file = Path(given["sweep"])
            sweep = read_sweep(tmp_path / file.relative_to("/"))
            assert groups(sweep)
            base_spec(sweep, (tmp_path / file.relative_to("/")).parent)
        else:
            assert words[1:4] == ["python", "-m", "largebatch.jobs"]
            asked = read_arguments(words[4:])
            file = Path(asked.recipe)
            read_spec(str(tmp_path / file.relative_to("/")), asked.overrides)
            assert asked.workers.most == sum(gpus(group) for group in ray_cluster(part)["workerGroupSpecs"])
            assert asked.store is not None
            assert asked.run_id, "a second attempt must go on with the first one's run"
        assert str(file.parent) in mounted


def gpus(group: Object) -> int:
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return group["maxReplicas"] * int(limits["nvidia.com/gpu"])


def lay_out_configs(folder: Path) -> None:
    for place, name in PLACES.items():
        (folder / place.lstrip("/")).mkdir(parents=True)
        for file, text in configs()[name].items():
            (folder / place.lstrip("/") / file).write_text(text)


def configs() -> dict[str, dict[str, str]]:
    return {part["metadata"]["name"]: part["data"] for part in built(K8S / "overlays/gpu") if part["kind"] == "ConfigMap"}


def test_recipes_and_sweeps_are_those_that_come_along(tmp_path: Path) -> None:
    lay_out_configs(tmp_path)
    for place in PLACES:
        files = sorted((tmp_path / place.lstrip("/")).iterdir())
        assert files
        for file in files:
            ours = ROOT / "recipes" / ("sweeps" if place.endswith("sweeps") else "") / file.name
            assert file.read_bytes() == ours.read_bytes(), f"copy {ours} to k8s/base again"
            if place.endswith("recipes"):
                read_spec(str(file))
            else:
                base_spec(read_sweep(file))


def expressions() -> Iterator[tuple[str, str]]:
    objects = built(K8S / "overlays/gpu")
    for rule in [rule for part in objects if part["kind"] == "PrometheusRule" for group in part["spec"]["groups"] for rule in group["rules"]]:
        yield rule["alert"], rule["expr"]
    dashboard = json.loads(configs()["largebatch-dashboard"]["largebatch.json"])
    for panel in dashboard["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])


def exported() -> dict[str, set[str]]:
    """Series that /metrics has, and their labels."""
    found: dict[str, set[str]] = {}
    for collector in vars(operations).values():
        for family in collector.describe() if isinstance(collector, MetricWrapperBase) else []:
            endings = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",)}.get(family.type, ("",))
            found.update({f"{family.name}{ending}": set(collector._labelnames) for ending in endings})
    return found


def test_alerts_and_panels_ask_for_what_the_service_exports() -> None:
    known, used = exported() | OTHERS, set()
    for title, expression in expressions():
        assert all(expression.count(opening) == expression.count(closing) for opening, closing in ("()", "[]", "{}")), title
        asked = METRIC.findall(expression)
        assert asked, title
        for name, matchers in asked:
            used.add(name)
            assert name in known, (title, name)
            for label, values in re.findall(r'(\w+)\s*[=!]~?\s*"([^"]*)"', matchers):
                assert label in known[name] | BY_PROMETHEUS, (title, label)
                assert label != "state" or set(values.split("|")) <= set(State), (title, values)
        labels = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(",")}
        assert labels <= BY_PROMETHEUS.union(*(known[name] for name, _ in asked)), (title, labels)
    told = {"oldest_queued_seconds", "watcher_lag_seconds", "gpus_held", "checkpoint_age_seconds", "backend_up", "reconcile_age_seconds"}
    assert {f"largebatch_{name}" for name in told} <= used


def test_panels_do_not_lie_on_each_other() -> None:
    panels = json.loads(configs()["largebatch-dashboard"]["largebatch.json"])["panels"]
    cells = [
        (x, y) for at in (panel["gridPos"] for panel in panels) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_commands_in_the_documentation_parse() -> None:
    text = (ROOT / "docs/kubernetes.md").read_text() + (K8S / "examples/admin/pod.yaml").read_text()
    lines = [found.strip() for found in re.findall(r"(?:^|-- |`)(largebatch [a-z][^\n#)`|]*)", text, re.MULTILINE)]
    assert len(lines) >= 8
    for line in lines:
        words = shlex.split(line)[1:]
        with pytest.raises(typer.Exit) if "--help" in words else contextlib.nullcontext():
            largebatch_parameters(words)


def test_folders_in_the_documentation_are_there() -> None:
    text = (ROOT / "docs/kubernetes.md").read_text()
    applied = re.findall(r" -([kf]) (k8s/[\w/.-]+)", text)
    assert {place for _, place in applied} >= {"k8s/overlays/local", "k8s/overlays/gpu", "k8s/examples/jobs"}
    for option, place in applied:
        if option == "k":
            assert yaml.safe_load((ROOT / place / "kustomization.yaml").read_text())["resources"]
        else:
            assert documents(ROOT / place)
