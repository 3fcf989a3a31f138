"""README's commands run as they stand, and what it names exists."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()]


def run(command: str, folder: Path) -> str:
    """A README line through a shell, as a person types it, in a folder of its own."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_commands_run_one_after_the_other(tmp_path: Path) -> None:
    assert len(COMMANDS) >= 8
    for command in COMMANDS:
        assert shlex.split(command)[0] == "largebatch"
        run(command, tmp_path)
    assert (tmp_path / "compare.html").stat().st_size > 100_000
    assert (tmp_path / "runs" / "mlflow.db").is_file()


@pytest.mark.slow
def test_the_study_answers(tmp_path: Path) -> None:
    (command,) = re.findall(r"^ {4}(largebatch study digits.*)$", README, re.M)
    run(command, tmp_path)
    (page,) = (tmp_path / "runs").glob("study-*/sweep/report/report.html")
    assert "Soonest: batch" in page.read_text()


def test_the_complete_example_trains(tmp_path: Path) -> None:
    for name in ("my_code.py", "recipe.yaml"):
        (tmp_path / name).write_bytes((ROOT / "docs" / "own-model" / name).read_bytes())
    out = run("largebatch train recipe.yaml --set stop.epochs=4 --set tracking.enabled=false", tmp_path)
    assert "completed" in out


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_targets_exist(target: str) -> None:
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README):
        path, _, heading = link.partition("#")
        assert (ROOT / path).exists(), link
        if heading:
            headings = [line.lstrip("# ") for line in (ROOT / path).read_text().splitlines() if line.startswith("#")]
            assert heading in [re.sub(r"[^a-z0-9 -]", "", text.lower()).replace(" ", "-") for text in headings], link
