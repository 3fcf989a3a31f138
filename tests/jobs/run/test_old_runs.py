"""A run folder that commit c712002 wrote: today's code reads its journal, goes on from its checkpoint and reports what that commit did."""

import json
import shutil
from pathlib import Path

import pytest

from largebatch.jobs.__main__ import main
from largebatch.jobs.run.journal import evaluations, read_records, steps
from largebatch.jobs.run.records import EndRecord, RunSummary, StartRecord
from largebatch.tuning.results.collect import collect

OLD_RUN = Path(__file__).parent / "old_run"
LOSSES = [1.17613149, 1.10754108, 1.10617739, 1.12520725, 1.07617944, 1.12147897, 1.12086779, 1.05239117]


def test_its_records_are_read() -> None:
    records = read_records(OLD_RUN)
    assert isinstance(records[0], StartRecord)
    assert isinstance(records[-1], EndRecord)
    assert [record.loss for record in steps(records)] == pytest.approx(LOSSES, abs=1e-8)
    assert [record.score for record in evaluations(records)] == [0.25, 0.375]
    assert records[-1].summary == RunSummary.model_validate_json((OLD_RUN / "summary.json").read_text())
    (result,) = collect([OLD_RUN])
    assert [(point.step, point.score) for point in result.evaluations] == [(4, 0.25), (8, 0.375)]


def test_it_is_taken_up_as_if_it_had_never_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Losses agree to rounding: another machine than the fixture's may add in another order."""
    resumed, whole = tmp_path / "resumed", tmp_path / "whole"
    shutil.copytree(OLD_RUN, resumed)
    with (resumed / "records.jsonl").open("a") as file:
        file.write('{"kind":"sto')  # a process that was killed as it began to resume
    assert main(["--resume", str(resumed), "--set", "stop.steps=16", "--device", "cpu"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["steps"], summary["outcome"]) == (16, "missed")
    assert main([str(OLD_RUN / "spec.json"), "--set", "stop.steps=16", "--device", "cpu", "--output-dir", str(whole)]) == 0
    (whole,) = whole.iterdir()
    losses = [record.loss for record in steps(read_records(resumed))]
    assert losses == pytest.approx([record.loss for record in steps(read_records(whole))], rel=1e-5)
    assert losses[:8] == pytest.approx(LOSSES, rel=1e-5)
