"""kill -9 at any moment, then --resume: the same end as if nothing had happened."""

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from forked import Forked
from small_runs import document, one_thread, prepared, starts, trained

from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.journal import Journal, evaluations, read_records, steps
from largebatch.jobs.run.records import StartRecord

NUM_STEPS = 90  # more than two kills can use up
DOCUMENT = document(
    dataset={"name": "synthetic", "arguments": {"num_train": 600, "num_test": 50, "shape": [1, 12, 12]}, "augment": {"translate": 1}},
    model={"name": "mlp", "arguments": {"width": 64}},
    batch={"global_batch_size": 128, "micro_batch_size": 64},
    optimizer={"name": "lamb"},
    learning_rate={"base": 0.01},
    stop={"steps": NUM_STEPS},
    ema={"decay": 0.9},
    checkpoint={"every_steps": 1},
)


def started(*arguments: str) -> Forked:
    return Forked("-m", "largebatch.jobs", "--device", "cpu", *arguments)


def summary_of(process: Forked) -> dict[str, Any]:
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return json.loads(out)


def lines(run_dir: Path) -> int:
    journal = run_dir / "records.jsonl"
    return journal.read_bytes().count(b'"kind":"step"') if journal.exists() else 0


def kill_after(process: Forked, run_dir: Path, num_more: int, delay_s: float) -> None:
    """Kill once that many more steps are in the journal, and a moment later."""
    before, patience = lines(run_dir), time.monotonic() + 60
    while lines(run_dir) < before + num_more and process.poll() is None:
        assert time.monotonic() < patience, "no steps were made"
        time.sleep(0.002)
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)


def test_a_run_killed_again_and_again_ends_as_if_undisturbed(tmp_path: Path) -> None:
    spec = tmp_path / "kill.json"
    spec.write_text(json.dumps(DOCUMENT))
    with one_thread():
        whole = trained(prepared(**DOCUMENT), tmp_path / "whole")
    draw = random.Random()  # another moment each time the suite runs: any of them must do
    process = started(str(spec), "--output-dir", str(tmp_path / "killed"))
    while not list((tmp_path / "killed").glob("*/checkpoints")):
        assert process.poll() is None
        time.sleep(0.01)
    (run_dir,) = (tmp_path / "killed").iterdir()
    killed_at = []
    for _ in range(2):
        # Two steps at least: the first checkpoint follows the first step's record.
        kill_after(process, run_dir, draw.randint(2, 9), draw.random() * 0.03)
        assert process.returncode == -signal.SIGKILL
        found = list_checkpoints(run_dir / "checkpoints")
        killed_at.append(found[0].step)
        assert not (run_dir / "summary.json").exists()
        process = started("--resume", str(run_dir))
    last = summary_of(process)

    assert last["parameters_sha256"] == whole.parameters_sha256
    assert (last["outcome"], last["steps"], last["samples_seen"]) == ("completed", NUM_STEPS, whole.samples_seen)
    records, others = read_records(run_dir), read_records(tmp_path / "whole")
    assert [record.step for record in steps(records)] == list(range(1, NUM_STEPS + 1)), killed_at
    seconds = {"training_seconds", "evaluation_seconds"}
    assert [r.model_dump(exclude=seconds) for r in steps(records)] == [r.model_dump(exclude=seconds) for r in steps(others)]
    assert [r.model_dump(exclude=seconds) for r in evaluations(records)] == [r.model_dump(exclude=seconds) for r in evaluations(others)]
    # A checkpoint may be one step behind the journal, never ahead: the journal is on disk before the checkpoint is.
    assert [record.step for record in starts(run_dir)] == [0, *killed_at]
    assert not list(run_dir.rglob("*.part"))
    clock = [record.training_seconds for record in steps(records)]
    assert clock == sorted(clock)


@pytest.mark.parametrize("torn", [b'{"kind":"step","step":3,"epo', b"\x00" * 100, '{"kind": "étape'.encode()[:-2]])
def test_a_torn_last_line_is_left_out_and_the_next_record_begins_a_line_of_its_own(torn: bytes, tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.write(StartRecord(at_s=1.0, step=0, training_seconds=0.0, world_size=1, device="cpu"))
    with (tmp_path / "records.jsonl").open("ab") as file:
        file.write(torn)
    assert len(read_records(tmp_path)) == 1
    with Journal(tmp_path) as journal:
        journal.write(StartRecord(at_s=2.0, step=0, training_seconds=0.5, world_size=1, device="cpu"))
    assert [record.at_s for record in starts(tmp_path)] == [1.0, 2.0]


def test_two_processes_cannot_train_one_run(tmp_path: Path) -> None:
    spec = tmp_path / "kill.json"
    spec.write_text(json.dumps({**DOCUMENT, "stop": {"steps": 1_000_000}, "checkpoint": {"every_steps": 20}}))
    process = started(str(spec), "--output-dir", str(tmp_path / "runs"))
    try:
        while not list((tmp_path / "runs").glob("*/checkpoints/step-*.pt")):
            assert process.poll() is None
            time.sleep(0.01)
        (run_dir,) = (tmp_path / "runs").iterdir()
        second = started("--resume", str(run_dir))
        out, err = second.communicate(timeout=60)
        assert (second.returncode, out) == (2, "")
        assert "another process is at work on this run" in err
        assert "Traceback" not in err
        assert process.poll() is None, "the first goes on undisturbed"
    finally:
        process.kill()
        process.communicate(timeout=20)
    assert len(starts(run_dir)) == 1
