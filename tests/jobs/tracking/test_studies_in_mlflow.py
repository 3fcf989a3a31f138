"""A study in MLflow: one store beside it, a tree of runs that are called by what differs, its answer as a description and as charts."""

import json
from pathlib import Path
from typing import Any

import pytest
import small_runs

from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.tracking.folder_mirror import mirrored_among, mirrored_in, sync_folder
from largebatch.jobs.tracking.params import PARENT_TAG
from largebatch.jobs.tracking.parent_answer import ByBatch, ParentAnswer
from largebatch.tuning.results.collect import collect_experiment
from largebatch.tuning.study.options import begin_study
from largebatch.tuning.sweep.ledger import begin_sweep
from largebatch.tuning.sweep.spec import BATCH, RATE, RangeSpec, SearchSpec, SweepSpec


def shared(store: str) -> dict[str, Any]:
    """What the runs of the study share."""
    tracking = {"mlflow_uri": store, "experiment": "studies", "system_metrics": False}
    return {"stop": {"steps": 2, "target_accuracy": 0.9}, "tracking": tracking}


@pytest.fixture
def study(tmp_path: Path, store: str) -> Path:
    """A study's folder with its reference and a sweep of three runs, as it leaves them; nothing is in MLflow."""
    folder = tmp_path / "runs" / "study-made"
    base = build_spec(small_runs.document(**shared(store)))
    begin_study(folder, base, 60.0)
    small_runs.trained(small_runs.prepared(**shared(store)), folder / "reference")
    search = SearchSpec(trials=2, space={RATE: RangeSpec(low=0.01, high=1.0)})
    begin_sweep(folder / "sweep", SweepSpec(recipe="made", each={BATCH: [16, 32]}, search=search, repeats=1), base)
    for number, (batch, seed) in enumerate([(16, 0), (32, 0), (32, 1)]):
        job = small_runs.prepared(**shared(store), batch={"global_batch_size": batch}, learning_rate={"base": 0.05 * batch}, seed=seed)
        small_runs.trained(job, folder / "sweep" / f"{number:04d}-batch-{batch}-seed-{seed}")
    by_batch = [ByBatch(name="seconds_to_target", batch=batch, value=1.0 / batch) for batch in (16, 32)]
    ParentAnswer(words=["**Batch 32**", "It is soonest."], by_batch=by_batch).write(folder / "sweep")
    (folder / "sweep" / "report").mkdir()
    (folder / "sweep" / "report" / "report.html").write_text("the report")
    return folder


def test_a_study_is_one_tree_with_its_answer_at_the_top(study: Path, client: Any, store: str) -> None:
    state = sync_folder(study)
    number = client.get_experiment_by_name("studies").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([number])}
    names = {run.info.run_id: name for name, run in runs.items()}
    tree = {name: names.get(run.data.tags.get(PARENT_TAG, "")) for name, run in runs.items()}
    assert tree == {
        "study-made": None,
        "reference": "study-made",
        "batch 16": "study-made",
        "batch 32": "study-made",
        "0000 rate 0.8, seed 0": "batch 16",
        "0001 rate 1.6, seed 0": "batch 32",
        "0002 rate 1.6, seed 1": "batch 32",
    }
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    top = runs["study-made"]
    assert top.data.tags["mlflow.note.content"] == "**Batch 32**\n\nIt is soonest."
    chart = client.get_metric_history(top.info.run_id, "by_batch/seconds_to_target")
    assert [(point.step, point.value) for point in chart] == [(16, 1 / 16), (32, 1 / 32)]
    assert [artifact.path for artifact in client.list_artifacts(top.info.run_id, "report")] == ["report/report.html"]
    assert (top.data.params["budget_s"], top.data.params["each.batch.global_batch_size"]) == ("60.0", "[16, 32]")
    assert sync_folder(study).run_id == state.run_id
    assert len(client.search_runs([number])) == len(runs), "nothing is made twice"

    read = collect_experiment(store, "studies")
    assert sorted((row.summary.run_id, row.chose) for row in read.runs) == [
        ("0000-batch-16-seed-0", True),
        ("0001-batch-32-seed-0", True),
        ("0002-batch-32-seed-1", False),
    ], "the study's own run beside its sweep answers another question"


def test_whatever_of_a_study_is_named_stands_for_the_whole(study: Path) -> None:
    for named in (study, study / "sweep", study / "reference", study / "sweep" / "0000-batch-16-seed-0", study.parent):
        assert mirrored_in(named) == [study.resolve()]


@pytest.mark.parametrize("is_listed", [False, True], ids=["runs", "runs/*"])
def test_a_folder_of_runs_stands_for_what_is_in_it(is_listed: bool, tmp_path: Path) -> None:
    """Its runs, sweeps and studies, and of a sweep's folder not each run once more."""
    for file in ("a/spec.json", "a/environment.json", "sweep/parent.json", "sweep/b/spec.json", "sweep/b/environment.json",
                 "study/sweep/parent.json", "study/c/spec.json", "study/c/environment.json", "mlflow-artifacts/x/artifacts/spec.json"):  # fmt: skip
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "mlflow.db").touch()
    named = sorted(tmp_path.glob("*")) if is_listed else [tmp_path]
    assert mirrored_among(named) == [tmp_path / name for name in ("a", "study/c", "study/sweep", "sweep")]


def test_a_store_that_nobody_names_lies_beside_the_study(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = study / "parent.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mlflow_uri": None}))
    assert sync_folder(study).uri == f"sqlite:///{study.parent / 'mlflow.db'}"
    assert [path for path in study.rglob("mlflow.db")] == []
