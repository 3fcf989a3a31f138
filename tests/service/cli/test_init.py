"""`largebatch init`: each project's own tests pass as they stand, its recipe meets its target, and nothing of a person's is written over."""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_line import largebatch
from small_runs import ROOT, trained
from typer.main import get_command

from largebatch.jobs.errors import InputError
from largebatch.jobs.job import prepare
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.spec.read import read_spec
from largebatch.service.cli.commands.init import app

TASKS = sorted(path.name for path in (ROOT / "recipes" / "projects").iterdir())


@pytest.fixture(params=TASKS)
def project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new project of a task, in which Python finds its modules."""
    folder = tmp_path / "made up"
    assert "largebatch train recipe.yaml" in largebatch("init", folder, "--task", request.param).stdout
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    yield folder
    for module in ("data", "model"):
        sys.modules.pop(module, None)


def test_a_new_project_runs_as_it_stands(project: Path, tmp_path: Path) -> None:
    spec = read_spec("recipe.yaml", ["tracking.enabled=false"])
    assert spec.name == "made-up"
    if spec.task.name == "language-modelling":  # the slowest: less, and so no better than it can be by then
        spec = read_spec("recipe.yaml", ["tracking.enabled=false", "stop.target.value=2", "dataset.arguments.num_sentences=700"])
    tests = runpy.run_path("test_project.py")
    tests["test_the_model_takes_the_data"]()
    tests["test_a_short_run_learns"](tmp_path)
    summary = trained(prepare(spec, torch.device("cpu"), project), tmp_path / "run")
    assert summary.outcome is Outcome.REACHED
    assert spec.stop.epochs is not None
    assert summary.epochs <= 0.75 * spec.stop.epochs, "well before its end: larger batches need longer"


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("mine")
    with pytest.raises(InputError, match=r"has model.py already"):
        largebatch("init", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]


def test_the_projects_are_those_that_the_command_offers() -> None:
    (task,) = (option for option in get_command(app).params if option.name == "task")
    assert sorted(task.type.choices) == TASKS  # type: ignore[attr-defined]
