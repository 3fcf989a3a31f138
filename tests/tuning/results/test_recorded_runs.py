"""Runs that `largebatch.Recorder` wrote, as answers read them; and what needs a recipe or weights refuses them by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import largebatch, said

from largebatch.jobs.recorder.recorder import Recorder
from largebatch.jobs.run.load import load_run
from largebatch.service.present.curves import read_series

COSTS = {8: (5, 7), 16: (3, 3), 32: (2, 4), 64: (2, 2)}
"""Of each batch and seed, how many epochs of 64 samples it takes to the target."""


def record(folder: Path, batch: int, seed: int, epochs: int, **given: Any) -> Path:
    """A run that comes to accuracy 0.5 in the last of so many epochs."""
    sgd = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.01 * batch, momentum=0.9)
    recorder = Recorder(model="net", dataset="data", optimizer=sgd, global_batch_size=batch, num_train_samples=64, seed=seed, target=0.5,
                        output_dir=folder, **given)  # fmt: skip
    with recorder:
        for epoch in range(1, epochs + 1):
            for _ in recorder.training(range(64 // batch)):
                recorder.step(1.0, batch, noise=(12.0, 0.5))
            recorder.evaluation({"accuracy": 0.5 if epoch == epochs else 0.1})
    return recorder.run_dir


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for batch, costs in COSTS.items():
        for seed, epochs in enumerate(costs):
            record(tmp_path / "runs", batch, seed, epochs)
    return tmp_path / "runs"


def test_batches_are_answered_about_by_what_their_runs_cost(runs: Path) -> None:
    rows = json.loads(largebatch("compare", runs, "--json").stdout)
    assert sorted((row["global_batch_size"], row["samples_seen"]) for row in rows) == sorted(
        (batch, 64 * epochs) for batch, costs in COSTS.items() for epochs in costs
    )
    assert {(row["optimizer"], row["gradient_noise_scale"]) for row in rows} == {("sgd", 24.0)}
    answer = json.loads(largebatch("advise", runs, "--json").stdout)
    (cheapest,) = [advice for advice in answer["advice"] if advice["question"] == "cheapest"]
    assert (cheapest["choice"]["global_batch_size"], cheapest["choice"]["samples"]) == (64, 128.0)
    assert cheapest["choice"]["learning_rate"] == 0.64
    assert answer["critical_batch"] is not None
    text = largebatch("advise", runs).stdout
    assert "largebatch branch" not in text, "which refuses them"
    assert "A run with a batch that grows, recorded beside one of equal length without, measures it." in text
    assert "8 runs of 4 batch sizes, to validation accuracy 0.5" in text
    assert "no run scored a test set" in text
    assert "The runs differ" not in text


def test_a_setting_that_differs_is_named_and_makes_another_configuration(runs: Path) -> None:
    record(runs, 64, 2, 1, settings={"augmentation": "flip"})
    assert "settings.augmentation (flip, not set)" in largebatch("advise", runs).stdout


@pytest.mark.usefixtures("blank_pictures")
def test_a_report_is_made_of_them(runs: Path, tmp_path: Path) -> None:
    largebatch("report", runs, "--output", tmp_path / "report")
    assert (tmp_path / "report" / "report.html").is_file()
    assert not (tmp_path / "report" / "recipe.yaml").exists()


@pytest.mark.parametrize("command", ["train --resume", "export --output x.pt", "sharpness", "branch", "sync"])
def test_what_needs_a_recipe_or_weights_refuses_them(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = record(tmp_path, 64, 0, 1)
    before = {path.name: path.read_bytes() for path in run_dir.iterdir() if path.is_file()}
    code, _, err = said(capsys, *command.split(), run_dir)
    assert code == 2
    assert "was recorded in another program's loop: largebatch has no recipe, no data and no checkpoint of it." in err
    assert {path.name: path.read_bytes() for path in run_dir.iterdir() if path.name in before} == before


def test_a_page_draws_its_curves(tmp_path: Path) -> None:
    series = read_series(record(tmp_path, 16, 0, 2), points=100)
    assert [(step["step"], step["loss"], step["gradient_norm"]) for step in series.steps] == [(number, 1.0, None) for number in range(1, 9)]
    assert [(at["step"], at["score"]) for at in series.evaluations] == [(4, 0.1), (8, 0.5)]
    assert {point["gradient_noise_scale"] for point in series.noise} == {24.0}
    assert series.happened[-1].text == "Ended: reached"


def test_a_run_that_has_not_ended_is_left_out(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = record(runs, 64, 9, 1)
    (run_dir / "summary.json").unlink()
    assert load_run(run_dir).summary is None
    assert f"Left out: 1 runs in {runs} that have not ended." in largebatch("advise", runs).stdout
    code, _, err = said(capsys, "advise", run_dir)
    assert code == 2
    assert "Wait for the program that records it." in err
