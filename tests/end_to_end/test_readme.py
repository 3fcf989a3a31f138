"""README's commands run as they stand, and what it names exists."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from small_runs import ROOT, trained

from largebatch.jobs.data.make_tokens import byte_tokenizer, make_tokens
from largebatch.jobs.job import prepare
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.spec.read import read_spec

README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()]


def run(command: str, folder: Path, timeout_s: float = 120) -> str:
    """A README line through a shell, as a person types it, in a folder of its own."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s)
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


EXAMPLES = ROOT / "docs" / "own-model"


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A copy of the folder of complete examples."""
    for path in (*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.yaml")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_the_complete_example_trains(examples: Path) -> None:
    out = run("largebatch train recipe.yaml --set stop.epochs=4 --set tracking.enabled=false", examples)
    assert "completed" in out


@pytest.mark.parametrize(("name", "metric"), [("text", "loss"), ("pairs", "recall_at_1"), ("table", "r2"), ("focal", "accuracy")])
def test_the_examples_of_other_tasks_train(name: str, metric: str, examples: Path) -> None:
    """In this process; the score they aim at is met, of text, which takes longer, the one of guessing is left behind."""
    few = ["stop.epochs=1", "stop.target=null", "model.arguments.depth=1"] if name == "text" else []
    if name == "text":
        make_tokens(sorted((ROOT / "docs").glob("*.md"))[:4], examples / "data" / "text", byte_tokenizer())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(examples)
        patch.setattr(sys, "path", [*sys.path, str(examples)])
        job = prepare(read_spec(f"{name}.yaml", ["tracking.enabled=false", *few]), torch.device("cpu"), examples / "data")
        summary = trained(job, examples / "run")
        for module in ("my_code", "my_tasks"):
            sys.modules.pop(module, None)
    assert summary.headline.name == metric
    assert summary.score < 5.0 if name == "text" else summary.outcome is Outcome.REACHED


def test_the_recipes_shown_are_those_of_the_examples() -> None:
    shown = re.findall(r"```yaml\n# (\w+\.yaml), .*?\n(.*?)```", README, re.S)
    assert {name for name, _ in shown} == {path.name for path in EXAMPLES.glob("*.yaml")} - {"recipe.yaml"}
    for name, text in shown:
        assert yaml.safe_load(text).items() <= yaml.safe_load((EXAMPLES / name).read_text()).items(), name


@pytest.mark.slow
def test_the_study_of_two_towers_answers(examples: Path) -> None:
    (command,) = re.findall(r"^ {4}(largebatch study pairs.*)$", README, re.M)
    run(command, examples, timeout_s=400)
    (page,) = (examples / "runs").glob("study-*/sweep/report/report.html")
    assert "Soonest: batch" in page.read_text()
    assert "recall_at_1" in page.read_text()


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
