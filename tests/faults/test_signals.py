"""Ctrl-C and SIGTERM: the step is finished, saved, and the run goes on later as if never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.checkpoint_files import list_checkpoints
from jobs.tracking.journal import read_records, steps

ROOT = Path(__file__).resolve().parents[2]
NUM_STEPS = 400
DOCUMENT: dict[str, Any] = {
    "name": "signalled",
    "dataset": {"name": "synthetic", "arguments": {"num_train": 500, "num_test": 50, "shape": [1, 12, 12]}},
    "model": {"name": "mlp", "arguments": {"width": 32}},
    "batch": {"global_batch_size": 128, "micro_batch_size": 32},
    "optimizer": {"name": "adamw"},
    "learning_rate": {"base": 0.001},
    "stop": {"steps": NUM_STEPS},
    "evaluation": {"every_epochs": 1000.0},
    "tracking": {"enabled": False},
}
ENGINE = ["-m", "jobs"]
COMMAND = ["-m", "service.cli", "train", "--json"]


def started(door: list[str], *arguments: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *door, "--device", "cpu", *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run_dir_with_steps(runs: Path, process: "subprocess.Popen[str]", num_steps: int) -> Path:
    """The folder of the one run in `runs`, once its journal tells of so many steps."""
    while True:
        assert process.poll() is None, process.communicate()[1]
        for journal in runs.glob("*/records.jsonl"):
            if journal.read_bytes().count(b'"kind":"step"') >= num_steps:
                return journal.parent
        time.sleep(0.002)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The summary of the run that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "spec.json").write_text(json.dumps(DOCUMENT))
    out, err = started(ENGINE, str(folder / "spec.json"), "--output-dir", str(folder / "runs")).communicate(timeout=100)
    assert out, err
    summary: dict[str, Any] = json.loads(out)
    return summary


@pytest.mark.parametrize(("door", "number"), [(ENGINE, signal.SIGTERM), (COMMAND, signal.SIGINT)], ids=["engine SIGTERM", "command SIGINT"])
def test_a_signal_stops_after_the_step_and_the_run_goes_on_later(
    door: list[str], number: signal.Signals, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(DOCUMENT))
    process = started(door, str(tmp_path / "spec.json"), "--output-dir", str(tmp_path / "runs"))
    run_dir = run_dir_with_steps(tmp_path / "runs", process, 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4, err
    summary = json.loads(out)
    assert summary["outcome"] == "stopped"
    assert 3 <= summary["steps"] < NUM_STEPS
    assert f"{number.name}: finishing this step and saving." in " ".join(err.split())
    assert list_checkpoints(run_dir / "checkpoints")[0].step == summary["steps"]
    assert [record.step for record in steps(read_records(run_dir))][-1] == summary["steps"]
    again = "largebatch train" if door == COMMAND else "python -m jobs"
    assert f"Stopped at step {summary['steps']}. Go on with: {again} --resume {run_dir}" in err

    resumed = started(door, "--resume", str(run_dir))
    out, err = resumed.communicate(timeout=100)
    assert resumed.returncode == 0, err
    assert json.loads(out)["parameters_sha256"] == undisturbed["parameters_sha256"]
    assert [record.step for record in steps(read_records(run_dir))] == list(range(1, NUM_STEPS + 1))
