"""The commands of docs/kubernetes.md, as their programs' own parsers and our objects know them: nothing is asked of a cluster."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from build import built, kubectl
from pods import EXAMPLES, INGRESS, K8S, OVERLAYS, ROOT

TEXT = (ROOT / "docs/kubernetes.md").read_text()
BLOCKS = [block for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL) if not language]
INLINE = [words for words in re.findall(r"`((?:kubectl|helm) [^`\n]+)`", TEXT) if len(words.split()) > 2 and not words.endswith(" -k")]
"""Commands in a sentence; `helm upgrade` and `kubectl apply -k` are names of what others do."""
INNER = re.compile(r"\$\(([^()]*)\)")
MADE_BY_OTHERS = {("service", "largebatch-head-svc"), ("job", "backup-now")}
"""By KubeRay, and by the command before."""
KEPT = {"Namespace", "PersistentVolumeClaim", "Secret"}


def commands(program: str) -> list[list[str]]:
    """Every call of a program, also within others, as its words; what a shell would put in is X."""
    found: list[list[str]] = []
    for line in [*(line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()), *INLINE]:
        text = line.partition(" # ")[0]
        for part in [*INNER.findall(text), *INNER.sub("X", text).split(" | ")]:
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"export|sudo|xargs|\w+=.*", words[0]):
                words = words[1:]
            if words[:1] == [program]:
                found.append([word for word in words[1:] if word != "&"])
    return found


def own_words(words: list[str]) -> list[str]:
    """Those before what runs in a container."""
    return words[: words.index("--")] if "--" in words else words


@pytest.mark.parametrize("block", BLOCKS)
def test_a_shell_reads_each_block(block: str) -> None:
    subprocess.run(["/bin/bash", "-n", "-c", block], check=True, timeout=60)


@pytest.mark.skipif(kubectl() is None, reason="there is no kubectl here, or an old one")
def test_kubectl_knows_each_command_and_its_options() -> None:
    """It reads them all before it helps."""
    calls = sorted({tuple(own_words(words)) for words in commands("kubectl")})
    assert len(calls) >= 40
    assert not [problem for words in calls for problem in refused(str(kubectl()), *words)]
    assert list(refused(str(kubectl()), "get", "pods", "--no-such-option"))


@pytest.mark.skipif(shutil.which("helm") is None, reason="there is no helm here")
def test_helm_knows_each_command_and_its_options() -> None:
    calls = [tuple(words) for words in commands("helm")]
    assert len(calls) >= 6
    assert not [problem for words in calls for problem in refused("helm", *words)]


@pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker here")
def test_docker_knows_each_command_and_its_options() -> None:
    """Without a daemon, too."""
    calls = [tuple(words) for words in commands("docker")]
    assert len(calls) >= 6
    assert not [problem for words in calls for problem in refused("docker", *words)]
    assert list(refused("docker", "build", "--no-such-option", "."))


def refused(*command: str) -> Iterator[str]:
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60)
    if done.returncode:
        yield f"{shlex.join(command)}: {done.stderr[:200]}"


def test_what_commands_name_is_there() -> None:
    objects = [part for target in (*OVERLAYS, *EXAMPLES) for part in built(K8S / target)]
    there = {(part["kind"].lower(), part["metadata"]["name"]) for part in objects} | MADE_BY_OTHERS
    short = {"hpa": "horizontalpodautoscaler"}
    named = set()
    for words in commands("kubectl"):
        assert words[0] in {"apply", "diff"} or words[:2] == ["-n", "largebatch"] or words == ["delete", "namespace", "largebatch"], words
        own = own_words(words)
        named |= {(kind, name) for kind, _, name in (word.partition("/") for word in own) if name and re.fullmatch("[a-z]+", kind) and kind != "k8s"}
        if own[2:3] == ["delete"] and "," not in own[3] and len(own) == 5 and own[4] != "--all":
            named.add((short.get(own[3], own[3]), own[4]))
        elif own[2:3] == ["exec"]:
            named.add(("pod", own[3]))
    assert len(named) >= 10
    assert named - there == set()


def test_images_are_built_with_arguments_that_the_dockerfile_knows_and_pushed_as_they_were_named() -> None:
    known = set(re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    builds = [words for words in commands("docker") if words[0] == "build"]
    assert {word.partition("=")[0] for words in builds for flag, word in pairwise(words) if flag == "--build-arg"} <= known
    assert all(words[-1] == "." for words in builds)
    tags = {words[words.index("-t") + 1] for words in builds}
    assert {words[1] for words in commands("docker") if words[0] == "push"} == {tag for tag in tags if "/" in tag}
    local = {container["image"] for part in built(K8S / "overlays/local") if part["kind"] == "Deployment"
             for container in part["spec"]["template"]["spec"]["containers"]}  # fmt: skip
    assert local == {tag for tag in tags if "/" not in tag}


def test_one_command_puts_another_registry_everywhere(tmp_path: Path) -> None:
    (line,) = [line for block in BLOCKS for line in block.splitlines() if line.startswith("grep -rl")]
    shutil.copytree(K8S, tmp_path / "k8s")
    subprocess.run(["/bin/sh", "-euc", line], cwd=tmp_path, check=True, timeout=60)
    assert subprocess.run(["grep", "-r", "registry.example.com", str(tmp_path / "k8s")], capture_output=True).returncode == 1


def test_an_uninstall_takes_all_but_what_holds_data() -> None:
    """Every kind of every overlay is either deleted by name or kept by intent, and every object that goes bears the label."""
    lists = [own[3].split(",") for own in map(own_words, commands("kubectl")) if own[2:3] == ["delete"] and "," in own[3]]
    deleted = {kind for kinds in lists for kind in kinds}
    for target in (*OVERLAYS, INGRESS):
        for part in built(K8S / target):
            if part["kind"] not in KEPT:
                assert part["kind"].lower() in deleted, part["kind"]
                assert target == INGRESS or part["metadata"]["labels"]["app.kubernetes.io/part-of"] == "largebatch", part["metadata"]["name"]
    assert not {kind.lower() for kind in KEPT} & deleted
