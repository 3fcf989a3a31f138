"""One job's order of things: what is there when the end is told, and what the wall clock counts."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_runs import notices, prepared, trained

from largebatch.jobs.job import run_job
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.journal import read_records
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import EndRecord
from largebatch.jobs.run.run_folder import SUMMARY


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


def two_steps(num_steps: int = 2, **parts: Any) -> Prepared:
    return prepared(stop={"steps": num_steps}, **parts)


def has_ended(run_dir: Path) -> bool:
    return any(isinstance(record, EndRecord) for record in read_records(run_dir))


def test_figure_and_summary_are_there_before_the_end_is_told(run_dir: Path) -> None:
    """Whoever follows the journal, the MLflow mirror for one, takes them when it reads the end."""
    seen: list[tuple[bool, int]] = []

    def draw(folder: Path) -> None:
        seen.append((has_ended(folder), json.loads((folder / SUMMARY).read_text())["steps"]))

    run_job(two_steps(), run_folder.create(run_dir.parent, run_dir.name), Listener(), draw=draw)
    assert seen == [(False, 2)]
    assert has_ended(run_dir)


def test_a_figure_that_cannot_be_drawn_costs_no_run(run_dir: Path) -> None:
    def draw(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    told: list[str] = []
    summary = run_job(two_steps(), run_folder.create(run_dir.parent, run_dir.name), Listener(on_notice=told.append), draw=draw)
    assert summary.outcome == "completed"
    assert has_ended(run_dir)
    assert told == ["The run's figure could not be drawn ([Errno 28] No space left on device); everything else is there."]


def test_the_wall_clock_counts_preparation_of_every_process(run_dir: Path) -> None:
    job = two_steps()
    object.__setattr__(job, "began", job.began - 1000.0)  # as if the data had taken so long
    first = trained(job, run_dir)
    assert 1000.0 < first.wall_seconds < 1100.0
    again = two_steps(3)
    object.__setattr__(again, "began", again.began - 500.0)
    second = trained(again, run_dir, resumes=True)
    assert 1500.0 < second.wall_seconds < 1700.0
    assert second.training_seconds > first.training_seconds


def test_an_option_that_nothing_reads_is_said_once_in_the_plans_own_words(run_dir: Path) -> None:
    """Also a run that goes on does not say it again."""
    told: list[str] = []
    listener = Listener(on_notice=told.append)
    job = two_steps(batch_norm={"span": 8})
    trained(job, run_dir, listener)
    trained(two_steps(3, batch_norm={"span": 8}), run_dir, listener, resumes=True)
    (words,) = told
    assert words == f"Batch-norm: {dict(job.plan_in_words())['batch-norm']}."
    assert "batch_norm.span is not read" in words
    assert notices(run_dir) == told


def test_an_option_that_is_read_or_was_not_set_is_not_spoken_of(tmp_path: Path) -> None:
    told: list[str] = []
    normalised = {"name": "mlp", "arguments": {"width": 4, "batch_norm": True}}
    for name, parts in {"read": {"model": normalised, "batch_norm": {"span": 8}}, "not set": {}}.items():
        trained(two_steps(**parts), tmp_path / name, Listener(on_notice=told.append))
    assert told == []
