"""Submitted jobs, against a real head: follow, list, stop, a further attempt, names that are taken."""

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import launch_runs as runs
import pytest
import typer
from launch_runs import Head
from typer.testing import CliRunner, Result

from largebatch.service.backends.ray_jobs import Job
from largebatch.service.cli.commands.ray_jobs import follow_job
from largebatch.service.cli.main import app
from largebatch.service.cli.main import main as command

pytestmark = pytest.mark.filterwarnings("ignore")


def largebatch(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def submit(head: Head, folder: Path, name: str, *more: str, **parts: Any) -> Result:
    recipe = folder / f"{name}.json"
    recipe.write_text(json.dumps(runs.document(**parts)))
    places = ["--address", head.dashboard, "--output-dir", str(folder), "--data-dir", str(folder), "--device", "cpu", "--python", sys.executable]
    return largebatch("submit", str(recipe), "--name", name, *places, *more)


def jobs(head: Head, *arguments: str) -> Result:
    return largebatch("jobs", *arguments, "--address", head.dashboard)


def test_a_job_from_submission_to_deletion(head: Head, tmp_path: Path) -> None:
    done = submit(head, tmp_path, "first", "--workers", "1", "--cpus-per-worker", "0.5", "--follow", "--env", "COLOUR=blue")
    assert done.exit_code == 0, done.output
    summary = json.loads([line for line in done.output.splitlines() if line.startswith("{")][-1])
    assert (summary["run_id"], summary["world_size"], summary["steps"]) == ("first", 1, runs.STEPS)
    assert runs.steps(tmp_path / "first") == list(range(1, runs.STEPS + 1))
    assert "SUCCEEDED" in jobs(head, "status", "first").output
    assert '"run_id":"first"' in jobs(head, "logs", "first").output
    (listed,) = [job for job in json.loads(jobs(head, "list", "--json").output) if job["name"] == "first"]
    assert listed["status"] == "SUCCEEDED"

    again = submit(head, tmp_path, "first")
    assert (again.exit_code, "has ended well" in str(again.exception)) == (1, True)
    assert "1 attempts forgotten" in jobs(head, "delete", "first").output
    assert "knows no job 'first'" in str(jobs(head, "status", "first").exception)


def packages(folder: Path) -> dict[str, Any]:
    """Code of a person's own, in packages of names that are others' as well. Returns what of a spec names it."""
    for package in ("jobs", "service", "tuning", "models", "data"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text("NUM = 24\n")
    (folder / "models" / "net.py").write_text(
        "import torch, jobs, service\n\n\ndef build(num_classes):\n    return torch.nn.Linear(jobs.NUM, num_classes)\n"
    )
    (folder / "data" / "sets.py").write_text(
        "import torch, tuning\n\n\ndef load():\n    samples = torch.utils.data.TensorDataset(torch.ones(24, 24), torch.arange(tuning.NUM) % 2)\n"
        "    return samples, samples\n"
    )
    return {"dataset": {"entry_point": "data.sets:load"}, "model": {"entry_point": "models.net:build"}, "batch": {"global_batch_size": 8}}


@pytest.mark.slow
def test_a_stopped_job_of_a_persons_own_code_goes_on_under_its_name(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Her packages travel whatever they are called."""
    own = packages(tmp_path / "code")
    monkeypatch.chdir(tmp_path / "code")
    endless = {**own, "stop": {"steps": 1_000_000}, "checkpoint": {"every_steps": 1000, "every_seconds": None}}
    assert submit(head, tmp_path, "second", **endless).exit_code == 0
    taken = submit(head, tmp_path, "second", **endless)
    assert re.search("job second is (running|pending)", str(taken.exception))
    assert "Stop it first" in str(jobs(head, "delete", "second").exception)
    journal = tmp_path / "second" / "records.jsonl"
    runs.wait_for(lambda: journal.exists() and '"step":20,' in journal.read_text(), 60)
    assert "STOPPED" in jobs(head, "stop", "second").output
    stopped_at = runs.steps(tmp_path / "second")[-1]
    assert json.loads((tmp_path / "second" / "summary.json").read_text())["outcome"] == "stopped"

    on = submit(head, tmp_path, "second", "--follow", **{**endless, "stop": {"steps": stopped_at + 10}})
    assert on.exit_code == 0, on.output
    assert runs.steps(tmp_path / "second") == list(range(1, stopped_at + 11))
    attempts = [job["submission_id"] for job in json.loads(jobs(head, "list", "--json").output) if job["name"] == "second"]
    assert attempts == ["second.2", "second"]


@pytest.mark.slow
def test_a_job_that_cannot_run_gives_its_exit_code_and_one_sentence(head: Head, tmp_path: Path) -> None:
    """The next test makes up what Ray says of it."""
    failed = submit(head, tmp_path, "third", "--follow", dataset={"name": "cifar10"})
    assert failed.exit_code == 2
    assert "DataError" in failed.output
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("status", "message", "exit_code", "ends_with", "words"),
    [
        ("SUCCEEDED", "", 0, 0, ""),
        ("STOPPED", "", None, 4, "Stopped. Go on with: largebatch submit ... --name third"),
        ("FAILED", "Logs are at /x.\n  DataError: cifar10 is not there.", 2, 2, "Failed (exit code 2): DataError: cifar10 is not there."),
        ("FAILED", "", None, 1, "Failed (exit code None): no message"),
    ],
)
def test_following_ends_as_the_job_did(status: str, message: str, exit_code: int | None, ends_with: int, words: str, capsys: Any) -> None:

    class Cluster:
        looks = 0

        def follow(self, name: str) -> list[str]:
            return ["step 1\n", "step 2\n"]

        def find(self, name: str) -> Job:
            self.looks += 1  # all of its lines are there before Ray says that it is over
            return Job("third", "third.2", *("RUNNING", "", None) if self.looks == 1 else (status, message, exit_code))

    with pytest.raises(typer.Exit) if ends_with else contextlib.nullcontext() as ended:
        follow_job(Cluster(), "third.2", poll_s=0.0)  # type: ignore[arg-type]
    assert (ended.value.exit_code if ended else 0) == ends_with
    out, err = capsys.readouterr()
    assert (out, err.strip()) == ("step 1\nstep 2\n", words)


@pytest.mark.slow
def test_plain_ray_submits_a_spec_too(head: Head, tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps(runs.document()))
    job = [sys.executable, "-m", "largebatch.jobs", "recipe.json", "--output-dir", tmp_path / "runs", "--run-id", "plain", "--device", "cpu"]
    command_line = [Path(sys.executable).parent / "ray", "job", "submit", "--address", head.dashboard, "--working-dir", folder, "--", *job]
    done = subprocess.run(command_line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"run_id":"plain"' in done.stdout
    assert runs.steps(tmp_path / "runs" / "plain") == list(range(1, runs.STEPS + 1))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--address", "http://127.0.0.1:9", "--output-dir", "/tmp"], "no Ray dashboard answers"),
     (["--address", "127.0.0.1:8265", "--output-dir", "/tmp"], "not the address of a Ray dashboard"),
     (["--address", "http://127.0.0.1:9", "--output-dir", "runs"], "is relative"),
     (["--address", "http://127.0.0.1:9", "--output-dir", "/tmp", "--gpus-per-worker", "1"], "--gpus-per-worker: is for several workers"),
     (["--address", "http://127.0.0.1:9", "--output-dir", "/tmp", "--cpus-per-worker", "1"], "--cpus-per-worker: is for several workers"),
     (["--address", "http://127.0.0.1:9", "--output-dir", "/tmp", "--env", "no"], "KEY=VALUE")],
)  # fmt: skip
def test_submissions_that_make_no_sense(arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["largebatch", "submit", "digits-lamb", *arguments])
    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_ctrl_c_while_following_leaves_the_job_and_says_how_to_look_again(capsys: Any) -> None:
    class Cluster:
        address = "http://10.0.0.1:8265"

        def follow(self, name: str) -> list[str]:
            raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as ended:
        follow_job(Cluster(), "first")  # type: ignore[arg-type]
    assert ended.value.exit_code == 130
    assert "largebatch jobs logs first --follow --address http://10.0.0.1:8265" in capsys.readouterr().err


def test_a_name_that_is_no_name(head: Head, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(runs.document()))
    refused = largebatch("submit", str(recipe), "--name", "../up", "--address", head.dashboard, "--output-dir", str(tmp_path))
    assert "cannot name a job" in str(refused.exception)
