"""A run of a sweep in the process that Ray gave it, and what a sweep says of its runs."""

from pathlib import Path

import pytest
import torch
from made_sweeps import BASE

from largebatch.tuning.sweep.begin import resume_command
from largebatch.tuning.sweep.space import with_fields
from largebatch.tuning.sweep.sweep import SweepProgress
from largebatch.tuning.sweep.trials.process import TrialProcess
from largebatch.tuning.sweep.trials.resources import Shares, TrialOptions

FOUR_EPOCHS = with_fields(BASE, {"tracking.enabled": False, "stop.epochs": 4, "stop.at_target": False, "evaluation.every_epochs": 1})


def options(folder: Path) -> TrialOptions:
    return TrialOptions(folder, Path("data"), Shares(1, float(torch.get_num_threads()), 0.0, "cpu", 1), None)


def test_a_run_waits_at_each_evaluation_and_ends_where_it_is_told_to(tmp_path: Path) -> None:
    process = TrialProcess(options(tmp_path))
    reports = [process.begin(FOUR_EPOCHS, "0000")]
    reports += [process.go_on(ends_early=False), process.go_on(ends_early=True)]
    assert [(report.samples_seen, report.is_over) for report in reports] == [(1437, False), (2874, False), (2906, True)], "one step more"
    assert all(report.error is None for report in reports)
    reports = [process.begin(FOUR_EPOCHS, "0000"), process.go_on(ends_early=False), process.go_on(ends_early=False)]
    assert [(report.samples_seen, report.is_over) for report in reports] == [(3 * 1437, False), (4 * 1437, False), (4 * 1437, True)]


@pytest.mark.parametrize(("line", "words"), [("raise KeyError('no such weights')", "no such weights"), ("raise SystemExit(3)", "SystemExit: 3")])
def test_a_model_that_raises_fails_its_run_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, words: str) -> None:
    module = f"broken_model_{len(line)}"
    (tmp_path / f"{module}.py").write_text(f"def build(num_classes):\n    {line}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    report = TrialProcess(options(tmp_path)).begin(with_fields(BASE, {"model": {"entry_point": f"{module}:build"}}), "0000")
    assert report.is_over
    assert words in (report.error or "")
    assert not report.is_fault


def test_the_command_to_go_on_with_is_whole() -> None:
    assert resume_command("sweep", Path("runs/a b"), Path("data"), "auto") == "largebatch sweep --resume 'runs/a b'"
    words = resume_command("study", Path("s"), Path("/mnt/data"), "cpu", "10.0.0.1:6379")
    assert words == "largebatch study --resume s --data-dir /mnt/data --device cpu --address 10.0.0.1:6379"


@pytest.mark.parametrize(
    ("failures", "is_faulted", "code", "words"),
    [
        (["0000: KeyError: 'no such weights'"], False, 2, "no run has a result; the first to fail was 0000: KeyError: 'no such weights' Mend"),
        (["0000: StorageError: full"], True, 1, "the first to fail was 0000: StorageError: full Try again: largebatch sweep --resume x"),
        ([], False, 2, "no run has a result. The budget of 3 s is spent; 0 runs ended. Allow more."),
    ],
)
def test_a_sweep_without_a_result_says_why(failures: list[str], is_faulted: bool, code: int, words: str) -> None:
    progress = SweepProgress(0, failures, is_faulted, None if failures else "The budget of 3 s is spent; 0 runs ended.")
    error = progress.no_result("largebatch sweep --resume x")
    assert error.exit_code == code
    assert words in str(error)
