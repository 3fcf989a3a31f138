"""Ctrl-C, SIGTERM and a terminal that closes: the step is finished, saved, and the run goes on later as if never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import slow
from forked import Forked
from small_runs import ROOT, document, one_thread, prepared, steps, synthetic, trained

from largebatch.jobs.launch.local import train_locally
from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import Record, RunSummary, StepRecord

NUM_STEPS = 40
DOCUMENT = document(
    dataset=synthetic(500, 50, (1, 12, 12)),
    model={"name": "mlp", "arguments": {"width": 32}},
    batch={"global_batch_size": 128, "micro_batch_size": 32},
    optimizer={"name": "adamw"},
    learning_rate={"base": 0.001},
    stop={"steps": NUM_STEPS},
    evaluation={"every_epochs": 1000.0},
)


def unhurried(until: Path) -> dict[str, Any]:
    """A run that takes its time until a file is there: it is not over before it is told to stop, however busy the machine."""
    model = {"entry_point": "slow:build", "arguments": {"width": 32, "until": str(until)}}
    return DOCUMENT | {"dataset": {"name": "digits"}, "model": model, "batch": {"global_batch_size": 128, "micro_batch_size": 128}}


ENGINE = ["-m", "largebatch.jobs"]
COMMAND = ["-m", "largebatch", "train", "--json"]


def started(door: list[str], *arguments: str) -> Forked:
    return Forked(*door, "--device", "cpu", *arguments, PYTHONPATH=os.pathsep.join([str(ROOT), str(Path(slow.__file__).parent)]))


def run_dir_with_steps(runs: Path, process: Forked, num_steps: int) -> Path:
    """The folder of the one run in `runs`, once its journal tells of so many steps."""
    while True:
        assert process.poll() is None, process.communicate()[1]
        for journal in runs.glob("*/records.jsonl"):
            if journal.read_bytes().count(b'"kind":"step"') >= num_steps:
                return journal.parent
        time.sleep(0.002)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    """Of the run that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "quick").touch()
    with one_thread():
        return trained(prepared(**unhurried(folder / "quick")), folder / "run")


def test_a_signal_before_any_step_promises_what_comes(tmp_path: Path) -> None:
    """While the run begins."""
    told: list[str] = []
    listener = Listener(on_start=lambda run_dir: signal.raise_signal(signal.SIGINT), on_notice=told.append)
    with one_thread():
        summary = train_locally(prepared(**DOCUMENT), TrainOptions(output_dir=tmp_path, device="cpu"), listener)
    assert (summary.outcome, summary.steps) == ("stopped", 1)
    assert told == ["SIGINT: ending after the first step, and saving it."]
    assert [saved.step for saved in list_checkpoints(tmp_path / summary.run_id / "checkpoints")] == [1]


@pytest.mark.parametrize(("door", "number"), [(ENGINE, signal.SIGTERM), (COMMAND, signal.SIGINT)], ids=["engine SIGTERM", "command SIGINT"])
def test_a_signal_stops_after_the_step_and_the_run_goes_on_later(
    door: list[str], number: signal.Signals, undisturbed: RunSummary, tmp_path: Path
) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(unhurried(tmp_path / "quick")))
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
    assert steps(run_dir)[-1] == summary["steps"]
    again = "largebatch train" if door == COMMAND else "python -m largebatch.jobs"
    assert f"Stopped at step {summary['steps']}. Go on with: {again} --resume {run_dir}" in err

    (tmp_path / "quick").touch()
    resumed = started(door, "--resume", str(run_dir))
    out, err = resumed.communicate(timeout=100)
    assert resumed.returncode == 0, err
    assert json.loads(out)["parameters_sha256"] == undisturbed.parameters_sha256
    assert steps(run_dir) == list(range(1, NUM_STEPS + 1))


def test_a_run_that_was_stopped_for_a_while_says_so(tmp_path: Path) -> None:
    """By Ctrl-Z, or a scheduler that suspends it: its clock goes on."""
    (tmp_path / "spec.json").write_text(json.dumps(unhurried(tmp_path / "quick")))
    process = started(ENGINE, str(tmp_path / "spec.json"), "--output-dir", str(tmp_path / "runs"))
    run_dir_with_steps(tmp_path / "runs", process, 3)
    process.send_signal(signal.SIGSTOP)
    time.sleep(4.5)
    process.send_signal(signal.SIGCONT)
    (tmp_path / "quick").touch()
    out, err = process.communicate(timeout=100)
    summary = RunSummary.model_validate_json(out)
    assert 3.0 <= summary.stopped_seconds <= summary.wall_seconds
    assert f"The run stood still for {summary.stopped_seconds:.0f} s (Ctrl-Z, SIGSTOP" in " ".join(err.split())


def stopped_by_hang_up(runs: Path) -> RunSummary:
    """A run in this process that gets SIGHUP after its third step."""

    def hang_up(record: Record) -> None:
        if isinstance(record, StepRecord) and record.step == 3:
            os.kill(os.getpid(), signal.SIGHUP)

    job = prepared(**DOCUMENT | {"stop": {"steps": 6}})
    return train_locally(job, TrainOptions(data_dir=Path("nowhere"), output_dir=runs, device="cpu"), Listener(on_record=hang_up))


def test_a_terminal_that_closes_stops_a_run_as_sigterm_does(tmp_path: Path) -> None:
    summary = stopped_by_hang_up(tmp_path)
    assert (summary.outcome, summary.steps) == ("stopped", 3)
    assert list_checkpoints(Path(summary.run_dir) / "checkpoints")[0].step == 3


def test_a_run_under_nohup_goes_on(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        summary = stopped_by_hang_up(tmp_path)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (summary.outcome, summary.steps) == ("completed", 6)


OWN_DATA = """
import ctypes, os
import torch
from torch.utils.data import TensorDataset

def load():
    print("loading")
    os.write(1, b"from a library")
    ctypes.CDLL(None).printf(b"held back by a library in C")
    from random import random  # Python's own
    labels = torch.arange(256) % 2
    return TensorDataset(torch.randn(256, 8), labels), TensorDataset(torch.randn(8, 8), labels[:8])
"""


def test_a_run_whose_output_nobody_reads_goes_on_and_its_answer_stands_alone(tmp_path: Path) -> None:
    """`2>&1 >answer.json | head`, in a folder with files that are called like Python's own modules."""
    for name in ("random", "queue", "statistics", "mlflow"):
        (tmp_path / f"{name}.py").write_text("X = 1\n")
    (tmp_path / "own_data.py").write_text(OWN_DATA)
    own = DOCUMENT | {"dataset": {"entry_point": "own_data:load"}, "evaluation": {"every_epochs": 0.5}, "stop": {"steps": 40}}
    (tmp_path / "spec.json").write_text(json.dumps(own))
    process = subprocess.Popen(
        [sys.executable, "-P", *COMMAND, "spec.json", "--device", "cpu"], cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    seen = ""
    while "Run folder" not in seen:
        seen += process.stderr.readline()
    process.stderr.close()
    assert "loading" in seen
    summary = json.loads(process.stdout.read())
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert (summary["outcome"], summary["steps"]) == ("completed", 40)
    assert list_checkpoints(tmp_path / summary["run_dir"] / "checkpoints")[0].step == 40


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_study_stops_and_says_how_it_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    study = started(["-m", "largebatch", "study"], "digits-small-batch", "--budget", "10m", "--output-dir", str(tmp_path))
    said = ""
    while "1/5 profile" not in said:
        line = study.stderr.readline()
        assert line, said
        said += line
    study.send_signal(number)
    out, err = study.communicate(timeout=100)
    (folder,) = tmp_path.glob("study-*")
    assert (study.returncode, out) == (4, "")
    assert f"Stopped. Go on with: largebatch study --resume {folder}" in err
