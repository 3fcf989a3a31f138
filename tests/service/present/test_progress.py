"""Where a run has fallen from, by its journal."""

from pathlib import Path
from typing import Any

import pytest
from made_records import evaluation, start

from largebatch.jobs.run.journal import Journal
from largebatch.jobs.run.records import Headline, Record
from largebatch.service.present.progress import fallen

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
