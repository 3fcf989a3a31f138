"""A person's own model raises something in the middle of a run: one sentence, the last checkpoint whole, and the way on."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import small_runs
import strangers
from small_runs import trained

from largebatch.jobs.entry_points import is_of_the_machine
from largebatch.jobs.errors import CodeError, DataError, FaultError, PlanError, SpecError
from largebatch.jobs.launch.final_message import keep_traceback, unforeseen
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.run.checkpoints import list_checkpoints


def failing(**parts: Any) -> Prepared:
    own = {"dataset": {"entry_point": "strangers:load"}, "batch": {"global_batch_size": 50}, "stop": {"epochs": 2}}
    return small_runs.prepared(**{**own, "model": {"entry_point": "strangers:failing"}, "checkpoint": {"every_steps": 4, "best": False}, **parts})


def test_what_a_model_raises_in_training_is_one_sentence_and_the_run_goes_on_when_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, build = trained(failing(), tmp_path / "whole"), strangers.failing
    with monkeypatch.context() as broken:
        broken.setattr(strangers, "failing", lambda num_classes: build(num_classes, "training", 22))
        with pytest.raises(CodeError, match=r"model: failed at step \d+, training on 50 samples: KeyError: 'boom' \(.*strangers\.py, line \d+\)"):
            trained(failing(), tmp_path / "broken")
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path / "broken" / "checkpoints")]
    assert trained(failing(), tmp_path / "broken", resumes=True).parameters_sha256 == whole.parameters_sha256


def test_what_a_model_raises_in_evaluation_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CodeError, match=r"failed after step 6, evaluating 26 samples: KeyError: 'boom'") as refused:
        trained(failing(model={"entry_point": "strangers:failing", "arguments": {"when": "evaluation", "at": 26}}), tmp_path)
    assert refused.value.exit_code == 1
    keep_traceback(refused.value, tmp_path)
    assert "strangers.py" in (tmp_path / "traceback.txt").read_text()
    assert str(tmp_path / "traceback.txt") in str(refused.value)


@pytest.mark.parametrize(
    ("at", "kind", "sentence"),
    [
        ({"at": 50}, PlanError, r"task: its loss failed on 50 samples of shape .* in training: KeyError: 'mask' \(.*own_tasks\.py, line \d+\)"),
        ({"at": 50, "after": 3}, CodeError, r"task: failed at step \d, training on 50 samples: KeyError: 'mask' \(.*own_tasks\.py, line \d+\)"),
    ],
)
def test_what_a_loss_raises_behind_the_model_is_the_tasks(at: dict[str, int], kind: type[Exception], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=sentence):
        trained(failing(task={"entry_point": "own_tasks:Breaking", "arguments": at}), tmp_path)


@pytest.mark.parametrize(
    ("part", "entry_point", "arguments", "kind", "sentence"),
    [
        ("model", "exiting", {"at": 32}, CodeError, r"model: failed at step \d+, training on \d+ samples: SystemExit: 0 \(.*strangers\.py, line"),
        ("model", "exiting", {"at": 6}, PlanError, r"model: cannot take \d+ samples .*: SystemExit: 0"),
        ("model", "exiting", {}, SpecError, r"model\.entry_point: strangers:exiting failed: SystemExit"),
        ("dataset", "exiting_samples", {}, DataError, r"training sample 50 cannot be read: SystemExit: 0"),
    ],
)
def test_their_sys_exit_is_no_end_of_the_run(
    part: str, entry_point: str, arguments: dict[str, Any], kind: type[Exception], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=sentence):
        trained(failing(**{part: {"entry_point": f"strangers:{entry_point}", "arguments": arguments}}), tmp_path)
    journal = tmp_path / "records.jsonl"
    assert not journal.exists() or '"outcome":"failed"' in journal.read_text()


def test_what_nobody_foresaw_is_one_sentence_with_the_traceback_in_a_file(tmp_path: Path) -> None:
    def here(run_dir: Path | None) -> FaultError:
        try:
            raise AssertionError("two\nlines")
        except AssertionError as error:
            return unforeseen(error, run_dir)

    fault = here(tmp_path)
    assert str(fault).startswith("nobody foresaw this, a fault of largebatch's own or of your code: AssertionError: two lines")
    assert str(fault).endswith(f"The whole traceback: {tmp_path / 'traceback.txt'}.")
    assert "AssertionError: two\nlines" in (tmp_path / "traceback.txt").read_text()
    shutil.rmtree(tmp_path)
    elsewhere = Path(str(here(tmp_path)).rpartition("The whole traceback: ")[2].rstrip("."))
    assert "AssertionError" in elsewhere.read_text()
    elsewhere.unlink()


@pytest.mark.parametrize(("error", "is_so"), [(MemoryError(), True), (RuntimeError("CUDA error: lost"), True), (KeyError("CUDA"), False)])
def test_the_machines_errors_are_told_from_a_persons(error: Exception, is_so: bool) -> None:
    assert is_of_the_machine(error) is is_so
