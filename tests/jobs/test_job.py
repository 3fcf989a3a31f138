"""One job's order of things: what is there when the end is told, and what the wall clock counts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.prepared import Prepared
from largebatch.jobs.run.journal import read_records
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import EndRecord, NoticeRecord
from largebatch.jobs.run.run_folder import SUMMARY
from largebatch.jobs.spec.read import build_spec


def prepared(**parts: Any) -> Prepared:
    document: dict[str, Any] = {
        "dataset": {"name": "synthetic", "arguments": {"num_train": 64, "num_test": 16, "num_classes": 4, "shape": [1, 4, 4]}},
        "model": {"name": "mlp", "arguments": {"width": 4}},
        "batch": {"global_batch_size": 16},
        "optimizer": {"name": "sgd"},
        "learning_rate": {"base": 0.05},
        "stop": {"steps": 2},
        "tracking": {"enabled": False},
    }
    return prepare(build_spec({**document, **parts}), torch.device("cpu"), Path("nowhere"))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    return tmp_path / "run"


def has_ended(run_dir: Path) -> bool:
    return any(isinstance(record, EndRecord) for record in read_records(run_dir))


def test_figure_and_summary_are_there_before_the_end_is_told(run_dir: Path) -> None:
    """Whoever follows the journal, the MLflow mirror for one, takes them when it reads the end."""
    seen: list[tuple[bool, int]] = []

    def draw(folder: Path) -> None:
        seen.append((has_ended(folder), json.loads((folder / SUMMARY).read_text())["steps"]))

    run_job(prepared(), run_dir, Listener(), draw=draw)
    assert seen == [(False, 2)]
    assert has_ended(run_dir)


def test_a_figure_that_cannot_be_drawn_costs_no_run(run_dir: Path) -> None:
    def draw(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    told: list[str] = []
    summary = run_job(prepared(), run_dir, Listener(on_notice=told.append), draw=draw)
    assert summary.outcome == "completed"
    assert has_ended(run_dir)
    assert told == ["The run's figure could not be drawn ([Errno 28] No space left on device); everything else is there."]


def test_the_wall_clock_counts_preparation_of_every_process(run_dir: Path) -> None:
    job = prepared()
    object.__setattr__(job, "began", job.began - 1000.0)  # as if the data had taken so long
    first = run_job(job, run_dir, Listener())
    assert 1000.0 < first.wall_seconds < 1100.0
    again = prepared(stop={"steps": 3})
    object.__setattr__(again, "began", again.began - 500.0)
    second = run_job(again, run_dir, Listener(), resumes=True)
    assert 1500.0 < second.wall_seconds < 1700.0
    assert second.training_seconds > first.training_seconds


def test_an_option_that_nothing_reads_is_said_once_in_the_plans_own_words(run_dir: Path) -> None:
    """Also a run that goes on does not say it again."""
    told: list[str] = []
    listener = Listener(on_notice=told.append)
    job = prepared(batch_norm={"span": 8})
    run_job(job, run_dir, listener)
    run_job(prepared(batch_norm={"span": 8}, stop={"steps": 3}), run_dir, listener, resumes=True)
    (words,) = told
    assert words == f"Batch-norm: {dict(job.plan_in_words())['batch-norm']}."
    assert "batch_norm.span is not read" in words
    assert [record.text for record in read_records(run_dir) if isinstance(record, NoticeRecord)] == told


def test_an_option_that_is_read_or_was_not_set_is_not_spoken_of(tmp_path: Path) -> None:
    told: list[str] = []
    normalised = {"name": "mlp", "arguments": {"width": 4, "batch_norm": True}}
    for name, parts in {"read": {"model": normalised, "batch_norm": {"span": 8}}, "not set": {}}.items():
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        run_job(prepared(**parts), tmp_path / name, Listener(on_notice=told.append))
    assert told == []
