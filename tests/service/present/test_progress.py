"""Where a run has fallen from, and how long it will take, by its journal."""

from pathlib import Path
from typing import Any

import pytest
from made_records import evaluation, start
from small_runs import prepared, stopping_after, synthetic, trained

from largebatch.jobs.run.journal import Journal
from largebatch.jobs.run.records import Headline, Record, StepRecord
from largebatch.service.present.progress import fallen, progress_of_run

LOSS = Headline(name="loss", better="lower", is_fraction=False)


def evaluations(scores: list[float], first: int = 1) -> list[Record]:
    return [evaluation(number, score=score) for number, score in enumerate(scores, first)]


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([start(), *evaluations([0.5, 0.97, 0.97, 0.26])], {"best_score": 0.97, "best_step": 2}),
        ([start(), *evaluations([0.5, 0.97, 0.96])], {}),
        ([start(headline=LOSS), *evaluations([1.0, 0.5, 0.9])], {"best_score": 0.5, "best_step": 2}),
        ([start(headline=LOSS), *evaluations([1.0, 0.9, 0.5])], {}),
        ([start(), *evaluations([0.5, 0.99]), start(step=1), *evaluations([0.8, 0.4], 2)], {"best_score": 0.8, "best_step": 2}),
        ([start()], {}),
    ],
)
def test_a_run_that_ended_noticeably_worse_than_its_best_says_where_that_was(records: list[Record], told: dict[str, Any], tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for record in records:
            journal.write(record)
    assert fallen(tmp_path) == told


def test_without_a_journal_nothing_has_fallen(tmp_path: Path) -> None:
    assert fallen(tmp_path) == {}


def test_seconds_are_left_in_proportion_to_samples(tmp_path: Path) -> None:
    """Where last batches are dropped and the batch grows: of 100 samples three steps of 30 in the first epoch, one of 60 in each of five others."""
    batch = {"global_batch_size": 30, "last": "drop", "schedule": {"growth": [{"epoch": 1, "factor": 2}]}}
    trained(prepared(dataset=synthetic(100), batch=batch, stop={"epochs": 6}), tmp_path, stopping_after(5))
    progress = progress_of_run(tmp_path)
    assert (progress["step"], progress["total_steps"]) == (5, 8)
    line = StepRecord(step=5, epoch=2.6, samples_seen=210, global_batch_size=60, loss=1.0, learning_rate=0.05, training_seconds=70.0)
    with Journal(tmp_path) as journal:
        journal.write(line)
    assert progress_of_run(tmp_path)["training_seconds_left"] == 60.0, "180 of 390 samples are left"


def test_a_run_that_was_faster_than_the_first_look_says_how_it_began(tmp_path: Path) -> None:
    trained(prepared(dataset=synthetic(100), batch={"global_batch_size": "full"}, stop={"epochs": 80}), tmp_path)
    progress = progress_of_run(tmp_path)
    assert (progress["step"], progress["global_batch_size"], progress["metric"]) == (80, 100, "accuracy")
