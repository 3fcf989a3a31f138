"""The runs of a sweep: how many go at a time, in which processes, and which end early."""

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from made_runs import BASE, RATES, finish, sweep

from largebatch.jobs.errors import InputError
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.sweep.ledger import Ledger, Trial
from largebatch.tuning.sweep.search import Search
from largebatch.tuning.sweep.space import with_fields
from largebatch.tuning.sweep.spec import EarlyStopSpec, ResourcesSpec
from largebatch.tuning.sweep.sweep import SweepProgress, resume_command
from largebatch.tuning.sweep.trials.early_stop import EarlyStopping
from largebatch.tuning.sweep.trials.on_ray.actor import TrialActor
from largebatch.tuning.sweep.trials.processes import News
from largebatch.tuning.sweep.trials.resources import Shares, TrialOptions, TrialReport, split_machines
from largebatch.tuning.sweep.trials.run_trials import SweepListener, TrialRunner

FOUR_EPOCHS = with_fields(BASE, {"tracking.enabled": False, "stop.epochs": 4, "stop.at_target": False, "evaluation.every_epochs": 1})


def options(folder: Path) -> TrialOptions:
    return TrialOptions(folder, Path("data"), Shares(1, float(torch.get_num_threads()), 0.0, "cpu", 1), None)


def test_a_run_waits_at_each_evaluation_and_ends_where_it_is_told_to(tmp_path: Path) -> None:
    process = TrialActor()
    reports = [process.begin(FOUR_EPOCHS, options(tmp_path), "0000")]
    reports += [process.go_on(ends_early=False), process.go_on(ends_early=True)]
    assert [(report.samples_seen, report.is_over) for report in reports] == [(1437, False), (2874, False), (2906, True)], "one step more"
    assert all(report.error is None for report in reports)
    reports = [process.begin(FOUR_EPOCHS, options(tmp_path), "0000"), process.go_on(ends_early=False), process.go_on(ends_early=False)]
    assert [(report.samples_seen, report.is_over) for report in reports] == [(3 * 1437, False), (4 * 1437, False), (4 * 1437, True)]


@pytest.mark.parametrize(("line", "words"), [("raise KeyError('no such weights')", "no such weights"), ("raise SystemExit(3)", "SystemExit: 3")])
def test_a_model_that_raises_fails_its_run_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, words: str) -> None:
    module = f"broken_model_{len(line)}"
    (tmp_path / f"{module}.py").write_text(f"def build(num_classes):\n    {line}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    report = TrialActor().begin(with_fields(BASE, {"model": {"entry_point": f"{module}:build"}}), options(tmp_path), "0000")
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


FOUR_OF_FOUR = [{"CPU": 4.0}] * 4
WITH_GPUS = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}]


@pytest.mark.parametrize(
    ("machines", "resources", "device", "num_concurrent", "gpus", "run_device"),
    [
        (FOUR_OF_FOUR, {"cpus_per_worker": 4.0}, "auto", 4, 0.0, "cpu"),
        (FOUR_OF_FOUR, {"cpus_per_worker": 3.0, "workers": 2}, "cpu", 2, 0.0, "cpu"),
        (FOUR_OF_FOUR, {"cpus_per_worker": 0.5, "max_concurrent": 3}, "auto", 3, 0.0, "cpu"),
        (WITH_GPUS, {}, "auto", 3, 1.0, "auto"),
        (WITH_GPUS, {}, "cpu", 16, 0.0, "cpu"),
        (WITH_GPUS, {"gpus_per_worker": 0.5}, "cuda", 6, 0.5, "cuda"),
        (WITH_GPUS, {"gpus_per_worker": 0.0}, "auto", 16, 0.0, "cpu"),
        (WITH_GPUS, {"workers": 3}, "auto", 1, 1.0, "auto"),
    ],
)
def test_runs_at_a_time_are_what_machines_can_hold(
    machines: list[dict[str, float]], resources: dict[str, Any], device: str, num_concurrent: int, gpus: float, run_device: str
) -> None:
    shares = split_machines(machines, ResourcesSpec.model_validate(resources), device)
    assert (shares.num_concurrent, shares.gpus_per_worker, shares.device) == (num_concurrent, gpus, run_device)


@pytest.mark.parametrize(("most", "searching", "num_searching"), [(1, None, 1), (1, 2, 2), (1, 99, 4), (3, 2, 3), (None, 2, 4)])
def test_a_search_may_have_more_runs_at_a_time(most: int | None, searching: int | None, num_searching: int) -> None:
    shares = split_machines([{"CPU": 4.0}], ResourcesSpec(max_concurrent=most, max_searching=searching), "cpu")
    assert (shares.num_concurrent, shares.num_searching) == (most or 4, num_searching)


class AtOnce:
    """Processes that train nothing: a run ends when it is waited for, the last that began first. Counts what goes side by side."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.running, self.seen = ledger, dict[object, str](), list[list[str]]()

    def provide(self, number: int) -> None: ...

    def take(self) -> object:
        return object()

    def begin(self, process: object, spec: TrainSpec, options: TrialOptions, run_id: str) -> None:
        self.running[process] = run_id
        phases = {trial.run_id: trial.phase for trial in self.ledger.trials}
        self.seen.append([phases[run_id] for run_id in self.running.values()])

    def go_on(self, process: object, ends_early: bool) -> None: ...

    def wait(self, seconds: float) -> list[News]:
        process, run_id = self.running.popitem()
        finish(self.ledger, next(trial for trial in self.ledger.trials if trial.run_id == run_id), outcome=Outcome.REACHED)
        return [News(process, TrialReport(is_over=True))]

    def release(self, process: object) -> None: ...


def test_runs_of_a_search_go_side_by_side_and_those_that_report_alone(tmp_path: Path) -> None:
    spec = sweep(each={"batch.global_batch_size": [32, 128, 512]}, search={"method": "random", "trials": 3, "space": RATES}, repeats=2)
    with Ledger(tmp_path) as ledger:
        processes = AtOnce(ledger)
        options = TrialOptions(tmp_path, Path("data"), Shares(1, 1.0, 0.0, "cpu", 1, num_searching=2), None)
        TrialRunner(Search(spec, BASE, ledger), EarlyStopping(EarlyStopSpec(), 1437), SweepListener(), options, processes, threading.Event()).run()
    assert Counter(map(tuple, processes.seen)) == {("search",): 1, ("search", "search"): 8, ("repeat",): 6}


@pytest.mark.parametrize(
    ("machines", "resources", "device", "words"),
    [
        (FOUR_OF_FOUR, {"cpus_per_worker": 8.0}, "auto", "a run needs 8 CPUs and 0 GPUs, a worker's on one machine, and there are 4 CPUs"),
        (FOUR_OF_FOUR, {}, "cuda", "each run gets no GPU of the 0"),
        (WITH_GPUS, {"gpus_per_worker": 2.0, "workers": 2}, "auto", "4 GPUs"),
    ],
)
def test_a_run_that_no_machine_can_hold_is_refused(machines: list[dict[str, float]], resources: dict[str, Any], device: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        split_machines(machines, ResourcesSpec.model_validate(resources), device)


def decisions(early_stop: dict[str, Any], evaluations: list[tuple[int, float, float]]) -> list[bool]:
    """Whether each run should end. Args: evaluations: (run, epochs or seconds, accuracy) in the order in which they come; 10 samples an epoch."""
    rule = EarlyStopping(EarlyStopSpec.model_validate(early_stop), 10)
    return [rule.falls_behind(trial(run), TrialReport(at, int(10 * at), accuracy)) for run, at, accuracy in evaluations]


def trial(number: int, group: int = 0, phase: Any = "search") -> Trial:
    return Trial(number=number, group=group, phase=phase, fields={}, run_id=str(number))


ASHA = {"method": "asha", "grace": 2.0, "reduction_factor": 2.0}  # rungs at 2, 4, 8 ... epochs; the better half goes on
MEDIAN = {"method": "median", "grace": 2.0}


@pytest.mark.parametrize(
    ("early_stop", "evaluations", "expected"),
    [
        (ASHA, [(0, 2, 0.5), (1, 2, 0.4), (2, 2, 0.46), (3, 2, 0.44)], [False, True, False, True]),  # cuts at 0.5, 0.45, 0.46
        (ASHA, [(0, 1, 0.9), (1, 1, 0.1)], [False, False]),  # within the grace
        (ASHA, [(0, 2, 0.5), (0, 3, 0.1), (1, 3, 0.4)], [False, False, True]),  # each run once at a rung, at its first evaluation beyond it
        (ASHA, [(0, 4, 0.9), (1, 2, 0.1), (0, 5, 0.2), (2, 2, 0.16), (3, 2, 0.15)], [False] * 4 + [True]),  # 0 enters a rung that it passed by later
        ({**ASHA, "clock": "seconds"}, [(0, 2, 0.5), (1, 2, 0.4)], [False, True]),
        (MEDIAN, [(0, 2, 0.5), (1, 2, 0.6), (2, 2, 0.1), (3, 2, 0.4)], [False, False, False, True]),  # three others before anything ends
        (MEDIAN, [(0, 2, 0.5), (1, 2, 0.6), (2, 2, 0.7), (3, 1, 0.65), (3, 2, 0.1)], [False] * 5),  # its best counts, of the grace as well
        ({"method": "none"}, [(0, 2, 0.5), (1, 2, 0.0)], [False, False]),
    ],
)
def test_runs_that_fall_behind_end(early_stop: dict[str, Any], evaluations: list[tuple[int, float, float]], expected: list[bool]) -> None:
    assert decisions(early_stop, evaluations) == expected


def test_groups_do_not_compete_and_repeats_are_never_ended() -> None:
    rule = EarlyStopping(EarlyStopSpec.model_validate(ASHA), 10)
    assert not rule.falls_behind(trial(0), TrialReport(1.0, 20, 0.9))
    assert not rule.falls_behind(trial(1, group=1), TrialReport(1.0, 20, 0.1))
    assert not rule.falls_behind(trial(2, phase="repeat"), TrialReport(1.0, 20, 0.1))
    assert rule.falls_behind(trial(3), TrialReport(1.0, 20, 0.1))
