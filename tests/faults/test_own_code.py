"""A person's own model raises something in the middle of a run: one sentence, the last checkpoint whole, and the way on."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from largebatch.jobs.entry_points import is_of_the_machine
from largebatch.jobs.errors import CodeError, DataError, FaultError, PlanError, SpecError
from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.launch.final_message import keep_traceback, unforeseen
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.spec.read import build_spec

STRANGERS = Path(__file__).parents[1] / "jobs" / "engine"


@pytest.fixture(autouse=True)
def _beside_the_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STRANGERS))


def document(arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "dataset": {"entry_point": "strangers:load"},
        "model": {"entry_point": "strangers:failing", "arguments": arguments},
        "batch": {"global_batch_size": 50},
        "optimizer": {"name": "sgd"},
        "learning_rate": {"base": 0.05},
        "stop": {"epochs": 2},
        "checkpoint": {"every_steps": 4, "best": False},
        "tracking": {"enabled": False},
    }


def run(folder: Path, resumes: bool = False, **arguments: Any) -> Any:
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    job = prepare(build_spec(document(arguments)), torch.device("cpu"), Path("nowhere"))
    return run_job(job, folder, Listener(), resumes=resumes)


def test_what_a_model_raises_in_training_is_one_sentence_and_the_run_goes_on_when_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import strangers  # type: ignore[import-not-found]

    whole = run(tmp_path / "whole")
    with monkeypatch.context() as broken:
        broken.setattr(strangers, "failing", lambda num_classes: strangers.Failing(num_classes, "training", 15))
        with pytest.raises(CodeError, match=r"model: failed at step \d+, training on 50 samples: KeyError: 'boom' \(.*strangers\.py, line \d+\)"):
            run(tmp_path / "broken")
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path / "broken" / "checkpoints")]
    assert run(tmp_path / "broken", resumes=True).parameters_sha256 == whole.parameters_sha256


def test_what_a_model_raises_in_evaluation_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CodeError, match=r"failed after step 6, evaluating 26 samples: KeyError: 'boom'") as refused:
        run(tmp_path, when="evaluation", at=26)
    assert refused.value.exit_code == 1
    keep_traceback(refused.value, tmp_path)
    assert "strangers.py" in (tmp_path / "traceback.txt").read_text()
    assert str(tmp_path / "traceback.txt") in str(refused.value)


@pytest.mark.parametrize(
    ("part", "entry_point", "arguments", "kind", "sentence"),
    [
        ("model", "exiting", {"at": 20}, CodeError, r"model: failed at step \d+, training on \d+ samples: SystemExit: 0 \(.*strangers\.py, line"),
        ("model", "exiting", {"at": 6}, PlanError, r"model: cannot take \d+ samples .*: SystemExit: 0"),
        ("model", "exiting", {}, SpecError, r"model\.entry_point: strangers:exiting failed: SystemExit"),
        ("dataset", "exiting_samples", {}, DataError, r"training sample 50 cannot be read: SystemExit: 0"),
    ],
)
def test_their_sys_exit_is_no_end_of_the_run(
    part: str, entry_point: str, arguments: dict[str, Any], kind: type[Exception], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    own = {part: {"entry_point": f"strangers:{entry_point}", "arguments": arguments}}
    with pytest.raises(kind, match=sentence):
        run_job(prepare(build_spec({**document({}), **own}), torch.device("cpu"), Path("nowhere")), tmp_path, Listener())
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
