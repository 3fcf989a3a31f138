"""As much of kustomize as k8s/ uses, for machines without kubectl; a test compares the two where there is one."""

import copy
import json
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
FILE = "kustomization.yaml"
KEYS = {"apiVersion", "kind", "namespace", "resources", "labels", "generatorOptions", "configMapGenerator", "images", "patches"}
WITHOUT_NAMESPACE = {"Namespace"}
NEEDED = 5
"""Of kustomize."""


@cache
def kubectl() -> str | None:
    """Where it is, if it is as new as docs/kubernetes.md asks: with kustomize 5, which kubectl 1.27 brought. Debian 12's has 2."""
    found = shutil.which("kubectl")
    if found is None:
        return None
    told = subprocess.run([found, "version", "--client", "--output=json"], capture_output=True, text=True, timeout=60, check=False).stdout
    version = json.loads(told or "{}").get("kustomizeVersion", "v0")
    return found if int(version.lstrip("v").partition(".")[0]) >= NEEDED else None


@cache
def built(folder: Path) -> tuple[Object, ...]:
    """The objects of a kustomization, by kustomize itself where it is; not to be changed."""
    return tuple(with_kubectl(folder) if kubectl() else build(folder))


def with_kubectl(folder: Path) -> list[Object]:
    command = [str(kubectl()), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def build(folder: Path) -> list[Object]:
    """The same by ourselves. Fails on what it does not know."""
    asked = yaml.safe_load((folder / FILE).read_text())
    assert asked.keys() <= KEYS, asked.keys() - KEYS
    objects: list[Object] = []
    for name in asked["resources"]:
        place = (folder / name).resolve()
        objects += build(place) if place.is_dir() else documents(place)
    options = asked.get("generatorOptions", {})
    for generator in asked.get("configMapGenerator", []):
        assert options["disableNameSuffixHash"], "names with a hash are not built here"
        data = {Path(file).name: (folder / file).read_text() for file in generator["files"]}
        metadata = {"name": generator["name"], **({"labels": options["labels"]} if "labels" in options else {})}
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    for patch in asked.get("patches", []):
        targets = [found for found in objects if _is_target(found, patch["target"])]
        assert len(targets) == 1 or "name" not in patch["target"], patch
        for target in targets:
            for operation in yaml.safe_load((folder / patch["path"]).read_text()):
                _apply(target, operation)
    for found in objects:
        if "namespace" in asked and found["kind"] not in WITHOUT_NAMESPACE:
            found["metadata"]["namespace"] = asked["namespace"]
        for given in asked.get("labels", []):
            assert given.keys() == {"pairs"}, "labels of selectors and templates are not built here"
            found["metadata"].setdefault("labels", {}).update(given["pairs"])
        for container in _containers(found):
            container["image"] = _image(container["image"], asked.get("images", []))
    names = [(found["kind"], found["metadata"]["name"]) for found in objects]
    assert len(names) == len(set(names)), "an object is there twice"
    return objects


def documents(path: Path) -> list[Object]:
    """A file's objects; none shares a part with another, however its anchors stand."""
    return [copy.deepcopy(document) for document in yaml.load_all(path.read_text(), _Unshared) if document]


class _Unshared(yaml.SafeLoader):
    """Aliases become copies, so that a change to one place stays there."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        return copy.deepcopy(node) if is_alias else node


def _is_target(found: Object, target: Object) -> bool:
    version = "/".join([*([target["group"]] if "group" in target else []), target["version"]])
    name = found["metadata"]["name"]
    return (found["apiVersion"], found["kind"], name) == (version, target["kind"], target.get("name", name))


def _apply(target: Object, operation: Object) -> None:
    """One operation of RFC 6902."""
    *path, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    here: Any = target
    for part in path:
        here = here[int(part)] if isinstance(here, list) else here[part]
    if isinstance(here, list) and last == "-":
        assert operation["op"] == "add"
        here.append(operation["value"])
        return
    key: Any = int(last) if isinstance(here, list) else last
    if operation["op"] == "replace":
        here[key]  # must be there
        here[key] = operation["value"]
    elif operation["op"] == "add" and isinstance(here, dict):
        here[key] = operation["value"]
    elif operation["op"] == "remove":
        del here[key]
    else:
        raise AssertionError(f"{operation['op']} at {operation['path']} is not built here")


def _containers(part: Any) -> Iterator[Object]:
    """Whatever stands under `containers` or `initContainers`, anywhere: that is where kustomize looks for images."""
    if isinstance(part, list):
        for inner in part:
            yield from _containers(inner)
    elif isinstance(part, dict):
        for key, inner in part.items():
            if key in {"containers", "initContainers"}:
                yield from (container for container in inner if "image" in container)
            yield from _containers(inner)


def _image(image: str, changes: list[Object]) -> str:
    name, _, tag = image.rpartition(":")
    for change in changes:
        if change["name"] == name:
            return f"{change.get('newName', name)}:{change.get('newTag', tag)}"
    return image
