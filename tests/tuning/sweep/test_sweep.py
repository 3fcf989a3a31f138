"""Sweeps on a real Ray: killed and gone on with, stopped early, read back from MLflow, and what a search of Ray Tune's does.

What a sweep does wherever it runs is in test_sweep_here.py.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import launch_runs
import psutil
import pytest
import yaml
from launch_runs import Head, starts
from ray.util.state import list_actors
from small_runs import ROOT
from small_sweeps import ASHA, BATCHES, SHORT, Sweeps, assert_ended_within_their_group, folder_of, under_way

import largebatch
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.tracking.params import CURVE_TAG
from largebatch.tuning.results.collect import collect, collect_experiment
from largebatch.tuning.results.run_folders import ended_runs
from largebatch.tuning.sweep.ledger import Ledger

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def run(head: Head, tmp_path: Path, capsys: pytest.CaptureFixture[str], blank_pictures: None) -> Sweeps:
    return Sweeps(tmp_path, capsys, head)


def test_a_sweep_from_file_to_answer(run: Sweeps, tmp_path: Path) -> None:
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


@pytest.mark.slow
def test_a_killed_sweep_goes_on(head: Head, run: Sweeps, tmp_path: Path) -> None:
    """The ordinary test is of one on this machine, in test_sweep_here.py: both read the same ledger and the same run folders."""
    several_seconds = {"stop.epochs": 60, "checkpoint.every_steps": 20, "evaluation.every_epochs": 2}
    parts: dict[str, Any] = {"set": several_seconds, "each": {"batch.global_batch_size": [64, 256]}, "repeats": 0}
    with under_way(tmp_path, head, "summary.json", 2, **parts) as sweep:
        sweep.send_signal(signal.SIGKILL)
    folder = folder_of(tmp_path / "runs")
    before = {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/summary.json")}
    assert len(before) < 4
    saved = [path.parent.name for path in folder.glob("*/checkpoints") if list_checkpoints(path) and path.parent.name not in before]
    run("--resume", folder)
    ledger = Ledger(folder)
    assert [trial.number for trial in ledger.trials] == list(range(4))
    assert all(ledger.is_over(trial) for trial in ledger.trials)
    assert all((folder / name / "summary.json").stat().st_mtime_ns == when for name, when in before.items()), "finished runs are kept"
    assert all(result.summary.epochs == 60 for result in collect(ended_runs(folder)))
    for name in saved:
        assert [record.step > 0 for record in starts(folder / name)] == [False, True], "from its checkpoint"


@pytest.mark.slow
def test_asha_ends_runs_within_their_group_only(run: Sweeps, tmp_path: Path) -> None:
    """The ordinary test is of a sweep on this machine, in test_sweep_here.py: what decides is the same, and asks in the same way."""
    run(**ASHA)
    assert_ended_within_their_group(folder_of(tmp_path / "runs"))


@pytest.mark.slow
def test_runs_on_several_workers_share_the_machine(run: Sweeps, tmp_path: Path) -> None:
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


@pytest.mark.slow
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


def test_what_the_machines_cannot_do_is_refused(run: Sweeps, tmp_path: Path) -> None:
    _, err = run(code=2, resources={"cpus_per_worker": 64.0})
    assert "a run needs 64 CPUs" in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("records.jsonl"))


@pytest.mark.slow
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
