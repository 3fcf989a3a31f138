"""A run that is ended before its first checkpoint, and one that fails on its data: both go on, and neither is a riddle."""

import json
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from small_runs import Samples, document
from torch import Tensor

from largebatch.jobs.errors import CheckpointError, DataError, LargebatchError
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.journal import evaluations, failure, read_records, steps
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import EndRecord, Outcome, Record, RunSummary, StartRecord, StepRecord
from largebatch.tuning.results.collect import collect
from largebatch.tuning.results.findings import NothingEndedError, find
from largebatch.tuning.results.run_folders import has_result, runs_of_folder

NUM_SAMPLES = 64
torn: set[int] = set()
"""Samples that cannot be read now."""


def load() -> list[Samples]:
    """Training and test set: samples of their own number, some of them torn."""

    def sample(index: int) -> tuple[Tensor, int]:
        if index in torn:
            raise OSError("cut short")
        return torch.full((4,), index / NUM_SAMPLES), index % 2

    test = Samples(NUM_SAMPLES, lambda index: (torch.full((4,), index / NUM_SAMPLES), index % 2), num_classes=2)
    return [Samples(NUM_SAMPLES, sample, num_classes=2), test]


DOCUMENT = document(
    dataset={"entry_point": f"{__name__}:load", "arguments": {}},
    batch={"global_batch_size": 8, "micro_batch_size": 8},
    learning_rate={"base": 0.1},
    stop={"epochs": 2.0},
    checkpoint={"every_steps": 3},
)


class Killed(BaseException):
    """The end of a process, as far as its run can tell."""


def trained(run_dir: Path, *, kill_after: int | None = None, tears: bool = False, said: list[str] | None = None, **parts: Any) -> RunSummary:
    """Train, from where the folder stands, as `--resume` does. Args: tears: samples can no longer be read once the run has started."""

    def listen(record: Record) -> None:
        if isinstance(record, StartRecord) and tears:
            torn.update(range(NUM_SAMPLES))
        if isinstance(record, StepRecord) and record.step == kill_after:
            raise Killed

    listener = Listener(on_record=listen, on_notice=(said if said is not None else []).append)
    return small_runs.trained(small_runs.prepared(**DOCUMENT | parts), run_dir, listener, resumes=run_dir.exists())


@pytest.fixture(autouse=True)
def _whole() -> None:
    torn.clear()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    torn.clear()
    return trained(tmp_path_factory.mktemp("runs") / "undisturbed")


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again_under_its_id(tmp_path: Path, undisturbed: RunSummary) -> None:
    run_dir, said = tmp_path / "killed", list[str]()
    for kill_after in (2, 1):
        with pytest.raises(Killed):
            trained(run_dir, kill_after=kill_after)
    assert not list_checkpoints(run_dir / "checkpoints")
    assert failure(read_records(run_dir)) is None, "nobody knows of what it ended"
    summary = trained(run_dir, said=said)
    assert said == ["The run was ended before its first checkpoint. Going on from step 0."]
    assert (summary.run_id, summary.parameters_sha256) == ("killed", undisturbed.parameters_sha256)
    records = read_records(run_dir)
    assert [record.step for record in steps(records)] == list(range(1, 17))
    assert [record.step for record in small_runs.starts(run_dir)] == [0, 0, 0]
    assert small_runs.notices(run_dir)[-1:] == said
    assert len(list(evaluations(records))) == 2


def test_a_run_that_begins_again_is_of_the_same_spec(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        trained(tmp_path / "killed", kill_after=1)
    with pytest.raises(CheckpointError, match=r"learning_rate\.base: .* 0\.1, and the spec now says 0\.2"):
        trained(tmp_path / "killed", learning_rate={"base": 0.2})


@pytest.mark.parametrize("is_before_checkpoint", [True, False])
def test_a_run_that_failed_on_its_data_has_ended_and_goes_on_once_they_are_mended(
    is_before_checkpoint: bool, tmp_path: Path, undisturbed: RunSummary
) -> None:
    run_dir = tmp_path / "failed"
    if not is_before_checkpoint:
        with pytest.raises(Killed):
            trained(run_dir, kill_after=5)  # step 3 is saved
    with pytest.raises(LargebatchError, match="cut short") as told:
        trained(run_dir, tears=True)
    records, summary = read_records(run_dir), RunSummary.model_validate_json((run_dir / "summary.json").read_text())
    assert isinstance(records[-1], EndRecord)
    assert records[-1].summary == summary
    assert (summary.outcome, summary.steps, summary.parameters_sha256) == (Outcome.FAILED, 0 if is_before_checkpoint else 3, None)
    assert failure(records) == str(told.value)
    assert not has_result(run_dir)
    assert runs_of_folder(tmp_path).missing == [], "it has ended"
    with pytest.raises(NothingEndedError, match="1 run that failed"):
        find(collect([run_dir]))

    torn.clear()
    said = list[str]()
    assert trained(run_dir, said=said).parameters_sha256 == undisturbed.parameters_sha256
    early = f"The run failed before its first checkpoint: {str(told.value).rstrip('.')}. Going on from step 0."
    assert said == ([early] if is_before_checkpoint else [])
    assert [record.step for record in steps(read_records(run_dir))] == list(range(1, 17))
    assert has_result(run_dir)


def test_an_error_that_nobody_foresaw_is_an_end_too(tmp_path: Path) -> None:
    def fails(record: Record) -> None:
        if isinstance(record, StepRecord):
            raise RuntimeError("two\nlines")

    with pytest.raises(RuntimeError):
        small_runs.trained(small_runs.prepared(**DOCUMENT), tmp_path / "failed", Listener(on_record=fails))
    assert failure(read_records(tmp_path / "failed")) == "RuntimeError: two lines"
    assert json.loads((tmp_path / "failed" / "summary.json").read_text())["outcome"] == "failed"


def test_a_result_is_what_no_resume_would_change() -> None:
    assert {outcome for outcome in Outcome if not outcome.is_result} == {Outcome.STOPPED, Outcome.FAILED}
    assert issubclass(DataError, LargebatchError)
