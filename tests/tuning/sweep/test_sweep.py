"""Sweeps on a real Ray: killed and gone on with, stopped early, read back from MLflow, what they refuse, and what a search of Ray Tune's does."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import launch_runs
import psutil
import pytest
import yaml
from command_line import said
from launch_runs import Head, starts
from ray.util.state import list_actors
from small_runs import ROOT, wait_for

import largebatch
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.tracking.params import CURVE_TAG
from largebatch.tuning.results.collect import collect, collect_experiment
from largebatch.tuning.results.run_folders import ended_runs
from largebatch.tuning.sweep.ledger import Ledger, begin_sweep
from largebatch.tuning.sweep.space import base_spec, read_sweep

pytestmark = pytest.mark.filterwarnings("ignore")
BATCHES = [32, 128, 512]
Run = Callable[..., tuple[str, str]]
SHORT = {"stop.epochs": 6, "stop.target_accuracy": 0.9, "stop.at_target": True, "checkpoint.every_steps": 10, "evaluation.every_epochs": 1}


def sweep_file(folder: Path, **parts: Any) -> Path:
    document: dict[str, Any] = {
        "name": "tried",
        "recipe": "digits-small-batch",
        "set": SHORT.copy(),
        "each": {"batch.global_batch_size": BATCHES},
        "search": {"method": "quasi_random", "trials": 2, "space": {"learning_rate.base": {"low": 0.05, "high": 0.5, "times_batch": 0.5}}},
        "repeats": 2,
        "resources": {"cpus_per_worker": 1.0, "max_concurrent": 2},
        **parts,
    }
    document["set"].setdefault("tracking.enabled", False)
    path = folder / "tried.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def command(*arguments: object, head: Head | None = None) -> list[str]:
    address = ["--address", head.address] if head else []
    return [sys.executable, "-m", "largebatch", "sweep", *map(str, arguments), *address, "--device", "cpu"]


@pytest.fixture
def run(head: Head, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a sweep's command in this process, on the shared head: what it prints on both streams."""

    def run_here(*arguments: object, code: int = 0, **parts: Any) -> tuple[str, str]:
        """Args: arguments: of a sweep that goes on, or further options; parts: of a new one."""
        new = [] if "--resume" in arguments else [sweep_file(tmp_path, **parts), "--output-dir", tmp_path / "runs"]
        exit_code, out, err = said(capsys, *command(*new, *arguments, head=head)[3:])
        assert exit_code == code, err[-3000:]
        return out, err

    return run_here


def folder_of(output_dir: Path) -> Path:
    (folder,) = output_dir.glob("tried-*")
    return folder


@contextmanager
def under_way(tmp_path: Path, head: Head | None, until: str, count: int = 1, **parts: Any) -> Iterator[subprocess.Popen[str]]:
    """A sweep's command, once so many files are in its folder."""
    words = command(sweep_file(tmp_path, **parts), "--output-dir", tmp_path / "runs", head=head)
    sweep = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_for(lambda: len(list((tmp_path / "runs").glob(f"tried-*/*/{until}"))) >= count, 120, sweep)
        yield sweep
    finally:
        sweep.kill()
        sweep.communicate()


def test_a_sweep_from_file_to_answer(run: Run, tmp_path: Path) -> None:
    out, err = run("--json", set={**SHORT, "tracking.enabled": True})
    answer = json.loads(out)
    folder = folder_of(tmp_path / "runs")
    assert [row["global_batch_size"] for row in answer["batches"]] == BATCHES
    assert all(row["seconds_to_target"]["num_runs"] == 2 for row in answer["batches"])
    assert {one["question"] for one in answer["advice"]} >= {"soonest", "cheapest", "knee"}
    ledger = Ledger(folder)
    assert len(ledger.trials) == 12
    assert all(ledger.is_over(trial) for trial in ledger.trials)
    assert "12/12" in err
    # MLflow, by its own client: twelve runs below their batches below the sweep, and the same table again.
    import mlflow

    store = f"sqlite:///{folder.parent / 'mlflow.db'}"
    client = mlflow.MlflowClient(store)
    number = client.get_experiment_by_name("largebatch").experiment_id
    (parent,) = client.search_runs([number], f"tags.`largebatch.sweep` = '{folder.name}'")
    levels = client.search_runs([number], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {level.info.run_name for level in levels} == {f"batch {batch}" for batch in BATCHES}
    children = [child for level in levels for child in client.search_runs([number], f"tags.`mlflow.parentRunId` = '{level.info.run_id}'")]
    assert sorted(child.data.tags["largebatch.run_id"] for child in children) == sorted(trial.run_id for trial in ledger.trials)
    assert {run.info.status for run in [parent, *levels, *children]} == {"FINISHED"}
    chart = client.get_metric_history(parent.info.run_id, "by_batch/seconds_to_target")
    assert [point.step for point in chart] == BATCHES
    assert "Soonest" in parent.data.tags["mlflow.note.content"]
    artifacts = {artifact.path for artifact in client.list_artifacts(parent.info.run_id, "report")}
    assert artifacts >= {"report/report.html", "report/report.json", "report/time-to-target.png"}
    from_folders = {row.summary.run_id: row for row in collect(ended_runs(folder))}
    assert {trial.run_id for trial in ledger.trials if trial.phase == "search"} == {name for name, row in from_folders.items() if row.chose}
    for has_tag in (True, False):  # where a run's curve is too long for a tag it comes from the metrics
        if not has_tag:
            client.delete_tag(children[0].info.run_id, CURVE_TAG)
        rows, missing = collect_experiment(store, "largebatch")
        assert (missing, {row.summary.run_id for row in rows}) == ([], from_folders.keys())
        for row in rows:
            other = from_folders[row.summary.run_id]
            for name in ("settings", "summary", "learning_rate", "momentum", "seed", "device", "chose"):
                assert getattr(row, name) == getattr(other, name)
            curves = [[at._replace(training_seconds=0.0, evaluation_seconds=None) for at in result.evaluations] for result in (row, other)]
            assert curves[0] == curves[1]
            assert [at.training_seconds for at in row.evaluations] == pytest.approx([at.training_seconds for at in other.evaluations], abs=0.002)


def test_a_sweep_of_a_regression_takes_the_lowest_error_for_the_best(run: Run, tmp_path: Path) -> None:
    """Of rmse, less is better: a search that took the most would keep the rate that hardly learns."""
    error = {"metric": "rmse", "value": 68.0}
    out, _ = run(
        "--json",
        recipe="diabetes-regression",
        set={"stop.epochs": 8, "stop.target": error, "stop.at_target": True, "evaluation.every_epochs": 1},
        each={"batch.global_batch_size": [16, 64]},
        search={"method": "grid", "space": {"learning_rate.base": [0.0001, 0.02]}},
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


def test_a_killed_sweep_goes_on(head: Head, run: Run, tmp_path: Path) -> None:
    parts: dict[str, Any] = {"set": {"stop.epochs": 40, "checkpoint.every_steps": 20, "evaluation.every_epochs": 2}, "repeats": 0}
    with under_way(tmp_path, head, "summary.json", 2, **parts) as sweep:
        sweep.send_signal(signal.SIGKILL)
    folder = folder_of(tmp_path / "runs")
    before = {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/summary.json")}
    assert len(before) < 6
    saved = [path.parent.name for path in folder.glob("*/checkpoints") if list_checkpoints(path) and path.parent.name not in before]
    run("--resume", folder)
    ledger = Ledger(folder)
    assert [trial.number for trial in ledger.trials] == list(range(6))
    assert all(ledger.is_over(trial) for trial in ledger.trials)
    assert all((folder / name / "summary.json").stat().st_mtime_ns == when for name, when in before.items()), "finished runs are kept"
    assert all(result.summary.epochs == 40 for result in collect(ended_runs(folder)))
    for name in saved:
        assert [record.step > 0 for record in starts(folder / name)] == [False, True], "from its checkpoint"


def test_asha_ends_runs_within_their_group_only(run: Run, tmp_path: Path) -> None:
    parts: dict[str, Any] = {
        "set": {"stop.epochs": 12, "evaluation.every_epochs": 1, "stop.target_accuracy": 0.999},
        "each": {"batch.global_batch_size": [64, 256]},
        "search": {"method": "grid", "space": {"learning_rate.base": [0.2, 1e-5, 1e-6, 1e-7]}},
        "early_stop": {"method": "asha", "grace": 1.0, "reduction_factor": 2.0},
        "repeats": 0,
    }
    run(**parts)
    ledger = Ledger(folder_of(tmp_path / "runs"))
    pruned = {ledger.trials[number].fields["learning_rate.base"] for number, ending in ledger.endings.items() if ending.how == "pruned"}
    assert pruned
    assert 0.2 not in pruned
    assert {ending.how for ending in ledger.endings.values()} == {"pruned"}


def test_runs_on_several_workers_share_the_machine(run: Run, tmp_path: Path) -> None:
    parts: dict[str, Any] = {
        "set": {"stop.epochs": 4, "evaluation.every_epochs": 1},
        "each": {"batch.global_batch_size": [128, 1437]},  # both at once: their four workers take all cores
        "search": {},
        "repeats": 1,
        "resources": {"workers": 2, "cpus_per_worker": 1.0},
    }
    run(**parts)
    ledger = Ledger(folder_of(tmp_path / "runs"))
    assert ledger.endings == {}, "none was pruned, none failed"
    results = collect(ended_runs(folder_of(tmp_path / "runs")))
    assert [result.summary.world_size for result in results] == [2, 2]
    assert sorted(result.summary.samples_seen for result in results) == [4 * 1437] * 2
    assert all([at.samples for at in result.evaluations] == [1437 * epoch for epoch in range(1, 5)] for result in results)


def test_every_run_diverging_is_a_result(run: Run) -> None:
    out, _ = run(search={"method": "grid", "space": {"learning_rate.base": [1e30, 1e33]}}, repeats=3)
    assert "6 of 6 runs diverged" in out
    assert "No batch size reached the target" in out


def test_asking_to_stop_leaves_a_sweep_that_goes_on(head: Head, tmp_path: Path) -> None:
    parts: dict[str, Any] = {"set": {"stop.epochs": 400, "stop.target_accuracy": 0.9999}, "repeats": 0}
    with under_way(tmp_path, head, "records.jsonl", **parts) as sweep:
        sweep.send_signal(signal.SIGINT)
        _, errors = sweep.communicate(timeout=90)
    assert sweep.returncode == 4, errors
    assert "sweep --resume" in errors
    assert folder_of(tmp_path / "runs").is_dir()


def test_a_sweep_ends_with_its_seconds_and_says_so(run: Run, tmp_path: Path) -> None:
    """Its group's repeats wait for runs that were cut short; nothing may wait with them."""
    parts: dict[str, Any] = {
        "set": {"stop.epochs": 4000, "stop.target_accuracy": 0.9999},
        "each": {"batch.global_batch_size": [128]},
        "search": {"method": "grid", "space": {"learning_rate.base": [1e30, 0.1, 0.2]}},
        "budget": {"seconds": 14.0},
        "resources": {"max_concurrent": 1},
    }
    out, err = run(**parts)
    assert "The budget of 14 s is spent; 1 runs ended." in err
    assert "No batch size reached the target" in out
    folder = folder_of(tmp_path / "runs")
    assert (folder / "report" / "report.html").is_file()
    ledger = Ledger(folder)
    assert [trial.number for trial in ledger.trials] == [0, 1], "none begins when the time is up"
    assert list((folder / ledger.trials[1].run_id / "checkpoints").iterdir()), "the one under way was saved"


def test_a_run_whose_process_dies_goes_on_in_another(head: Head, tmp_path: Path) -> None:
    """The first of two: the second begins meanwhile."""
    parts: dict[str, Any] = {
        "set": {"stop.epochs": 30, "stop.target_accuracy": 0.9999, "checkpoint.every_steps": 10},
        "each": {"batch.global_batch_size": [64]},
        "repeats": 0,
        "resources": {"max_concurrent": 1},
    }
    with under_way(tmp_path, head, "checkpoints/*", 2, **parts) as sweep:
        folder = folder_of(tmp_path / "runs")
        (run_dir,) = folder.glob("0000-*")
        (actor,) = list_actors(address=head.dashboard, filters=[("class_name", "=", "TrialActor"), ("state", "=", "ALIVE")])
        os.kill(actor.pid, signal.SIGKILL)
        _, errors = sweep.communicate(timeout=150)
    assert sweep.returncode == 0, errors
    assert [record.step > 0 for record in starts(run_dir)] == [False, True], "from its checkpoint"
    assert Ledger(folder).endings == {}


@pytest.mark.slow
def test_a_sweep_whose_ray_is_gone_says_so(tmp_path: Path) -> None:
    long, workers = {"stop.epochs": 4000, "stop.target_accuracy": 0.9999}, {"workers": 2, "cpus_per_worker": 0.5}
    with under_way(tmp_path, None, "records.jsonl", set=long, resources=workers) as sweep:  # of several workers: with a Ray of its own
        (raylet,) = [child for child in psutil.Process(sweep.pid).children(recursive=True) if child.name() == "raylet"]
        raylet.kill()
        _, errors = sweep.communicate(timeout=150)
    assert sweep.returncode == 1, errors
    assert "sweep --resume" in errors
    assert "Traceback" not in errors


def test_what_the_machines_cannot_do_is_refused(run: Run, tmp_path: Path) -> None:
    _, err = run(code=2, resources={"cpus_per_worker": 64.0})
    assert "a run needs 64 CPUs" in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("records.jsonl"))


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


def test_the_documents_example_searches_and_leaves_run_folders(head: Head, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "sweeps.md").read_text(), re.DOTALL)
    (tmp_path / "search.py").write_text(example)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(launch_runs.document(stop={"steps": 6}, batch_norm={"span": "global"})))
    environment = {**os.environ, "RAY_ADDRESS": head.address, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "search.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "'rate'" in done.stdout
    trained = [largebatch.load_run(folder) for folder in (tmp_path / "runs").iterdir()]
    assert sorted(run.spec.batch.global_batch_size for run in trained) == [64, 64, 256, 256]
    assert all(run.summary is not None and run.summary.steps == 6 for run in trained)
