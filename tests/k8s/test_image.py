"""The Dockerfile's promises, read from its text; what its shell does is run here as far as a machine without docker can."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from parsers import largebatch_parameters
from pods import ROOT

TEXT = (ROOT / "Dockerfile").read_text()
PINNED = re.compile(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*")


def instructions() -> list[tuple[str, str]]:
    """(word, rest) of each instruction, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE))
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in joined.splitlines() if line]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for word, rest in instructions():
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest))
    return found


def of(stage: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for each, rest in stage if each == word]


def test_tools_of_the_build_stay_in_its_stage() -> None:
    build, final = stages()
    assert of(build, "FROM")[0].endswith(" AS build")
    assert not [step for step in of(final, "RUN") if re.search(r"\b(pip|apt-get|curl|wget)\b", step)]
    assert {place.split()[0] for place in of(final, "COPY")} == {"--from=build"}


def test_bases_are_pinned_and_the_same() -> None:
    bases = {of(stage, "FROM")[0].split()[0] for stage in stages()}
    assert len(bases) == 1, "a virtual environment is moved between them"
    assert PINNED.fullmatch(bases.pop())


def test_it_runs_as_nobody_in_particular() -> None:
    final = stages()[-1]
    assert of(final, "USER") == ["1000:1000"]
    assert final.index(("USER", "1000:1000")) < final.index(("CMD", of(final, "CMD")[0]))


def test_dependencies_are_those_that_are_tested() -> None:
    installs = re.findall(r"pip install [^;&\n]*", "\n".join(of(stages()[0], "RUN")))
    assert len(installs) == 3
    assert all("--constraint constraints.txt" in install or "--editable ." in install for install in installs)


def test_it_looks_after_its_health_and_starts_the_service() -> None:
    (health,), (command,) = of(stages()[-1], "HEALTHCHECK"), of(stages()[-1], "CMD")
    program = json.loads(health.partition("CMD ")[2])
    assert program[0] == "python"
    compile(program[2], "healthcheck", "exec")
    given = largebatch_parameters(json.loads(command)[1:])
    assert f"127.0.0.1:{given['port']}/healthz" in program[2]
    assert of(stages()[-1], "EXPOSE") == [str(given["port"])]


def test_what_it_copies_is_let_through_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = {name for place in of(stages()[0], "COPY") for name in place.split()[:-1]}
    assert "*" in lines
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize(
    ("variant", "index", "installs"),
    [
        ("cuda", "", ["--constraint constraints.txt --requirement"]),
        ("cpu", "", ["--constraint constraints.txt --requirement"]),
        (
            "cpu",
            "https://example.com/cpu",
            ["--no-deps --constraint constraints.txt --index-url https://example.com/cpu torch torchvision", "--constraint"],
        ),
        ("rocm", "", None),
    ],
)
def test_variants_install_what_they_say(variant: str, index: str, installs: list[str] | None, tmp_path: Path) -> None:
    """The step itself, by a shell, with a pip that only writes down what it is asked."""
    (step,) = [step for step in of(stages()[0], "RUN") if "VARIANT" in step]
    (tmp_path / "pip").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tmp_path / "pip").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "VARIANT": variant, "TORCH_INDEX_URL": index}
    done = subprocess.run(["/bin/sh", "-c", step], env=environment, capture_output=True, text=True, timeout=30)
    if installs is None:
        assert done.returncode == 2
        assert variant in done.stderr
        assert not (tmp_path / "asked").exists()
    else:
        assert done.returncode == 0, done.stderr
        asked = (tmp_path / "asked").read_text().splitlines()
        assert len(asked) == len(installs)
        assert all(line.removeprefix("install ").startswith(wanted) for line, wanted in zip(asked, installs, strict=True))


def test_requirements_are_read_from_the_project(tmp_path: Path) -> None:
    (step,) = [step for step in of(stages()[0], "RUN") if "tomllib" in step]
    script = step.replace("/tmp/requirements.txt", str(tmp_path / "requirements.txt")).replace("python ", f"{sys.executable} ", 1)
    subprocess.run(["/bin/sh", "-ec", script], cwd=ROOT, check=True, timeout=30)
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert (tmp_path / "requirements.txt").read_text().splitlines() == wanted


def test_a_login_shell_finds_the_programs() -> None:
    """KubeRay starts Ray in one, and Debian's profile sets PATH anew."""
    profile = re.search(r"echo '(export PATH=[^']*)' > /etc/profile\.d/", "\n".join(of(stages()[-1], "RUN")))
    assert profile
    told = subprocess.run(["/bin/sh", "-c", f'{profile[1]}; echo "$PATH"'], env={"PATH": "/usr/bin"}, capture_output=True, text=True, check=True)
    environment = dict(pair.split("=", 1) for line in of(stages()[-1], "ENV") for pair in shlex.split(line))
    assert told.stdout.startswith(environment["PATH"].partition(":")[0] + ":")
    assert environment["HOME"] == "/tmp", "the only place that may be written"


def test_the_shell_before_ray_hands_sigterm_on() -> None:
    """KubeRay's command is `ulimit ...; ray start ...`: bash must become the last program, or a run is never told to save."""
    command = "ulimit -n 1024; python3 -c 'import os; print(os.getpid())'"
    with subprocess.Popen(["/bin/bash", "-lc", "--", command], stdout=subprocess.PIPE, text=True) as shell:
        printed, _ = shell.communicate(timeout=30)
    assert int(printed.split()[-1]) == shell.pid
