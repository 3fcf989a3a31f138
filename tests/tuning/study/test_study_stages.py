"""A study of a stranger's model from end to end in this process: what fails costs only itself, and is tried again."""

import html
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from made_runs import made_profile, made_run
from small_runs import document, prepared, synthetic
from study_here import run_here

from largebatch.jobs.spec.read import build_spec, read_spec
from largebatch.jobs.whole_files import write_text
from largebatch.tuning.report.contents import Attempts
from largebatch.tuning.results.findings import find
from largebatch.tuning.study.expected import AFTER_S, Expected
from largebatch.tuning.study.options import SOLUTION, StudyOptions, begin_study
from largebatch.tuning.study.reference_run import train_kept
from largebatch.tuning.study.solutions import affordable_samples, solve
from largebatch.tuning.study.study import study
from largebatch.tuning.sweep.spec import SweepSpec

Result = TypeVar("Result")
CPU, DATA = torch.device("cpu"), Path("data")
MODELS = {
    "convolutions": "nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4)",
    "transformer": (
        "nn.Flatten(1, 2), nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 1), nn.Flatten(), nn.Linear(64, 4)"
    ),
}
STRANGER = """
import torch
from pathlib import Path
from torch import nn

class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs):
        return inputs * 1

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * 1

class Stranger(nn.Sequential):
    def forward(self, inputs):
        logits = super().forward(inputs)
        return logits if Path(__file__).with_name("mended").exists() else Once.apply(logits)

def build(num_classes):
    return Stranger({layers})
"""


@pytest.mark.parametrize("name", ["transformer", pytest.param("convolutions", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("blank_pictures")
def test_a_stage_that_fails_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What stands in the way: folders where files should be, and a model that has no second derivative until it is mended."""
    (tmp_path / "stranger.py").write_text(STRANGER.replace("{layers}", MODELS[name]))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    parts = {"learning_rate": {"base": 0.1}, "stop": {"epochs": 1, "target_accuracy": 0.05}}
    spec = build_spec(document(dataset=synthetic(96, 30, (1, 8, 8)), model={"entry_point": "stranger:build"}, **parts))
    folder = tmp_path / "study"
    begin_study(folder, spec, 500.0)
    write_text(folder / "profile.json", made_profile().model_copy(update={"num_train_samples": 96}).model_dump_json())
    sized = SweepSpec(name="sweep", recipe="run", set={"stop.epochs": 1.0}, each={"batch.global_batch_size": [16, 48]})
    write_text(folder / "sized-sweep.json", sized.model_dump_json())
    picture = folder / "sweep" / "report" / "time-to-target.png"
    for in_the_way in (folder / "prediction.json", picture):
        in_the_way.mkdir(parents=True)
    notices: list[str] = []
    options = StudyOptions(folder, DATA, "cpu", 500.0, lambda stage: None, notices.append)
    page = study(spec, options, run_here)
    report = json.loads((page.parent / "report.json").read_text())
    failed = {failure["what"]: failure["why"] for failure in report["failed"]}
    eigenvalues = {f"top Hessian eigenvalue of batch {batch}" for batch in (16, 48)}
    assert failed.keys() == {"the prediction", "the picture time-to-target.png", *eigenvalues}
    assert all("has no second derivative" in failed[what] for what in eigenvalues)
    told = f"Left out: the prediction. {failed['the prediction']}"
    assert told in report["words"]
    assert told in notices
    assert told in html.unescape(page.read_text())
    assert any("epsilon 0.0005, random 100: beyond the gradient" in row[""] for row in report["tables"]["Small batch against large batch"])
    assert not (folder / "sharpness.json").exists()

    (tmp_path / "mended").touch()
    (folder / "prediction.json").rmdir()
    kept = [folder / "profile.json", *folder.rglob("summary.json")]
    before = [path.stat().st_mtime_ns for path in kept]
    page = study(spec, options, run_here)
    assert [path.stat().st_mtime_ns for path in kept] == before, "no run is made again"
    again = json.loads((page.parent / "report.json").read_text())
    assert [failure["what"] for failure in again["failed"]] == ["the picture time-to-target.png"]
    assert all(solution["top_eigenvalue"] > 0 for solution in json.loads((folder / "sharpness.json").read_text())["sharp"])


def test_a_run_to_the_end_that_fails_leaves_the_report(tmp_path: Path) -> None:
    """Nothing of the stage is kept, so that it is tried again."""
    findings = find([made_run(batch) for batch in (16, 64)])  # whose folders are not there
    expected = Expected(read_spec("digits-small-batch", ["stop.epochs=1"]), made_profile(), made_run(16))
    attempts = Attempts()
    options = StudyOptions(tmp_path, DATA, "cpu", 1e6, lambda stage: None, lambda text: None)
    assert solve(findings, expected, options, CPU, attempts).runs == []
    assert [failure.what for failure in attempts.failed] == ["the run to the end at batch 16", "the run to the end at batch 64"]
    assert list(tmp_path.iterdir()) == []


def test_sharpness_that_the_budget_does_not_hold_is_left_out_said_and_not_kept(tmp_path: Path) -> None:
    """At a sample a second, a fifth of 100 s is a twentieth of a sample for each of 400 passes; with more time the study goes on to measure it."""
    ended = {batch: made_run(batch).summary.model_copy(update={"samples_per_second": 1.0}) for batch in (16, 64)}
    for batch, summary in ended.items():  # an earlier call has trained them
        (tmp_path / f"{SOLUTION}{batch}").mkdir()
        (tmp_path / f"{SOLUTION}{batch}" / "summary.json").write_text(summary.model_dump_json())
    expected = Expected(read_spec("digits-small-batch", ["stop.epochs=1"]), made_profile(), made_run(16))
    notices: list[str] = []
    options = StudyOptions(tmp_path, DATA, "cpu", 100.0, lambda stage: None, notices.append)
    solutions = solve(find([made_run(batch) for batch in ended]), expected, options, CPU, Attempts())
    assert (solutions.runs, solutions.sharp) == (list(ended.values()), [])
    assert notices == ["No sharpness: the budget does not hold its passes over enough samples of this model."]
    assert {path.name for path in tmp_path.iterdir()} == {f"{SOLUTION}{batch}" for batch in ended}, "nothing else"
    assert affordable_samples([*ended.values()], 0.2 * 1e6) == 500


def test_where_the_sweep_took_too_long_the_rest_is_left_out(tmp_path: Path) -> None:
    """A budget of an hour, all of which is spent."""
    expected = Expected(read_spec("digits-small-batch", ["stop.epochs=1"]), made_profile(), made_run(16))
    notices: list[str] = []
    options = StudyOptions(tmp_path, DATA, "cpu", 3600.0, lambda stage: None, notices.append, began_s=time.monotonic() - 3600.0)
    assert solve(find([made_run(batch) for batch in (16, 64)]), expected, options, CPU, Attempts()).runs == []
    assert notices == ["No sharpness: the budget does not hold two runs to the end of the recipe's epochs."]


class Slow(Attempts):
    """Each part takes two seconds more than it would."""

    def attempt(self, what: str, do: Callable[[], Result]) -> Result | None:
        time.sleep(2)
        return super().attempt(what, do)


def test_a_run_to_the_end_that_no_longer_fits_is_not_begun(tmp_path: Path) -> None:
    """The budget held both by what was expected, with a second to spare; the first takes two more."""
    expected = Expected(read_spec("digits-small-batch", ["stop.epochs=1"]), made_profile(), made_run(16))
    left_s = AFTER_S + expected.to_the_end(16) + expected.to_the_end(64) + 1
    assert expected.to_the_end(16) < 1, "else the second would still fit"
    notices: list[str] = []
    options = StudyOptions(tmp_path, DATA, "cpu", 3600.0, lambda stage: None, notices.append, began_s=time.monotonic() + left_s - 3600.0)
    attempts = Slow()
    assert solve(find([made_run(batch) for batch in (16, 64)]), expected, options, CPU, attempts).runs == []
    assert [failure.what for failure in attempts.failed] == ["the run to the end at batch 16"]
    assert notices == ["No run to the end at batch 64: what came before took longer than expected, and the budget no longer holds it."]


def test_progress_names_the_metric(tmp_path: Path) -> None:
    told: list[str] = []
    job = prepared(stop={"epochs": 1, "target": {"metric": "loss", "value": 0.1}})
    train_kept(job, tmp_path / "run", lambda fraction, text: told.append(text), "batch 8, ")
    assert told
    assert all(text.startswith("batch 8, loss ") for text in told)
