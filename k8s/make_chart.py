"""Makes the Helm chart of the overlays: python k8s/make_chart.py [FOLDER]. Needs kubectl and PyYAML.

The objects are those that kustomize builds of `overlays/gpu`, which has all that `overlays/cpu` has. What a site changes is taken out of them,
place by place (chart_values.py), and becomes a value whose default is what stood there: values.yaml has those of `overlays/cpu`, values-gpu.yaml
what `overlays/gpu` has otherwise.
"""

import argparse
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from chart_values import VALUES, Value

K8S = Path(__file__).resolve().parent
Object = dict[str, Any]
GPU_GROUP = "gpu"
FILES = {"largebatch-recipes": "recipes", "largebatch-sweeps": "sweeps", "largebatch-dashboard": "dashboards"}
"""ConfigMaps, and the chart's folders (links) that their files lie in."""


def main() -> None:
    """Write the chart's generated files."""
    reader = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    reader.add_argument("folder", nargs="?", type=Path, default=K8S / "chart")
    folder = reader.parse_args().folder
    (folder / "templates").mkdir(parents=True, exist_ok=True)
    cpu, gpu, ingress = (built(target) for target in ("overlays/cpu", "overlays/gpu", "production/ingress"))
    defaults, of_gpu = values_of([*cpu, *ingress], [*gpu, *ingress]), values_of([*gpu, *ingress])
    (folder / "values.yaml").write_text(HEADER + values_text(defaults))
    differing = {name: value for name, value in of_gpu.items() if value != defaults[name]}
    (folder / "values-gpu.yaml").write_text("# What k8s/overlays/gpu has otherwise.\n" + values_text(differing))
    (folder / "values.schema.json").write_text(json.dumps(schema_of(tree_of(defaults)), indent=1) + "\n")
    for name, text in templates([*gpu, *ingress]):
        (folder / "templates" / name).write_text(text)


HEADER = "# Made by k8s/make_chart.py: what stands here is what k8s/production and k8s/overlays/cpu have. Give yours with --values.\n"


def built(target: str) -> list[Object]:
    """A kustomization's objects but the namespace, which is Helm's matter."""
    done = subprocess.run(["kubectl", "kustomize", str(K8S / target)], capture_output=True, text=True, check=True)
    return [part for part in yaml.safe_load_all(done.stdout) if part["kind"] != "Namespace"]


# ---- values ------------------------------------------------------------------------------------------------------------


def values_of(*overlays: list[Object]) -> dict[str, Any]:
    """Each value as the first overlay that has its places has it."""
    found: dict[str, Any] = {}
    for value in [value for value in VALUES if value.places]:
        held = next((held for objects in overlays if (held := [each for each in fields(objects, value) if each is not None])), [value.absent])
        assert all(each == held[0] for each in held), f"{value.name} is not the same everywhere"
        assert held[0] is not None, f"no overlay has {value.name}"
        found[value.name] = int(held[0]) if value.is_text else held[0]
    (objects, *_) = overlays
    images = {name: image_of(objects, name) for name in ("Deployment/largebatch", "RayCluster/largebatch")}
    found["image.repository"], _, found["image.tag"] = images["Deployment/largebatch"].rpartition(":")
    found["ray.tag"] = images["RayCluster/largebatch"].rpartition(":")[2]
    found |= {"gateway.enabled": True, "ingress.enabled": False, "monitoring.enabled": True}
    groups = next(part["spec"]["workerGroupSpecs"] for part in objects if part["kind"] == "RayCluster")
    found["ray.gpu.enabled"] = GPU_GROUP in {each["groupName"] for each in groups}
    return {value.name: found[value.name] for value in VALUES}


def image_of(objects: list[Object], name: str) -> str:
    """The first image that an object names."""
    text = json.dumps(next(part for part in objects if f"{part['kind']}/{part['metadata']['name']}" == name))
    return str(re.findall(r'"image": "([^"]+)"', text)[0])


def fields(objects: list[Object], value: Value) -> list[Any]:
    """What stands in a value's places; None where there is nothing."""
    return [owner.get(key) if isinstance(owner, dict) else owner[key] for owner, key in owners(objects, value)]


def owners(objects: list[Object], value: Value) -> Iterator[tuple[Any, Any]]:
    """The objects and lists that hold a value's fields, each with the field's key."""
    for place in value.places:
        name, _, path = place.partition(":")
        for part in objects:
            if name in {f"{part['kind']}/{part['metadata']['name']}", f"{part['kind']}/*"}:
                here: Any = part
                *steps, last = path.split(".")
                for step in steps:
                    here = _step(here, step)
                    if here is None:
                        break
                else:
                    yield here, int(last) if isinstance(here, list) else last


def _step(here: Any, step: str) -> Any:
    """A field, an element by number, or one by its name; None where it is missing."""
    if isinstance(here, dict):
        return here.get(step)
    if step.isdecimal():
        return here[int(step)] if int(step) < len(here) else None
    return next(each for each in here if each["name"] == step)


def tree_of(flat: dict[str, Any]) -> Object:
    """Dotted names as nested objects."""
    tree: Object = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        here = tree
        for step in path:
            here = here.setdefault(step, {})
        here[last] = value
    return tree


def values_text(flat: dict[str, Any]) -> str:
    """values.yaml's text: each value on a line, under what it is."""
    comments = {value.name: value.comment for value in VALUES}
    return "\n".join(_lines(tree_of(flat), comments)) + "\n"


def _lines(tree: Object, comments: dict[str, str], prefix: str = "") -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for key, value in tree.items():
        name = prefix + key
        if name in comments:
            yield f"{indent}# {comments[name]}"
            yield f"{indent}{yaml.safe_dump({key: value}, default_flow_style=True, width=10**6).strip()[1:-1]}"
        else:
            yield f"{indent}{key}:"
            yield from _lines(value, comments, f"{name}.")


def schema_of(value: Any) -> Object:
    """What Helm lets a value be: a misspelt name or a number in a word's place is refused."""
    leaves = {"resources", "nodeSelector", "annotations"}
    if isinstance(value, dict):
        inner = {key: {"type": "object"} if key in leaves else schema_of(each) for key, each in value.items()}
        return {"type": "object", "additionalProperties": False, "properties": {**inner, **({"global": {}} if "host" in value else {})}}
    types = {bool: "boolean", int: "integer", str: "string", list: "array"}
    return {"type": types[type(value)]}


# ---- templates ---------------------------------------------------------------------------------------------------------


def templates(objects: list[Object]) -> Iterator[tuple[str, str]]:
    """The files of the chart's folder `templates`, and their texts."""
    for value in VALUES:
        for owner, key in owners(objects, value):
            owner[key] = f"VALUE {value.name} {'optional' if value.absent is not None else 'text' if value.is_text else 'json'}"
    files: dict[str, list[Object]] = {}
    for part in sorted(objects, key=lambda part: (part["kind"], part["metadata"]["name"])):
        files.setdefault(file_of(part), []).append(part)
    for name, parts in sorted(files.items()):
        text = "---\n".join(template(part) for part in parts)
        switch = {"gateway.yaml": "gateway", "ingress.yaml": "ingress", "monitoring.yaml": "monitoring"}.get(name)
        yield name, f"{{{{- if .Values.{switch}.enabled }}}}\n{text}{{{{- end }}}}\n" if switch else text


def file_of(part: Object) -> str:
    """The file that an object stands in."""
    kind, name = part["kind"], part["metadata"]["name"]
    if name == "largebatch-dashboard" or "Monitor" in kind or kind == "PrometheusRule":
        return "monitoring.yaml"
    if kind in {"Gateway", "HTTPRoute"} or name == "from-gateway":
        return "gateway.yaml"
    if kind == "Ingress" or name == "from-ingress":
        return "ingress.yaml"
    by_kind = {
        "NetworkPolicy": "policies",
        "ServiceAccount": "accounts",
        "PersistentVolumeClaim": "storage",
        "ConfigMap": "configs",
        "CronJob": "backup",
    }
    by_component = {"service": "service", "mlflow": "mlflow", "ray": "ray"}
    return (by_kind.get(kind) or by_component[part["metadata"]["labels"]["app.kubernetes.io/component"]]) + ".yaml"


def template(part: Object) -> str:
    """One object as a template."""
    part["metadata"]["namespace"] = "RELEASE"
    if part["kind"] == "ConfigMap":
        part["data"] = {file: f"FILE {FILES[part['metadata']['name']]}/{file}" for file in part["data"]}
    for options in [part["spec"]["gcsFaultToleranceOptions"]] if part["kind"] == "RayCluster" else []:
        options["externalStorageNamespace"] = "RELEASE"  # one Redis may serve several namespaces
    gpu = ""
    if part["kind"] == "RayCluster":
        (own,) = [each for each in part["spec"]["workerGroupSpecs"] if each["groupName"] == GPU_GROUP]
        part["spec"]["workerGroupSpecs"][-1] = "GPU"
        gpu = re.sub(r"^", "  ", dumped([own]).rstrip("\n"), flags=re.MULTILINE)
    text = dumped(part).replace("  - GPU\n", f"  {{{{- if .Values.ray.gpu.enabled }}}}\n{gpu}\n  {{{{- end }}}}\n")
    image = "'{{ .Values.image.repository }}:{{ .Values.%s }}'"
    text = re.sub(r"(?<=image: )\S+/largebatch:\S+", image % ("ray.tag" if part["kind"] == "RayCluster" else "image.tag"), text)
    text = re.sub(r"FILE (\S+)", r'{{ toJson (.Files.Get "\1") }}', text).replace(": RELEASE\n", ": {{ .Release.Namespace }}\n")
    text = re.sub(r"^( *)(\w+): VALUE (\S+) optional\n", r"\1{{- with .Values.\3 }}\n\1\2: {{ toJson . }}\n\1{{- end }}\n", text, flags=re.MULTILINE)
    text = re.sub(r"VALUE (\S+) text", r"{{ toString .Values.\1 | quote }}", text)
    return re.sub(r"VALUE (\S+) json", r"{{ toJson .Values.\1 }}", text)


def dumped(value: Any) -> str:
    """YAML, in which what a template would take for its own stands as itself."""
    return yaml.dump(value, Dumper=Readable, width=10**6).replace("{{", '{{ "{{" }}')


class Readable(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """No part stands for another."""
        return True


Readable.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None))


if __name__ == "__main__":
    main()
