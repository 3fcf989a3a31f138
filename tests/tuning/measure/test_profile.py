"""A profile of a real model on this machine, and the doors of study and profile."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import largebatch
from torch import nn

from largebatch.jobs.errors import InputError, LargebatchError, PlanError
from largebatch.jobs.job import prepare
from largebatch.jobs.run.journal import read_records
from largebatch.jobs.run.records import StartRecord
from largebatch.jobs.spec.read import read_spec
from largebatch.tuning.measure.profile import batch_sizes_to_profile, profile
from largebatch.tuning.results.analysis.step_time import Profile, ProfilePoint, profile_in_words
from largebatch.tuning.study.options import Stage, StudyOptions, begin_study, change_budget
from largebatch.tuning.study.study import study


def test_every_batch_size_from_one_to_the_full_set() -> None:
    assert batch_sizes_to_profile(1437) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1437]
    assert batch_sizes_to_profile(1024)[-2:] == [512, 1024]
    assert batch_sizes_to_profile(1) == [1]


def test_a_model_with_batch_norm_has_no_batch_of_one() -> None:
    spec = read_spec("digits-small-batch", ["model.arguments.batch_norm=true"])
    seen = []
    found = profile(
        spec, lambda one: prepare(one, torch.device("cpu"), Path("data")), [64, 1, 1437], seconds_per_batch=0.05,
        on_point=lambda batch, done, of: seen.append((batch, done, of)),
    )  # fmt: skip
    assert [point.global_batch_size for point in found.points] == [64, 1437]
    assert list(found.left_out) == [1]
    assert seen == [(1, 0, 3), (64, 1, 3), (1437, 2, 3)]
    for point in found.points:
        assert point.num_steps >= 2
        assert point.seconds_per_epoch == pytest.approx(point.seconds_per_step * 1437 / point.global_batch_size)
        assert point.samples_per_second == pytest.approx(point.global_batch_size / point.seconds_per_step)
    assert found.gradient_bytes == 4 * sum(p.numel() for p in prepare(spec, torch.device("cpu"), Path("data")).model.parameters())
    assert (found.model_in_words, found.dataset_in_words, found.seed, found.optimizer) == (
        "mlp (batch_norm True, depth 2, width 128)",
        "digits",
        0,
        "sgd",
    )
    assert found.seconds_per_step(64) == found.points[0].seconds_per_step
    low, high = sorted(point.seconds_per_step for point in found.points)  # other programs may slow either of the two
    assert low < found.seconds_per_step(500) < high


class SlowBySamples(nn.Module):
    """Takes at least so long for each sample of a forward pass, whatever else the machine does."""

    SECONDS = 1e-5

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(64, num_classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        time.sleep(len(inputs) * self.SECONDS)
        outputs: torch.Tensor = self.linear(inputs.flatten(1))
        return outputs


@pytest.mark.parametrize("batch", [1000, 720, 1024])
def test_short_last_batches_are_not_timed(batch: int) -> None:
    """Of 1,437 samples every second step of a batch of 1,000 has 437; the median of three such steps was the time of those."""
    spec = read_spec("digits-small-batch", [f"model={{entry_point: '{__name__}:SlowBySamples'}}", "batch.micro_batch_size=1437"])
    found = profile(spec, lambda one: prepare(one, torch.device("cpu"), Path("data")), [batch], seconds_per_batch=0.01)
    assert found.points[0].num_steps >= 2
    assert found.points[0].seconds_per_step >= batch * SlowBySamples.SECONDS


def test_batches_that_cannot_be_are_refused_if_none_can() -> None:
    with pytest.raises(PlanError, match="more than the 1437"):
        profile(read_spec("digits-small-batch"), lambda one: prepare(one, torch.device("cpu"), Path("data")), [5000])


def test_a_target_that_no_run_could_have_is_refused_before_anything_is_measured() -> None:
    spec = read_spec("digits-small-batch", ["stop={epochs: 5, target: {metric: mape, value: 0.5}}"])
    with pytest.raises(PlanError, match="has no metric mape"):
        profile(spec, lambda one: prepare(one, torch.device("cpu"), Path("data")), [64])


def test_the_command(tmp_path: Path) -> None:
    arguments = ["profile", "digits-small-batch", "--batch-sizes", "16,256", "--seconds", "0.05", "--output", str(tmp_path / "p.json"), "--json"]
    done = largebatch(*arguments, "--figure", tmp_path / "figures", "--device", "cpu")
    assert json.loads(done.stdout) == json.loads((tmp_path / "p.json").read_text())
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"time-of-update.png", "time-of-epoch.png"}


def test_one_batch_size_gives_no_split_and_memory_on_a_cpu_is_named_for_what_it_is() -> None:
    done = largebatch("profile", "digits-small-batch", "--batch-sizes", "64", "--seconds", "0.05", "--device", "cpu")
    assert "one batch size alone does not tell what every step costs" in done.stdout
    assert "nearly free" not in done.stdout
    assert "process memory so far" in done.stdout
    assert "the most that this process has held so far" in done.stdout


def test_what_a_step_costs_in_words() -> None:
    def words(*seconds: float) -> str:
        points = [
            ProfilePoint(global_batch_size=batch, micro_batch_size=batch, seconds_per_step=step, seconds_per_epoch=1.0, samples_per_second=1.0,
                         peak_memory_bytes=1, num_steps=5)
            for batch, step in zip((8, 64, 512), seconds, strict=True)
        ]  # fmt: skip
        return profile_in_words(Profile(recipe="made", device="cpu", num_train_samples=512, gradient_bytes=1, points=points, left_out={}))

    assert "up to batch 100 larger steps are nearly free" in words(*(0.1 + batch / 1000 for batch in (8, 64, 512)))
    assert "already at batch 8, the smallest measured, larger steps cost more" in words(*(batch / 1000 for batch in (8, 64, 512)))
    assert "a step costs 100 ms, and larger steps are nearly free up to 512, the largest measured" in words(0.1, 0.1, 0.1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["profile", "digits-small-batch", "--batch-sizes", "a,b"], "not a list of whole numbers"),
        (["profile", "digits-small-batch", "--batch-sizes", "0"], "below 1"),
        (["study", "digits-small-batch", "--budget", "soon"], "not a time"),
        (["study", "digits-small-batch", "--budget", "3s"], "--budget: 3 s hold no study"),
        (["study"], "either a recipe or --resume"),
        (["study", "--resume", "nowhere"], "not a study's folder"),
        (["study", "digits-lamb", "--budget", "1m"], "is not set, and a study compares times to it"),
        (["sweep"], "either a sweep or --resume"),
        (["sweep", "digit-batches"], "Did you mean digits-batches"),
        (["sweep", "--resume", "nowhere"], "not a sweep's folder"),
        (["advise"], "Give run folders"),
        (["advise", "--experiment", "x"], "--mlflow-uri: is missing"),
        (["scale", "runs"], "Make one: largebatch profile"),
        (["sharpness", "nowhere"], "RUN: nowhere is not a run's folder"),
        (["study", "mnist-f1", "--data-dir", "none"], "MNIST is not in none"),
    ],
)
def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(LargebatchError, match=words):
        largebatch(*arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_budget_that_holds_nothing_is_refused_with_numbers_and_nothing_is_lost(tmp_path: Path) -> None:
    """Of a model that is slow while its steps are measured, so that few epochs are too many."""
    folder, quick = tmp_path / "study", tmp_path / "quick"
    fields = ["stop.target_accuracy=0.9", "stop.at_target=false", "stop.epochs=20", "batch.global_batch_size=256", "tracking.enabled=false"]
    spec = read_spec("digits-small-batch", [*fields, f"model={{entry_point: 'slow:build', arguments: {{until: {quick}}}}}"])
    begin_study(folder, spec, 10.0)

    def carry_on(budget_s: float) -> list[Stage]:
        stages: list[Stage] = []
        options = StudyOptions(folder, Path("data"), "cpu", budget_s, stages.append, lambda text: None, profile_share=0.8)
        study(spec, options, lambda folder, sweep, base: 1)
        return stages

    with pytest.raises(InputError, match="hold no sweep") as refused:
        carry_on(10.0)
    assert re.search(rf"Use --budget \d+m --resume {folder}: what was measured is kept", refused.value.hint)
    assert not (folder / "reference").exists(), "its length is known before it trains"
    kept = [folder / "profile.json"]
    before = [path.stat().st_mtime_ns for path in kept]
    quick.touch()
    change_budget(folder, 600.0)
    assert json.loads((folder / "study.json").read_text())["budget_s"] == 600.0
    assert carry_on(600.0)[-1].name == "sweep"
    assert [path.stat().st_mtime_ns for path in kept] == before
    with pytest.raises(InputError, match="was sized to its budget already"):
        change_budget(folder, 1200.0)


def test_a_recipe_that_is_longer_than_its_share_is_refused_and_goes_on_with_more(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    spec = read_spec("digits-small-batch", ["stop.target_accuracy=0.9999", "stop.epochs=60", "batch.global_batch_size=256", "tracking.enabled=false"])
    begin_study(folder, spec, 2000.0)  # what a busy machine still holds a sweep in; nothing below lasts that long
    options = StudyOptions(folder, Path("data"), "cpu", 2000.0, lambda stage: None, lambda text: None, profile_share=1e-3, reference_share=1e-5)
    with pytest.raises(InputError, match="its whole length takes about") as refused:
        study(spec, options, lambda folder, sweep, base: 1)
    assert f"--resume {folder}: what was done is kept" in refused.value.hint
    assert study(spec, replace(options, reference_share=0.5), lambda folder, sweep, base: 1) is None, "the sweep was stopped"
    starts = [record.step for record in read_records(folder / "reference") if isinstance(record, StartRecord)]
    assert starts[0] == 0
    assert starts[1] > 0, "from its checkpoint"
