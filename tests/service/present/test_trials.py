"""A sweep's runs from its ledger and their folders, in every state that one can be in."""

import json
from pathlib import Path

import pytest
from made_records import evaluation, step, summary

from largebatch.jobs.run.journal import Journal
from largebatch.jobs.run.records import Outcome
from largebatch.service.api.live import read_events
from largebatch.service.job import Job, Kind
from largebatch.service.present.progress import read_progress, read_trials
from largebatch.tuning.sweep.ledger import LEDGER, Ending, Ledger, Trial

SUMMARY = summary(steps=40, time_to_target_seconds=2.0, best_score=0.95, run_dir="/secret")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """0 has ended, 1 was pruned, 2 failed, 3 is under way, 4 waits."""
    with Ledger(tmp_path) as ledger:
        for number in range(5):
            ledger.add(Trial(number=number, group=number // 2, phase="search", fields={"learning_rate.base": 0.1}, run_id=f"run-{number}"))
        ledger.add(Ending(number=1, how="pruned", score=0.5))
        ledger.add(Ending(number=2, how="failed", why="its process died, again and again"))
    for number in range(4):
        (tmp_path / f"run-{number}").mkdir()
        with Journal(tmp_path / f"run-{number}") as journal:
            journal.write(step(7, 0.7, epoch=0.5))
            journal.write(evaluation(7, 0.7, epoch=0.5, score=0.25))
    (tmp_path / "run-0" / "summary.json").write_text(SUMMARY.model_dump_json())
    (tmp_path / "run-1" / "summary.json").write_text(SUMMARY.model_copy(update={"outcome": Outcome.STOPPED}).model_dump_json())
    return tmp_path


def test_every_state_with_what_is_known(folder: Path) -> None:
    found = read_trials(folder, 0, 100, is_active=True)
    assert found.is_complete
    told = [(one.state, one.outcome, one.step, one.score, one.time_to_target_seconds) for one in found.items]
    assert told == [
        ("ended", "reached", 40, 0.95, 2.0),
        ("pruned", None, 40, 0.95, 2.0),
        ("failed", None, 7, 0.25, None),
        ("running", None, 7, 0.25, None),
        ("waiting", None, None, None, None),
    ]
    assert found.items[2].why == "its process died, again and again"
    assert "/secret" not in found.model_dump_json()
    assert read_trials(folder, 3, 1, is_active=False).items[0].state == "unfinished"


def test_what_runs_now_is_told_with_the_sweeps_progress(folder: Path) -> None:
    sweep = Job(id="a", kind=Kind.SWEEP, owner="ann", name="a", recipe=None, cpus=1.0, gpus=0, created_at_s=0.0)
    facts = {"step": 7, "epoch": 0.5, "score": 0.25, "training_seconds": 0.7}
    assert read_progress(sweep, folder) == {"runs": 4, "runs_over": 3, "running": {"run-3": facts}}
    assert read_progress(sweep, folder / "nothing") == {}


def test_page_by_page(folder: Path) -> None:
    numbers, after = [], 0
    while True:
        page = read_trials(folder, after, 2, is_active=True)
        numbers += [one.number for one in page.items]
        after = page.next_after
        if page.is_complete:
            break
    assert numbers == [0, 1, 2, 3, 4]
    assert read_trials(folder / "nothing", 0, 10, is_active=True).items == []


def test_the_ledger_as_events(folder: Path) -> None:
    events, end = read_events(folder / LEDGER, 0)
    assert end == (folder / LEDGER).stat().st_size
    names, documents, _ = zip(*(event.frame.strip().split(b"\n") for event in events), strict=True)
    assert names == (b"event: trial",) * 5 + (b"event: ending",) * 2
    assert json.loads(documents[5].removeprefix(b"data: "))["how"] == "pruned"
    assert read_events(folder / LEDGER, events[4].end or 0) == (events[5:], end), "goes on from the last id"
