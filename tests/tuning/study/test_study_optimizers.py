"""A study of several optimizers: what it refuses before anything runs, and a real one of sgd against lamb."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import said
from small_runs import document, synthetic
from study_here import run_here

from largebatch.jobs.spec.read import build_spec, read_spec
from largebatch.tuning.results.run_folders import runs_of_folder
from largebatch.tuning.study.options import StudyOptions, begin_study
from largebatch.tuning.study.study import study
from largebatch.tuning.sweep.spec import BATCH, SweepSpec

TO = ("--set", "stop.target_accuracy=0.9", "--set", "tracking.enabled=false")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--optimizers", "sgd,lam"), "--optimizers: 'lam' is no optimizer. Did you mean lamb"),
        (("--optimizers", " , "), "--optimizers: names none. Known: sgd, adamw"),
        (("--optimizers", "sgd,mine.module:make"), "mine.module:make is not the recipe's, and no range of learning rates is known for it."),
        (("--optimizers", "sgd,muon", "--set", "model.arguments.depth=0"), "muon has no hidden matrix to update in this model"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    code, _, told = said(capsys, "study", "digits-small-batch", *TO, *arguments, "--output-dir", tmp_path / "runs")
    assert code == 2
    assert words in told
    assert not (tmp_path / "runs").exists()


def test_a_recipe_that_cannot_train_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--set", "stop.target_accuracy=0.9", "--set", "optimizer.name=muon", "--set", "model.arguments.depth=0")
    code, _, told = said(capsys, "study", "digits-small-batch", *arguments, "--output-dir", tmp_path)
    assert code == 2
    assert "muon has no hidden matrix to update in this model" in told
    assert "Nothing was measured: " in told
    assert [*tmp_path.iterdir()] == []


def test_a_study_is_not_gone_on_with_under_other_optimizers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = read_spec("digits-small-batch")
    for name, optimizers, compared in (("one", [], "sgd"), ("two", ["sgd", "lamb"], "sgd, lamb")):
        begin_study(tmp_path / name, spec, 100.0, optimizers)
        code, _, told = said(capsys, "study", "--resume", tmp_path / name, "--optimizers", "lamb,muon")
        assert code == 2
        assert f"--optimizers: this study compares {compared}, not lamb, muon." in told


@pytest.mark.slow
def test_sgd_against_lamb(tmp_path: Path) -> None:
    """A real one, without Ray: as many runs for each pair, one page that names both, and nothing done again by a resume."""
    fields: dict[str, Any] = {"stop": {"epochs": 4, "target_accuracy": 0.5, "at_target": True}, "tracking": {"enabled": False}}
    spec = build_spec(document(dataset=synthetic(256), model={"name": "mlp"}, **fields))
    folder = tmp_path / "study"
    begin_study(folder, spec, 30.0, ["sgd", "lamb"])
    told: list[str] = []
    options = StudyOptions(folder, Path("data"), "cpu", 30.0, lambda stage: None, told.append, profile_share=0.01, optimizers=("sgd", "lamb"))
    page = study(spec, options, run_here)
    assert page is not None
    sweep = SweepSpec.model_validate_json((folder / "sized-sweep.json").read_text())
    answer = json.loads((page.parent / "report.json").read_text())
    assert sweep.optimizers == [side["optimizer"] for side in answer["by_optimizer"]] == ["sgd", "lamb"]
    assert {side["num_runs"] for side in answer["by_optimizer"]} == {len(sweep.each[BATCH]) * sweep.num_in_group}
    pairs = [(batch["optimizer"], batch["global_batch_size"]) for batch in answer["batches"]]
    assert pairs == [(name, batch) for name in ("sgd", "lamb") for batch in sweep.each[BATCH]]
    assert f"runs of {len(sweep.each[BATCH])} batch sizes under sgd and lamb" in answer["words"][0]
    assert any(notice.startswith("Batch sizes ") and "under sgd and lamb" in notice for notice in told)
    assert (folder / "profile-lamb.json").is_file()
    solved = {json.loads(path.read_text())["optimizer"]["name"] for path in folder.glob("solution-*/spec.json")}
    assert len(solved) <= 1, "solutions of two optimizers differ in more than their batch"

    kept = [*folder.rglob("summary.json"), folder / "profile-lamb.json", folder / "sized-sweep.json"]
    before = [path.stat().st_mtime_ns for path in kept]
    assert study(spec, options, run_here) == page
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_a_study_of_an_earlier_version_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its study.json says nothing of optimizers: it compares the recipe's."""
    begin_study(tmp_path / "old", read_spec("digits-small-batch"), 100.0)
    path = tmp_path / "old" / "study.json"
    begun = json.loads(path.read_text())
    del begun["optimizers"]
    path.write_text(json.dumps(begun))
    assert runs_of_folder(tmp_path / "old").run_dirs == []
    _, _, told = said(capsys, "study", "--resume", tmp_path / "old", "--optimizers", "lamb")
    assert "this study compares sgd, not lamb" in told
