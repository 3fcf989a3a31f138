"""Warm processes: each run is as in a process of its own, whatever the one before it did.

That none outlives its sweep is in test_sweep_here.py.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from made_runs import BASE

from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.journal import read_records
from largebatch.jobs.run.leashed_process import LeashedProcess
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import RunSummary, StartRecord
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.sweep.space import with_fields
from largebatch.tuning.sweep.trials.processes import Lost, News
from largebatch.tuning.sweep.trials.resources import Shares, TrialOptions, TrialReport
from largebatch.tuning.sweep.trials.warm.warm_processes import PATIENCE_S as LEASH_S
from largebatch.tuning.sweep.trials.warm.warm_processes import WarmProcesses

PATIENCE_S = 120
SHORT = with_fields(BASE, {"tracking.enabled": False, "stop": {"epochs": 2.0}, "evaluation.every_epochs": 1.0})
LONG = with_fields(SHORT, {"stop": {"epochs": 4000.0}, "checkpoint.every_steps": 20})
UNTIDY = """
import os, threading
import torch
from torch import nn

CALLS = []

def build(num_classes, fails):
    CALLS.append(1)
    assert len(CALLS) == 1 and "LEFT" not in os.environ and torch.get_default_dtype() is torch.float32, "left by another run"
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, num_classes))
    os.environ["LEFT"] = "here"
    os.chdir("/")
    nn.Linear.reset_parameters = lambda self: None
    nn.modules.module.register_module_forward_hook(lambda module, inputs, output: output * 2)
    threading.Thread(target=threading.Event().wait).start()
    print("a line of the model's")
    if fails:
        torch.set_default_dtype(torch.float64)
        raise RuntimeError("as it must")
    return model
"""


def options(folder: Path) -> TrialOptions:
    return TrialOptions(folder, Path("data").resolve(), Shares(1, float(torch.get_num_threads()), 0.0, "cpu", 1), None)


def heard(processes: WarmProcesses) -> News:
    """The next that a process tells."""
    for _ in range(PATIENCE_S):
        if news := processes.wait(1.0):
            return news[0]
    raise AssertionError("no process tells anything")


def free(processes: WarmProcesses) -> LeashedProcess:
    """A process that is ready."""
    for _ in range(PATIENCE_S):
        processes.provide(1)
        if (process := processes.take()) is not None:
            return process
        assert processes.wait(1.0) == []
    raise AssertionError("no process is ready")


def trained(processes: WarmProcesses, folder: Path, run_id: str, spec: TrainSpec) -> TrialReport:
    """A run to its end."""
    process = free(processes)
    processes.begin(process, spec, options(folder), run_id)
    while isinstance(report := heard(processes).what, TrialReport) and not report.is_over:
        processes.go_on(process, ends_early=False)
    processes.release(process)
    assert isinstance(report, TrialReport)
    return report


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmProcesses]:
    """Begun in a folder where a person's model lies."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "untidy_model.py").write_text(UNTIDY)
    with contextlib.chdir(folder), WarmProcesses() as made:
        made.provide(1)
        yield made


def child_of(process: LeashedProcess) -> psutil.Process:
    """The one that trains its run."""
    (child,) = psutil.Process(process.popen.pid).children()
    return child


def result(run_dir: Path) -> RunSummary:
    return RunSummary.model_validate_json((run_dir / run_folder.SUMMARY).read_text())


def test_a_run_is_bit_for_bit_as_in_a_process_of_its_own(processes: WarmProcesses, tmp_path: Path) -> None:
    """After models that patch a library, hook every module, change folders and settings, leave threads, or fail."""
    untidy, failing = (with_fields(SHORT, {"model": {"entry_point": "untidy_model:build", "arguments": {"fails": fails}}}) for fails in (False, True))
    reports = [trained(processes, tmp_path, f"run-{number}", spec) for number, spec in enumerate([untidy, failing, untidy, SHORT])]
    assert [report.error is None for report in reports] == [True, False, True, True], reports
    assert "as it must" in (reports[1].error or "")
    assert result(tmp_path / "run-0").parameters_sha256 == result(tmp_path / "run-2").parameters_sha256
    alone = run_job(prepare(SHORT, torch.device("cpu"), Path("data")), run_folder.create(tmp_path, "alone"), Listener())
    warm = result(tmp_path / "run-3")
    assert (warm.parameters_sha256, warm.score, warm.steps) == (alone.parameters_sha256, alone.score, alone.steps)
    assert "a line of the model's" in (tmp_path / "trials.log").read_text()


def test_runs_wait_at_evaluations_and_outlive_the_death_of_a_child(processes: WarmProcesses, tmp_path: Path) -> None:
    process = free(processes)
    processes.begin(process, SHORT, options(tmp_path), "early")
    first = heard(processes).what
    assert isinstance(first, TrialReport)
    assert (first.is_over, first.samples_seen) == (False, 1437)
    processes.go_on(process, ends_early=True)
    over = heard(processes).what
    assert isinstance(over, TrialReport)
    assert (over.is_over, over.samples_seen) == (True, 1437 + 32), "one step more"
    processes.release(process)

    process = free(processes)
    processes.begin(process, LONG, options(tmp_path), "long")
    assert heard(processes).process is process
    processes.go_on(process, ends_early=False)
    assert isinstance(heard(processes).what, TrialReport)
    child_of(process).kill()
    assert heard(processes) == News(process, Lost())
    again = free(processes)
    assert again.popen.pid == process.popen.pid, "what has imported everything stays"
    processes.begin(again, LONG, options(tmp_path), "long")
    assert isinstance(heard(processes).what, TrialReport)
    starts = [record.step > 0 for record in read_records(tmp_path / "long") if isinstance(record, StartRecord)]
    assert starts == [False, True], "from its checkpoint"
    processes.go_on(again, ends_early=True)
    over = heard(processes).what
    assert isinstance(over, TrialReport)
    assert over.is_over
    processes.release(again)


def test_a_process_that_still_begins_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that reads no end of its leash: it would be given LEASH_S to end by itself."""
    endless = tmp_path / "python"
    endless.write_text("#!/bin/sh\nexec sleep 600\n")
    endless.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(endless))
    others = {child.pid for child in psutil.Process().children()}
    with WarmProcesses() as processes:
        processes.provide(1)
        (begun,) = [child for child in psutil.Process().children() if child.pid not in others]
        ends_s = time.monotonic()
    assert time.monotonic() - ends_s < LEASH_S
    assert not begun.is_running()


def test_a_process_that_cannot_begin_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with WarmProcesses() as processes:
        processes.provide(1)
        assert heard(processes) == News(None, Lost())
