"""Sweeps on this machine alone, in its warm processes: from a file to an answer, within a budget, stopped; and what is refused before."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line import said
from small_runs import starts, wait_for
from small_sweeps import ASHA, Sweeps, assert_ended_within_their_group, folder_of, sweep_file, under_way

from largebatch.tuning.results.collect import collect
from largebatch.tuning.results.run_folders import ended_runs
from largebatch.tuning.sweep.ledger import Ledger, begin_sweep
from largebatch.tuning.sweep.space import base_spec, read_sweep
from largebatch.tuning.sweep.trials.warm.warm_processes import WarmProcesses

ONE_AT_A_TIME = {"max_concurrent": 1}
"""In one warm process, for each takes seconds to import what trains."""


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmProcesses]:
    with WarmProcesses() as processes:
        processes.provide(1)
        processes.get_ready(60.0)
        yield processes


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, warm: WarmProcesses, blank_pictures: None) -> Sweeps:
    """The command with a process that has imported what trains: those that `under_way` starts begin processes of their own."""
    monkeypatch.setattr("largebatch.tuning.sweep.trials.choose.WarmProcesses", lambda: nullcontext(warm))
    return Sweeps(tmp_path, capsys)


def test_a_sweep_of_a_regression_takes_the_lowest_error_for_the_best(run: Sweeps, tmp_path: Path) -> None:
    """Of rmse, less is better: a search that took the most would keep the rate that hardly learns."""
    error = {"metric": "rmse", "value": 68.0}
    out, _ = run(
        "--json",
        recipe="diabetes-regression",
        set={"stop.epochs": 8, "stop.target": error, "stop.at_target": True, "evaluation.every_epochs": 1},
        each={"batch.global_batch_size": [16, 64]},
        search={"method": "grid", "space": {"learning_rate.base": [0.0001, 0.02]}},
        resources=ONE_AT_A_TIME,
    )
    answer = json.loads(out)
    assert [row["global_batch_size"] for row in answer["batches"]] == [16, 64]
    assert [row["learning_rate"] for row in answer["batches"]] == [0.02, 0.02]  # what learns too slowly stays near 160
    small, large = (row["best_score"] for row in answer["batches"])
    assert small["high"] < error["value"] < large["low"] < 160
    assert [row["steps_to_target"]["num_reached"] for row in answer["batches"]] == [2, 0]


def test_a_sweep_says_when_it_began_and_what_it_is_called(tmp_path: Path) -> None:
    spec = read_sweep(sweep_file(tmp_path))
    before = time.time()
    begin_sweep(tmp_path / "named", spec, base_spec(spec, tmp_path), name="a study")
    begin_sweep(tmp_path / "unnamed", spec, base_spec(spec, tmp_path))
    named, unnamed = (json.loads((tmp_path / folder / "parent.json").read_text()) for folder in ("named", "unnamed"))
    assert (named["name"], unnamed["name"]) == ("a study", None)
    assert before <= named["began_at_s"] < unnamed["began_at_s"] <= time.time()


def test_every_run_diverging_is_a_result(run: Sweeps) -> None:
    out, _ = run(search={"method": "grid", "space": {"learning_rate.base": [1e30, 1e33]}}, repeats=3, resources=ONE_AT_A_TIME)
    assert "6 of 6 runs diverged" in out
    assert "No batch size reached the target" in out


def test_asha_ends_runs_within_their_group_only(run: Sweeps, tmp_path: Path) -> None:
    run(**ASHA, resources=ONE_AT_A_TIME)
    assert_ended_within_their_group(folder_of(tmp_path / "runs"))


def test_asking_to_stop_leaves_a_sweep_that_goes_on(tmp_path: Path) -> None:
    parts: dict[str, Any] = {"set": {"stop.epochs": 400, "stop.target_accuracy": 0.9999}, "repeats": 0, "resources": ONE_AT_A_TIME}
    with under_way(tmp_path, None, "records.jsonl", **parts) as sweep:
        sweep.send_signal(signal.SIGINT)
        _, errors = sweep.communicate(timeout=90)
    assert sweep.returncode == 4, errors
    assert "sweep --resume" in errors
    assert folder_of(tmp_path / "runs").is_dir()


def test_a_killed_sweep_leaves_no_process_and_goes_on(run: Sweeps, tmp_path: Path) -> None:
    """Killed in its second run."""
    parts: dict[str, Any] = {
        "set": {"stop.epochs": 40, "checkpoint.every_steps": 10, "evaluation.every_epochs": 1},
        "each": {"batch.global_batch_size": [256]},
        "search": {"method": "grid", "space": {"learning_rate.base": [0.1, 0.2]}},
        "repeats": 0,
        "resources": ONE_AT_A_TIME,
    }
    with under_way(tmp_path, None, "checkpoints/step-*.pt", **parts) as sweep:
        folder = folder_of(tmp_path / "runs")
        wait_for(lambda: any(folder.glob("0001-*/checkpoints/step-*.pt")), 60, sweep)
        started = psutil.Process(sweep.pid).children(recursive=True)
        assert len(started) >= 2, "a warm process, and the child that trains"
        sweep.kill()
    _, alive = psutil.wait_procs(started, 60)
    assert alive == []
    (before,) = folder.glob("*/summary.json")
    when = before.stat().st_mtime_ns
    run("--resume", folder)
    ledger = Ledger(folder)
    assert [trial.number for trial in ledger.trials] == [0, 1]
    assert all(ledger.is_over(trial) for trial in ledger.trials)
    assert before.stat().st_mtime_ns == when, "a finished run is kept"
    assert all(result.summary.epochs == 40 for result in collect(ended_runs(folder)))
    assert [record.step > 0 for record in starts(folder / ledger.trials[1].run_id)] == [False, True], "from its checkpoint"


def test_a_sweep_ends_with_its_seconds_and_says_so(run: Sweeps, tmp_path: Path) -> None:
    """Its group's repeats wait for runs that were cut short; nothing may wait with them."""
    parts: dict[str, Any] = {
        "set": {"stop.epochs": 4000, "stop.target_accuracy": 0.9999},
        "each": {"batch.global_batch_size": [128]},
        "search": {"method": "grid", "space": {"learning_rate.base": [1e30, 0.1, 0.2]}},
        "budget": {"seconds": 4.0},
        "resources": ONE_AT_A_TIME,
    }
    out, err = run(**parts)
    assert "The budget of 4 s is spent; 1 runs ended." in err
    assert "No batch size reached the target" in out
    folder = folder_of(tmp_path / "runs")
    assert (folder / "report" / "report.html").is_file()
    ledger = Ledger(folder)
    assert [trial.number for trial in ledger.trials] == [0, 1], "none begins when the time is up"
    assert list((folder / ledger.trials[1].run_id / "checkpoints").iterdir()), "the one under way was saved"


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"budget": {"trials": 3}}, "Allow 12"),
        ({"recipe": "digits-smal-batch"}, "Did you mean digits-small-batch"),
        ({"each": {"batch.global_batch_size": [10**6]}}, "1000000 is more than the 1437 samples"),
    ],
)
def test_what_is_refused_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], parts: dict[str, Any], words: str) -> None:
    code, _, err = said(capsys, "sweep", str(sweep_file(tmp_path, **parts)), "--output-dir", str(tmp_path / "runs"), "--device", "cpu")
    assert code == 2, err
    assert words in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("records.jsonl"))
