"""Stopping and going on again is the same, bit for bit, as never having stopped."""

import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Samples, notices, prepared, stopping_after, synthetic, trained
from small_runs import steps as step_numbers
from torch import nn

from largebatch.jobs.errors import CheckpointError
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.run.journal import evaluations, read_records, steps
from largebatch.jobs.run.records import Outcome, RunSummary

NUM_STEPS = 7  # epochs of three steps (32 + 32 + 16 of 80 samples): stops fall in the middle and at the end of an epoch
SGD = {"name": "sgd", "nesterov": True, "weight_decay": 0.001}
BATCH = {"global_batch_size": 32, "micro_batch_size": 16}


def with_dropout(num_classes: int) -> nn.Module:
    """An entry point: a model whose draws must not depend on where the run was cut."""
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, num_classes))


def own_samples() -> list[Samples]:
    """An entry point: data that draw at random while they are read."""
    return [Samples(size, lambda index: (torch.randn(1, 6, 6) + index % 4, index % 4), num_classes=4) for size in (80, 20)]


@pytest.fixture(autouse=True)
def own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """This file as the module `own_code`, as a person's file beside the run would be."""
    monkeypatch.setitem(sys.modules, "own_code", sys.modules[__name__])


CASES: dict[str, dict[str, Any]] = {
    "sgd, dropout, average": {"model": {"entry_point": "own_code:with_dropout"}, "ema": {"decay": 0.9}},
    "lars, augmented": {
        "optimizer": {"name": "lars"},
        "dataset": {"augment": {"horizontal_flip": "alternating", "translate": 1, "cutout": 2}},
    },
    "lamb, clipped, smoothed": {"optimizer": {"name": "lamb"}, "gradient": {"clip_norm": 0.5}, "loss": {"label_smoothing": 0.1}},
    "adamw, cosine, batch-norm": {
        "optimizer": {"name": "adamw", "weight_decay": 0.01},
        "model": {"name": "mlp", "arguments": {"width": 8, "batch_norm": True}},
        "batch_norm": {"span": 16},
        "learning_rate": {"base": 0.05, "decay": "cosine", "warmup_epochs": 1.0},
    },
    "batch-norm over the last three steps": {
        "model": {"name": "mlp", "arguments": {"width": 8, "batch_norm": True}},
        "batch_norm": {"span": 8, "average_last_steps": 3},
    },
    "muon, clipped, average, freeze, groups, batch schedule": {
        "optimizer": {
            "name": "muon",
            "weight_decay": 0.01,
            "other": {"name": "lamb"},
            "other_learning_rate_factor": 0.5,
            "groups": [{"pattern": "*.weight", "learning_rate_factor": 0.5}],
        },
        "model": {"name": "lenet", "arguments": {"channels": [4, 4], "width": 8}, "channels_last": True, "freeze": ["*.bias"]},
        "dataset": synthetic(80, 20, (1, 12, 12)),
        "batch_norm": {"span": 16},
        "gradient": {"clip_norm": 0.5},
        "ema": {"decay": 0.9},
        "learning_rate": {"base": 0.05, "decay": "cosine", "warmup_epochs": 1.0},
        "batch": {**BATCH, "schedule": {"growth": [{"epoch": 1.5, "factor": 2.0}]}},
    },
    "soap, frozen biases, batch schedule": {
        "optimizer": {"name": "soap", "weight_decay": 0.01, "precondition_frequency": 2, "other": {"name": "sgd"}},
        "model": {"name": "lenet", "arguments": {"channels": [4, 4], "width": 8}, "channels_last": True, "freeze": ["*.bias"]},
        "dataset": synthetic(80, 20, (1, 12, 12)),
        "batch_norm": {"span": 16},
        "learning_rate": {"base": 0.05, "decay": "cosine", "warmup_epochs": 1.0},
        "batch": {**BATCH, "schedule": {"growth": [{"epoch": 1.5, "factor": 2.0}]}},
    },
    "shampoo, clipped, average, groups": {
        "optimizer": {"name": "shampoo", "precondition_frequency": 3, "groups": [{"pattern": "1.*", "learning_rate_factor": 0.5}]},
        "gradient": {"clip_norm": 0.5},
        "ema": {"decay": 0.9},
    },
    "lion, groups": {
        "optimizer": {"name": "lion", "weight_decay": 0.1, "groups": [{"pattern": "1.*", "learning_rate_factor": 0.5}]},
        "learning_rate": {"base": 0.01},
    },
    "rmsprop that passes into sgd, dropout, steps up and down": {
        "optimizer": {"name": "rmsprop-sgd", "weight_decay": 0.001, "transition_epoch": 1.0, "transition_period_epochs": 1.0},
        "model": {"entry_point": "own_code:with_dropout"},
        "learning_rate": {"base": 0.1},
    },
    "schedule-free adamw, dropout": {
        "optimizer": {"name": "schedule-free-adamw", "weight_decay": 0.01},
        "model": {"entry_point": "own_code:with_dropout"},
        "learning_rate": {"base": 0.05, "warmup_epochs": 1.0},
    },
    "schedule-free sgd, batch-norm": {
        "optimizer": {"name": "schedule-free-sgd"},
        "model": {"name": "mlp", "arguments": {"width": 8, "batch_norm": True}},
        "batch_norm": {"span": 16},
    },
    "an optimizer of one's own, clipped": {
        "optimizer": {"entry_point": "torch.optim:RMSprop", "arguments": {"alpha": 0.9, "momentum": 0.5}, "weight_decay": 0.01},
        "gradient": {"clip_norm": 0.5},
        "learning_rate": {"base": 0.01},
    },
    "a factored optimizer of one's own": {"optimizer": {"entry_point": "torch.optim:Adafactor"}, "learning_rate": {"base": 0.1}},
    "batch schedule": {"batch": {**BATCH, "schedule": {"warmup": {"start": 8, "epochs": 0.5}, "growth": [{"epoch": 1.5, "factor": 2.0}]}}},
    "adamw, batch-norm, a batch that follows a cosine": {
        "optimizer": {"name": "adamw", "weight_decay": 0.01},
        "model": {"name": "mlp", "arguments": {"width": 8, "batch_norm": True}},
        "batch_norm": {"span": 8},
        "learning_rate": {"base": 0.05, "decay": "cosine", "warmup_epochs": 0.5},
        "batch": {"global_batch_size": 16, "micro_batch_size": 24, "schedule": {"follows_rate": {"largest_factor": 4}}},
        "stop": {"epochs": 2.0},
    },
    "doubling in samples": {
        "batch": {"global_batch_size": 16, "micro_batch_size": 16, "schedule": {"doubling": {"samples": 70, "times": 2}, "rate_follows": "linear"}},
        "stop": {"epochs": 3.0},
    },
    "adamw by half-lives and a time scale, batch schedule": {
        "optimizer": {
            "name": "adamw",
            "beta1_half_life_samples": 100.0,
            "beta2_half_life_samples": 1000.0,
            "weight_decay_time_scale": 0.5,
        },
        "learning_rate": {"base": 0.05},
        "batch": {**BATCH, "schedule": {"growth": [{"epoch": 1.5, "factor": 2.0}]}},
    },
    "adascale": {"learning_rate": {"base": 0.1, "scaling": "adascale", "base_global_batch_size": 8}, "stop": {"steps": 14}},
    "read sample by sample": {"dataset": {"entry_point": "own_code:own_samples"}, "batch": {**BATCH, "last": "drop"}},
    "bfloat16, channels last": {
        "precision": "bfloat16",
        "model": {"name": "lenet", "arguments": {"channels": [4, 4], "width": 8}, "channels_last": True},
        "batch_norm": {"span": 16},
    },
}


def run(parts: dict[str, Any], run_dir: Path, *, resumes: bool = False, stop_after: int | None = None) -> RunSummary:
    """One process's part of a run: up to the end, or up to so many of its own steps."""
    usual = {"model": {"name": "mlp", "arguments": {"width": 8}}, "batch": BATCH, "optimizer": SGD, "learning_rate": {"base": 0.1}}
    dataset = parts.get("dataset", {})
    own = parts | {"dataset": dataset if "entry_point" in dataset else synthetic(80, 20, (1, 6, 6)) | dataset}
    job = prepared(**{**usual, "stop": {"steps": NUM_STEPS}, "checkpoint": {"every_seconds": None}, **own})
    return trained(job, run_dir, stopping_after(stop_after), resumes=resumes)


def told(run_dir: Path) -> list[dict[str, Any]]:
    """Everything the journal says of steps and evaluations, but for the seconds."""
    records = read_records(run_dir)
    seconds = {"training_seconds", "evaluation_seconds"}
    return [record.model_dump(exclude=seconds) for record in (*steps(records), *evaluations(records))]


def some(num_steps: int) -> set[int]:
    """In the middle of the first epoch of three, at its end, and before the last step."""
    return {1, 3, num_steps - 1}


def every(num_steps: int) -> range:
    return range(1, num_steps)


@pytest.mark.parametrize("stops", [some, pytest.param(every, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES)
def test_stopping_after_any_step_changes_no_bit(case: str, stops: Callable[[int], Iterable[int]], tmp_path: Path) -> None:
    if (library := OPTIMIZERS[CASES[case].get("optimizer", SGD).get("name", "sgd")].library) is not None:
        pytest.importorskip(library)
    whole = run(CASES[case], tmp_path / "whole")
    told_whole = told(tmp_path / "whole")
    assert whole.steps >= 4
    assert len({record["loss"] for record in told_whole if record["kind"] == "step"}) == whole.steps
    for stop_after in stops(whole.steps):
        run_dir = tmp_path / str(stop_after)
        stopped = run(CASES[case], run_dir, stop_after=stop_after)
        assert (stopped.outcome, stopped.steps) == (Outcome.STOPPED, stop_after)
        assert stopped.parameters_sha256 != whole.parameters_sha256
        resumed = run(CASES[case], run_dir, resumes=True)
        assert resumed.parameters_sha256 == whole.parameters_sha256, stop_after
        assert told(run_dir) == told_whole, stop_after
        same = {"outcome", "samples_seen", "epochs", "gradient_noise_scale", "score", "best_score", "train_score"}
        assert resumed.model_dump(include=same) == whole.model_dump(include=same)


@pytest.mark.parametrize("case", ["sgd, dropout, average", "adascale", "adamw, cosine, batch-norm"])
def test_a_stop_after_every_single_step_changes_no_bit(case: str, tmp_path: Path) -> None:
    whole = run(CASES[case], tmp_path / "whole")
    run_dir = tmp_path / "chain"
    summary = run(CASES[case], run_dir, stop_after=1)
    seconds = [summary.training_seconds]
    while summary.outcome is Outcome.STOPPED:
        summary = run(CASES[case], run_dir, resumes=True, stop_after=1)
        seconds.append(summary.training_seconds)
    assert summary.parameters_sha256 == whole.parameters_sha256
    assert told(run_dir) == told(tmp_path / "whole")
    assert len(seconds) == whole.steps
    assert seconds == sorted(seconds), "a resumed clock goes on from the seconds spent"


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    """The comparisons above can fail: what they compare follows the seed."""
    one, other = (run({"seed": seed}, tmp_path / str(seed)) for seed in (0, 1))
    assert one.parameters_sha256 != other.parameters_sha256


def test_the_longer_budget_goes_on_where_the_shorter_one_ended(tmp_path: Path) -> None:
    """With a constant rate nothing looks at the horizon: two epochs and two more are four."""
    whole = run({"stop": {"epochs": 4.0}}, tmp_path / "whole")
    first = run({"stop": {"epochs": 2.0}}, tmp_path / "extended")
    second = run({"stop": {"epochs": 4.0}}, tmp_path / "extended", resumes=True)
    assert (first.steps, second.steps) == (6, 12)
    assert second.parameters_sha256 == whole.parameters_sha256
    assert told(tmp_path / "extended") == told(tmp_path / "whole")


@pytest.mark.parametrize("epochs", [2.0, 6.0])
def test_another_end_on_resuming_moves_the_decay_and_says_so(epochs: float, tmp_path: Path) -> None:
    """Stopped in the second of four epochs. Cosine's definition, at the middle of each step: 16, 48 and 72 of an epoch's 80 samples."""
    cosine: dict[str, Any] = {"learning_rate": {"base": 0.2, "decay": "cosine"}}
    run({**cosine, "stop": {"epochs": 4.0}}, tmp_path, stop_after=4)
    summary = run({**cosine, "stop": {"epochs": epochs}}, tmp_path, resumes=True)
    taken = list(steps(read_records(tmp_path)))
    assert summary.steps == len(taken) == 3 * epochs
    for index, record in enumerate(taken):
        end = 4 if index < 4 else epochs
        assert record.learning_rate == pytest.approx(0.1 * (1 + math.cos(math.pi * (index // 3 + (0.2, 0.6, 0.9)[index % 3]) / end)), rel=1e-9)
    (notice,) = notices(tmp_path)
    assert notice == (
        f"stop.epochs is {epochs} now, it was 4.0: the cosine decay ends with the run, so from here on the rate is that of a run with this end from"
        " its start. Going on from step 4."
    )


def test_another_end_on_resuming_moves_weight_decay_by_time_scale_and_says_so(tmp_path: Path) -> None:
    """A constant rate looks at no end, a decay that is a part of the run does."""
    parts: dict[str, Any] = {"optimizer": {"name": "lion", "weight_decay_time_scale": 0.5}, "learning_rate": {"base": 1e-3}}
    run({**parts, "stop": {"epochs": 4.0}}, tmp_path, stop_after=4)
    run({**parts, "stop": {"epochs": 6.0}}, tmp_path, resumes=True)
    (notice,) = notices(tmp_path)
    assert notice == (
        "stop.epochs is 6.0 now, it was 4.0: its time scale is a part of the run, so from here on weight decay is that of a run with this end from"
        " its start. Going on from step 4."
    )


@pytest.mark.parametrize("schedule", [{"follows_rate": {"largest_factor": 2}}, {"growth": [{"fraction": 0.5, "factor": 2.0}]}], ids=str)
def test_another_end_is_refused_where_batches_are_read_over_the_whole_run(schedule: dict[str, Any], tmp_path: Path) -> None:
    parts: dict[str, Any] = {"learning_rate": {"base": 0.2, "decay": "cosine"}, "batch": {**BATCH, "schedule": schedule}}
    run({**parts, "stop": {"epochs": 4.0}}, tmp_path, stop_after=4)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="with another end the batches so far would have been others") as refused:
        run({**parts, "stop": {"epochs": 6.0}}, tmp_path, resumes=True)
    assert refused.value.field == "stop.epochs"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_end_that_is_passed_is_refused(tmp_path: Path) -> None:
    run({"stop": {"epochs": 4.0}}, tmp_path, stop_after=7)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"the run has done 7 steps, 2\.4 epochs already, more than 2\.0 epochs") as refused:
        run({"stop": {"epochs": 2.0}}, tmp_path, resumes=True)
    assert refused.value.field == "stop.epochs"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_finished_run_that_is_resumed_ends_at_once_and_unchanged(tmp_path: Path) -> None:
    first = run({}, tmp_path / "run")
    again = run({}, tmp_path / "run", resumes=True)
    same = {"outcome", "steps", "parameters_sha256", "score", "best_score", "train_score", "training_seconds"}
    assert again.model_dump(include=same) == first.model_dump(include=same)
    assert step_numbers(tmp_path / "run") == list(range(1, NUM_STEPS + 1))


def test_another_target_on_resuming_is_measured_from_the_beginning(tmp_path: Path) -> None:
    """The time to a target is a property of the curve: a run that is resumed with another tells what one with it from the start would."""
    often: dict[str, Any] = {"evaluation": {"every_epochs": 0.3}, "learning_rate": {"base": 0.01}}
    stop = {"steps": NUM_STEPS, "at_target": False}
    run_dir = tmp_path / "run"
    first = run({**often, "stop": {**stop, "target_accuracy": 0.01}}, run_dir)
    curve = list(evaluations(read_records(run_dir)))
    best = max(point.score for point in curve)
    assert (first.outcome, first.steps_to_target) == (Outcome.REACHED, 1)
    assert 0.01 < best < 1.0
    met = next(point for point in curve if point.score == best)
    assert met.step > 1
    for target, want in (
        (best, (Outcome.REACHED, met.step, met.training_seconds)),
        (1.0, (Outcome.MISSED, None, None)),
        (None, (Outcome.COMPLETED, None, None)),
        (0.01, (Outcome.REACHED, 1, curve[0].training_seconds)),
    ):
        summary = run({**often, "stop": {**stop, "target_accuracy": target}}, run_dir, resumes=True)
        assert (summary.outcome, summary.steps_to_target, summary.time_to_target_seconds) == want
        assert (summary.target, summary.steps) == (target, NUM_STEPS)


def test_a_run_that_met_its_target_goes_on_to_a_higher_one(tmp_path: Path) -> None:
    often: dict[str, Any] = {"evaluation": {"every_epochs": 0.3}, "learning_rate": {"base": 0.01}}
    whole = run({**often, "stop": {"steps": NUM_STEPS, "target_accuracy": 1.0}}, tmp_path / "whole")
    run_dir = tmp_path / "run"
    first = run({**often, "stop": {"steps": NUM_STEPS, "target_accuracy": 0.01}}, run_dir)
    assert (first.outcome, first.steps) == (Outcome.REACHED, 1)
    second = run({**often, "stop": {"steps": NUM_STEPS, "target_accuracy": 1.0}}, run_dir, resumes=True)
    same = {"outcome", "steps", "steps_to_target", "parameters_sha256"}
    assert second.model_dump(include=same) == whole.model_dump(include=same)
