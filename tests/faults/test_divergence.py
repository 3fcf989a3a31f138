"""Divergence and a missed target are outcomes, never numbers."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import document, parameters, prepared

from largebatch.jobs.__main__ import main
from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.errors import DataError
from largebatch.jobs.preparing.batches import training_batches
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.journal import read_records, steps
from largebatch.jobs.run.records import EndRecord, EvalRecord, NoticeRecord
from largebatch.jobs.samples.keyed_random import sample_order

PLAIN = {"name": "sgd", "momentum": 0.0}


def trained(tmp_path: Path, capsys: pytest.CaptureFixture[str], **parts: Any) -> tuple[int, dict[str, Any], Path, str]:
    """Exit code, printed summary, the run's folder, and what was said."""
    (tmp_path / "spec.json").write_text(json.dumps(document(**{"optimizer": PLAIN, "stop": {"steps": 30}, **parts})))
    code = main([str(tmp_path / "spec.json"), "--output-dir", str(tmp_path / "runs"), "--device", "cpu"])
    captured = capsys.readouterr()
    (run_dir,) = (tmp_path / "runs").iterdir()
    return code, json.loads(captured.out, parse_constant=pytest.fail), run_dir, captured.err


def assert_no_number_that_is_none(run_dir: Path) -> None:
    for path in (run_dir / "records.jsonl", run_dir / "summary.json"):
        for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(line, parse_constant=pytest.fail)  # NaN, Infinity and -Infinity are what it would be called with
    for record in read_records(run_dir):
        for value in record.model_dump().values():
            assert not isinstance(value, float) or math.isfinite(value)
    written = [json.loads(line)["kind"] for line in (run_dir / "records.jsonl").read_text().splitlines()]
    assert len(written) == len(read_records(run_dir)), "a line that cannot be read back as a record"


@pytest.mark.parametrize("rate", [1e12, 1e20, 1e37])
def test_a_rate_far_too_large_is_a_divergence(rate: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = {"learning_rate": {"base": rate}, "stop": {"steps": 30, "target_accuracy": 0.9}, "checkpoint": {"every_steps": 1, "keep": 50}}
    code, summary, run_dir, said = trained(tmp_path, capsys, **parts)
    assert code == 3
    assert (summary["outcome"], summary["time_to_target_seconds"], summary["steps_to_target"]) == ("diverged", None, None)
    assert summary["train_score"] is None
    assert "Diverged: the loss is" in said
    assert "Lower learning_rate.base" in said
    assert_no_number_that_is_none(run_dir)
    records = read_records(run_dir)
    assert [record.step for record in steps(records)] == list(range(1, summary["steps"] + 1))
    assert any(isinstance(record, NoticeRecord) for record in records)
    assert isinstance(records[-1], EndRecord)


def test_a_model_that_overflows_at_the_last_step_is_a_divergence_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The only step's gradient is finite and what it makes of the weights is not: the evaluation finds out."""
    code, summary, run_dir, _ = trained(tmp_path, capsys, learning_rate={"base": 3e38}, stop={"steps": 1, "target_accuracy": 0.9})
    assert (code, summary["outcome"]) == (3, "diverged")
    assert summary["score"] is None
    assert_no_number_that_is_none(run_dir)
    assert not any(isinstance(record, EvalRecord) for record in read_records(run_dir))
    assert list_checkpoints(run_dir / "checkpoints") == [], "weights that are not finite are not worth keeping"


def test_the_step_that_is_not_finite_changes_no_parameter() -> None:
    """One pixel that is not a number, in the second batch: weights, momentum and average stay as the first step left them."""
    job = prepared(optimizer={"name": "adamw"}, ema={"decay": 0.9})
    state, batches = new_state(job), training_batches(job)
    optimizer_step(state, job.plan, job.plan.step_at(state.progress.position), batches, pytest.fail)

    class Poisoned:
        def read(self, samples: Any) -> tuple[torch.Tensor, torch.Tensor]:
            inputs, labels = batches.read(samples)
            inputs[3, 0, 1, 1] = float("nan")
            return inputs, labels

    def everything() -> list[torch.Tensor]:
        saved = state.state_dict()
        moments = [value for values in saved["optimizer"]["state"].values() for value in values.values()]
        return [tensor.clone() for tensor in (*saved["model"].values(), *moments, *saved["average"]["averages"])]

    before, progress = everything(), vars(state.progress).copy()
    number = int(sample_order(job.spec.seed, 0, 64)[16 + 3])
    with pytest.raises(DataError, match=f"training sample {number} holds NaN or infinity, so the loss of step 2 is not finite"):
        optimizer_step(state, job.plan, job.plan.step_at(state.progress.position), Poisoned(), pytest.fail)
    assert all(torch.equal(now, then) for now, then in zip(everything(), before, strict=True))
    assert vars(state.progress) == progress


def test_a_diverged_run_keeps_its_last_finite_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, summary, run_dir, _ = trained(tmp_path, capsys, learning_rate={"base": 1e8}, checkpoint={"every_steps": 1, "keep": 1, "best": False})
    newest = list_checkpoints(run_dir / "checkpoints")[0]
    assert newest.step == summary["steps"]
    assert all(bool(tensor.isfinite().all()) for tensor in parameters(run_dir).values())


def test_a_missed_target_is_a_miss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, summary, run_dir, _ = trained(tmp_path, capsys, learning_rate={"base": 1e-9}, stop={"steps": 5, "target_accuracy": 1.0})
    assert (code, summary["outcome"]) == (0, "missed")
    assert (summary["time_to_target_seconds"], summary["steps_to_target"]) == (None, None)
    assert 0.0 <= summary["best_score"] < 1.0
    end = read_records(run_dir)[-1]
    assert isinstance(end, EndRecord)
    assert end.summary.time_to_target_seconds is None
    assert '"time_to_target_seconds":null' in (run_dir / "records.jsonl").read_text()


def test_without_a_target_it_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, summary, _, _ = trained(tmp_path, capsys, stop={"steps": 5})
    assert (code, summary["outcome"], summary["time_to_target_seconds"]) == (0, "completed", None)
