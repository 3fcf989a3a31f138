"""A person's folder may hold a random.py: our processes take Python's own modules, and the person's where they are asked for."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from largebatch.jobs.entry_points import call_entry_point
from largebatch.jobs.errors import InputError, SpecError
from largebatch.jobs.import_paths import PACKAGES, add_folder, environment, python, refuse_hiding

HIDING = ("random", "largebatch", "logging", "queue", "statistics", "select", "types", "yaml", "mlflow")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, full of names that are somebody else's."""
    for name in HIDING:
        (tmp_path / f"{name}.py").write_text("X = 1\nraise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


@pytest.mark.parametrize("python_path", [None, "", os.pathsep, f"{os.pathsep}/somewhere"])
def test_a_process_of_ours_finds_our_packages_and_nothing_of_the_current_folder(
    python_path: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if python_path is not None:
        monkeypatch.setenv("PYTHONPATH", python_path)
    code = (
        "import random, statistics, queue, yaml, largebatch.jobs.run.records, largebatch, sys; print(largebatch.__file__); sys.exit('' in sys.path)"
    )
    done = subprocess.run(python("-c", code), env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()).parents[1] == PACKAGES
    assert "" not in environment().get("PYTHONPATH", "x").split(os.pathsep)


def test_the_engines_own_command_leaves_the_current_folder_alone(folder: Path) -> None:
    """Python itself looks there for `largebatch`, and for what starts modules, before ours begin."""
    for name in ("largebatch", "types"):
        (folder / f"{name}.py").unlink()
    command = [sys.executable, "-m", "largebatch.jobs", "--help"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_folder_comes_behind_pythons_own_modules_and_before_installed_ones(folder: Path) -> None:
    add_folder(str(folder))
    add_folder(str(folder))
    assert sys.path.count(str(folder)) == 1
    assert sys.path.index(sysconfig.get_path("stdlib")) < sys.path.index(str(folder)) < sys.path.index(sysconfig.get_path("purelib"))


@pytest.mark.parametrize("name", ["random", "largebatch", "yaml"])
def test_an_entry_point_in_a_file_of_anothers_name_is_refused(name: str, folder: Path) -> None:
    __import__(name)
    with pytest.raises(SpecError, match=f"^model.entry_point: {name} is .* to Python, not {folder}/{name}.py. Call your file by another name.$"):
        call_entry_point("model.entry_point", f"{name}:build", {})


@pytest.mark.parametrize("name", HIDING)
def test_ray_is_not_started_where_it_would_import_a_persons_file(name: str, tmp_path: Path) -> None:
    (tmp_path / f"my_{name}.py").touch()
    refuse_hiding(tmp_path)
    (tmp_path / f"{name}.py").touch()
    with pytest.raises(InputError, match=f"{name}.py: Ray's processes search the current folder first"):
        refuse_hiding(tmp_path)


def test_our_own_checkout_hides_nothing() -> None:
    refuse_hiding(PACKAGES)
