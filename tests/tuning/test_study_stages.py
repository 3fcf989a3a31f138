"""A study of a stranger's model from end to end in this process: what fails costs only itself, and is tried again."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.study.study import StudyOptions, begin_study, study
from largebatch.tuning.sweep.begin import begin_sweep
from largebatch.tuning.sweep.ledger import SWEEP, Ledger, Trial
from largebatch.tuning.sweep.search import Search
from largebatch.tuning.sweep.spec import SweepSpec

CPU, DATA = torch.device("cpu"), Path("data")
MODELS = {
    "convolutions": "nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3)",
    "transformer": (
        "nn.Flatten(1, 2), nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 1), nn.Flatten(), nn.Linear(64, 3)"
    ),
}


def run_here(place: Path, sweep: SweepSpec, base: TrainSpec) -> int:
    """The sweep, without Ray."""
    if not (place / SWEEP).is_file():
        begin_sweep(place, sweep, base)
    with Ledger(place) as ledger:
        search = Search(sweep, base, ledger)
        while isinstance(trial := search.next_trial(), Trial):
            run_job(prepare(trial.spec(base), CPU, DATA), run_folder.create(place, trial.run_id), Listener())
            search.ended(trial)
    return 0


@pytest.mark.parametrize("name", MODELS)
def test_a_stage_that_fails_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "stranger.py").write_text(f"from torch import nn\n\ndef build(num_classes):\n    return nn.Sequential({MODELS[name]})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    spec = build_spec(
        {
            "dataset": {"name": "synthetic", "arguments": {"shape": [1, 8, 8], "num_classes": 3, "num_train": 96, "num_test": 30}},
            "model": {"entry_point": "stranger:build"}, "batch": {"global_batch_size": 16}, "optimizer": {"name": "sgd"},
            "learning_rate": {"base": 0.1}, "stop": {"epochs": 1, "target_accuracy": 0.05}, "tracking": {"enabled": False},
        }
    )  # fmt: skip
    folder = tmp_path / "study"
    begin_study(folder, spec, 60.0)
    monkeypatch.setattr("largebatch.tuning.study.study.PROFILE_SHARE", 0.004)
    sized = SweepSpec(name="sweep", recipe="run", set={"stop.epochs": 1.0}, each={"batch.global_batch_size": [16, 48]})
    run_folder.write_text(folder / "sized-sweep.json", sized.model_dump_json())
    notices: list[str] = []
    options = StudyOptions(folder, DATA, "cpu", 60.0, lambda stage: None, notices.append)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("view size is not compatible\nand more")

    monkeypatch.setattr("largebatch.tuning.report.report.write_pngs", broken)
    with monkeypatch.context() as failing:
        for part in (
            "largebatch.tuning.study.solutions.top_eigenvalue",
            "largebatch.tuning.study.study.predict",
            "largebatch.tuning.report.report.accuracy_curves",
        ):
            failing.setattr(part, broken)
        page = study(spec, options, run_here)
    assert page is not None
    report = json.loads((page.parent / "report.json").read_text())
    failed = {one["what"]: one["why"] for one in report["failed"] if not one["what"].startswith("the picture ")}
    assert set(failed) >= {"the prediction", "the figure of accuracy over time"}
    assert sum(what.startswith("top Hessian eigenvalue of batch") for what in failed) == 2
    assert set(failed.values()) == {"RuntimeError: view size is not compatible."}
    assert any(one["what"].startswith("the picture ") for one in report["failed"])
    told = "Left out: the prediction. RuntimeError: view size is not compatible."
    assert told in report["words"]
    assert told in notices
    assert told in page.read_text()
    assert any("epsilon 0.0005, random 100: beyond the gradient" in row[""] for row in report["tables"]["Small batch against large batch"])
    assert not (folder / "sharpness.json").exists()

    kept = [folder / "profile.json", *folder.rglob("summary.json")]
    before = [path.stat().st_mtime_ns for path in kept]
    page = study(spec, options, run_here)
    assert [path.stat().st_mtime_ns for path in kept] == before, "no run is made again"
    assert page is not None
    again = json.loads((page.parent / "report.json").read_text())
    assert all(one["what"].startswith("the picture ") for one in again["failed"])
    assert all(one["top_eigenvalue"] > 0 for one in json.loads((folder / "sharpness.json").read_text())["sharp"])


def test_a_run_to_the_end_that_fails_leaves_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the stage is kept, so that it is tried again."""
    from types import SimpleNamespace

    from largebatch.tuning.report.attempts import Attempts
    from largebatch.tuning.study.study import _solutions

    def broken(best: Any, *_: Any) -> Any:
        raise KeyError(best.global_batch_size)

    monkeypatch.setattr("largebatch.tuning.study.study.train_to_the_end", broken)
    best = [SimpleNamespace(global_batch_size=16), SimpleNamespace(global_batch_size=64)]
    expected: Any = SimpleNamespace(chosen_for_the_end=lambda batches, budget_s: batches)
    attempts = Attempts()
    options = StudyOptions(tmp_path, DATA, "cpu", 60.0, lambda stage: None, lambda text: None)
    found: Any = SimpleNamespace(best=best)
    assert _solutions(found, expected, options, CPU, attempts).runs == []
    assert [one.in_words for one in attempts.failed] == [
        "Left out: the run to the end at batch 16. KeyError: 16.",
        "Left out: the run to the end at batch 64. KeyError: 64.",
    ]
    assert list(tmp_path.iterdir()) == []
