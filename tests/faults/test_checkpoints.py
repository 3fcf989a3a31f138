"""Checkpoints: whole or not at all, damage is found, and what may change on resuming is said."""

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import CPU, document, prepared, trained

from largebatch.jobs.errors import CheckpointError, StorageError
from largebatch.jobs.job import prepare
from largebatch.jobs.resume import load_checkpoint, load_newest, refuse_other_spec, save_checkpoint
from largebatch.jobs.run.checkpoints import list_checkpoints, write_checkpoint
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import RunSummary
from largebatch.jobs.run.run_folder import resumed_spec
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.spec.train_spec import TrainSpec


def new_spec(**parts: Any) -> TrainSpec:
    return build_spec(document(**{"stop": {"steps": 6}, "checkpoint": {"every_steps": 1, "keep": 3}, **parts}))


def run(spec: TrainSpec, run_dir: Path, *, resumes: bool = False, listener: Listener | None = None) -> RunSummary:
    return trained(prepare(spec, CPU, Path("nowhere")), run_dir, listener, resumes=resumes)


def stored(run_dir: Path, kind: str = "step") -> list[Path]:
    """Newest first, told by name alone."""
    return sorted((run_dir / "checkpoints").glob(f"{kind}-*.pt"), reverse=True)


def damage(path: Path) -> None:
    """One flipped bit in the middle; a hard link of the same content is damaged too."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def content(step: int) -> dict[str, Any]:
    """The least that a state holds."""
    numbers = {"micro_batch_size": 8, "training_s": 1.0, "evaluation_s": 0.0, "wall_s": 1.0}
    optimizer = {"state": {}, "param_groups": []}
    return {
        "progress": {"step": step},
        "model": {"weights": torch.full((100,), float(step))},
        "optimizer": optimizer,
        "noise": {},
        "gain": {},
        **numbers,
    }


def test_the_newest_few_and_the_best_are_kept(tmp_path: Path) -> None:
    spec = new_spec()
    for step in range(1, 8):
        save_checkpoint(tmp_path, content(step), spec, is_best=step in {2, 3})
    names = sorted(path.name.split(".")[0] for path in tmp_path.iterdir())
    assert names == ["best-00000003", "step-00000005", "step-00000006", "step-00000007"]


def test_a_run_leaves_what_its_spec_keeps(tmp_path: Path) -> None:
    run(new_spec(), tmp_path)
    assert [int(path.name[5:13]) for path in stored(tmp_path)] == [6, 5, 4]
    assert len(stored(tmp_path, "best")) == 1
    assert not list(tmp_path.rglob("*.part"))
    run(new_spec(checkpoint={"every_steps": 1, "keep": 1, "best": False}), tmp_path / "frugal")
    assert [path.name[:13] for path in (tmp_path / "frugal" / "checkpoints").iterdir()] == ["step-00000006"]


def test_a_failing_disk_leaves_no_file_under_a_checkpoints_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = new_spec()
    first = save_checkpoint(tmp_path, content(1), spec, is_best=True)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)  # the last moment at which a disk can refuse what was written
    with pytest.raises(StorageError, match="the disk is full"):
        save_checkpoint(tmp_path, content(2), spec, is_best=True)
    assert [found.step for found in list_checkpoints(tmp_path)] == [1, 1]
    assert not list(tmp_path.glob(".*"))
    assert torch.equal(load_checkpoint(first, CPU)["state"]["model"]["weights"], torch.full((100,), 1.0))


def test_a_half_written_file_is_no_checkpoint(tmp_path: Path) -> None:
    """What a kill leaves behind is not listed, and the next save clears it away."""
    spec = new_spec()
    save_checkpoint(tmp_path, content(1), spec, is_best=False)
    left = tmp_path / f".step-00000002.{'0' * 32}.pt.123.part"
    left.write_bytes(b"half")
    assert [found.step for found in list_checkpoints(tmp_path)] == [1]
    save_checkpoint(tmp_path, content(3), spec, is_best=False)
    assert not left.exists()


def test_every_single_damaged_byte_is_found(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, content(1), new_spec(), is_best=False)
    whole = path.read_bytes()
    for place in range(0, len(whole), max(len(whole) // 60, 1)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match="does not match the checksum"):
            load_checkpoint(path, CPU)
    path.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="does not match the checksum"):
        load_checkpoint(path, CPU)
    path.write_bytes(whole)
    assert load_checkpoint(path, CPU)["state"]["progress"] == {"step": 1}


def test_a_damaged_newest_is_reported_and_the_one_before_is_used(tmp_path: Path) -> None:
    whole = run(new_spec(), tmp_path / "whole")
    run(new_spec(checkpoint={"every_steps": 1, "keep": 3, "best": False}), tmp_path / "run")
    newest, before, _ = stored(tmp_path / "run")
    damage(newest)
    notices: list[str] = []
    steps: list[int] = []
    listener = Listener(on_record=lambda record: steps.append(getattr(record, "step", -1)), on_notice=notices.append)
    summary = run(new_spec(checkpoint={"every_steps": 1, "keep": 3, "best": False}), tmp_path / "run", resumes=True, listener=listener)
    assert len(notices) == 1
    assert newest.name in notices[0]
    assert "one before it" in notices[0]
    assert steps[0] == int(before.name[5:13]) == 5
    assert summary.parameters_sha256 == whole.parameters_sha256
    assert load_newest(tmp_path / "run" / "checkpoints", CPU, pytest.fail)["state"]["progress"]["step"] == 6


def without(names: str, loaded: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds, but for one thing; `spec` and `state` are above all others."""
    first, _, rest = names.partition(".")
    return {name: without(rest, value) if rest and name == first else value for name, value in loaded.items() if rest or name != first}


MALFORMED: dict[str, Any] = {
    "a list": lambda loaded: [1, 2, 3],
    "no state": lambda loaded: without("state", loaded),
    "no spec": lambda loaded: without("spec", loaded),
    "a spec without a model": lambda loaded: without("spec.model", loaded),
    "no weights": lambda loaded: without("state.model", loaded),
    "half an optimizer": lambda loaded: without("state.optimizer.param_groups", loaded),
    "no clock": lambda loaded: without("state.training_s", loaded),
    "a step in words": lambda loaded: {**loaded, "state": {**loaded["state"], "progress": {**loaded["state"]["progress"], "step": "seven"}}},
    "another's progress": lambda loaded: {**loaded, "state": {**loaded["state"], "progress": {"iteration": 7}}},
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_whole_file_of_another_structure_is_passed_over(kind: str, tmp_path: Path) -> None:
    """Its checksum is right: another program, or another version, has written it."""
    spec = new_spec(checkpoint={"every_steps": 1, "keep": 2, "best": False})
    whole = run(spec, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    buffer = io.BytesIO()
    torch.save(MALFORMED[kind](load_checkpoint(stored(tmp_path / "run")[0], CPU)), buffer)
    strange = write_checkpoint(folder, 7, buffer.getbuffer(), keep=9, is_best=False)
    notices: list[str] = []
    summary = run(spec, tmp_path / "run", resumes=True, listener=Listener(on_notice=notices.append))
    assert [f"Checkpoint {strange.name} is whole, but no checkpoint of a run: " in notice for notice in notices] == [True]
    assert notices[0].endswith("Using the one before it.")
    assert (summary.steps, summary.parameters_sha256) == (6, whole.parameters_sha256)


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("is_best", [False, True])
def test_a_damaged_newest_does_not_push_out_those_that_are_whole(is_best: bool, keep: int, tmp_path: Path) -> None:
    """A run that goes on from before the damage counts its own checkpoints alone."""
    spec = new_spec(checkpoint={"keep": keep})
    save_checkpoint(tmp_path, content(10), spec, is_best=True)
    damage(save_checkpoint(tmp_path, content(20), new_spec(checkpoint={"keep": keep + 1}), is_best=is_best))
    assert load_newest(tmp_path, CPU, lambda text: None)["state"]["progress"]["step"] == 10
    for step in (12, 14, 16):
        save_checkpoint(tmp_path, content(step), spec, is_best=is_best)
        assert load_newest(tmp_path, CPU, pytest.fail)["state"]["progress"]["step"] == step
    kept = [path for path in tmp_path.glob("step-*.pt")]
    assert sorted(int(path.name[5:13]) for path in kept) == [10, 12, 14, 16][-keep:]
    assert [int(path.name[5:13]) for path in tmp_path.glob("best-*.pt")] == [16 if is_best else 10]


def test_a_damaged_one_of_the_same_step_goes_too(tmp_path: Path) -> None:
    """Saved again it has another name: the clock in it is another."""
    spec = new_spec(checkpoint={"keep": 2})
    save_checkpoint(tmp_path, content(10), spec, is_best=False)
    damage(save_checkpoint(tmp_path, {**content(20), "wall_s": 1.0}, spec, is_best=False))
    save_checkpoint(tmp_path, {**content(20), "wall_s": 2.0}, spec, is_best=False)
    assert [found.step for found in list_checkpoints(tmp_path)] == [20, 10]
    assert load_newest(tmp_path, CPU, pytest.fail)["state"]["wall_s"] == 2.0


def test_when_all_are_damaged_it_says_so(tmp_path: Path) -> None:
    run(new_spec(), tmp_path)
    for path in {path.stat().st_ino: path for path in (tmp_path / "checkpoints").iterdir()}.values():
        damage(path)
    with pytest.raises(CheckpointError, match="none of the 4 checkpoints"):
        run(new_spec(), tmp_path, resumes=True)


def test_without_a_checkpoint_and_a_spec_it_says_so(tmp_path: Path) -> None:
    """With the spec a run begins again: tests/faults/test_kill.py."""
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .* begun with cannot be read"):
        run(new_spec(), tmp_path, resumes=True)
    with pytest.raises(CheckpointError, match="is not a run's folder"):
        resumed_spec(tmp_path / "nothing", [])


class Evil:
    """Unpickling this would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    """Whole and with a right checksum, but holding more than tensors and plain numbers."""
    target = tmp_path / "made-by-unpickling"
    path = save_checkpoint(tmp_path, {**content(1), "model": {"weights": Evil(target)}}, new_spec(), is_best=False)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path, CPU)
    assert not target.exists()


@pytest.mark.parametrize(
    ("field", "part"),
    [
        ("seed", {"seed": 1}),
        ("optimizer.momentum", {"optimizer": {"name": "sgd", "momentum": 0.5}}),
        ("learning_rate.base", {"learning_rate": {"base": 0.1}}),
        ("batch.global_batch_size", {"batch": {"global_batch_size": 32}}),
        ("model.arguments.width", {"model": {"name": "mlp", "arguments": {"width": 5}}}),
        ("loss.label_smoothing", {"loss": {"label_smoothing": 0.1}}),
        ("ema", {"ema": {"decay": 0.9}}),
        ("precision", {"precision": "bfloat16"}),
    ],
)
def test_a_resumed_run_may_not_change_the_mathematics(field: str, part: dict[str, Any], tmp_path: Path) -> None:
    saved = new_spec().model_dump(mode="json")
    with pytest.raises(CheckpointError) as caught:
        refuse_other_spec(saved, new_spec(**part))
    assert caught.value.field == field
    assert "A resumed run may change name, description, stop" in str(caught.value)


def test_a_changed_spec_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    run(new_spec(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"learning_rate\.base.*0\.05.*0\.1"):
        run(new_spec(learning_rate={"base": 0.1}), tmp_path, resumes=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_resumed_run_may_change_its_budget_and_its_book_keeping(tmp_path: Path) -> None:
    run(new_spec(), tmp_path)
    changed = new_spec(
        name="other",
        description="longer",
        stop={"epochs": 2.0},
        checkpoint={"every_steps": 2, "keep": 1},
        evaluation={"every_epochs": 0.5},
        tracking={"enabled": False, "experiment": "other"},
    )
    summary = run(changed, tmp_path, resumes=True)
    assert summary.steps == 8
    assert [int(path.name[5:13]) for path in stored(tmp_path)] == [8]


def test_a_model_whose_code_has_changed_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def code(width: int) -> str:
        layers = f"nn.Flatten(), nn.Linear(64, {width}), nn.Linear({width}, num_classes)"
        return f"from torch import nn\ndef build(num_classes):\n    return nn.Sequential({layers})\n"

    monkeypatch.chdir(tmp_path)
    own: dict[str, Any] = {"dataset": {"name": "digits"}, "model": {"entry_point": "changing_model:build"}, "batch": {"global_batch_size": 500}}
    run_dir = tmp_path / "run"
    for width in (8, 9):
        (tmp_path / "changing_model.py").write_text(code(width))
        sys.modules.pop("changing_model", None)
        job = prepared(**own, stop={"steps": 1})
        if width == 8:
            trained(job, run_dir)
            # Python trusts a compiled file whose source has the same length and second.
            for compiled in (tmp_path / "__pycache__").glob("*"):
                compiled.unlink()
            continue
        with pytest.raises(CheckpointError, match="does not fit this model"):
            trained(job, run_dir, resumes=True)
    sys.modules.pop("changing_model", None)
