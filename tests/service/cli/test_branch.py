"""`largebatch branch` on a run of the digits: killed, gone on with, and the recipe that it writes."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import said
from forked import Forked
from ports import free_port
from small_runs import document, prepared, trained, wait_for

from largebatch.jobs.spec.read import read_spec
from largebatch.tuning.files import BRANCH_LEDGER, BRANCHES

PARTS = document(
    dataset={"name": "digits"},
    model={"name": "mlp", "arguments": {"width": 32}},
    batch={"global_batch_size": 32, "micro_batch_size": 32},
    optimizer={"name": "adamw"},
    learning_rate={"base": 0.002},
    stop={"epochs": 6},
    checkpoint={"every_steps": 40, "keep": 30, "every_seconds": None},
)
ASKED = ("--steps", "40,120", "--samples", "1024", "--multiples", "2,8", "--orders", "3", "--device", "cpu")


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "digits-run"
    trained(prepared(**PARTS), folder)
    return folder


@pytest.fixture
def run_dir(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of that run, which has no branches yet."""
    return Path(shutil.copytree(trained_run, tmp_path / "digits-run"))


def test_killed_it_goes_on_and_answers(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = run_dir / BRANCHES / BRANCH_LEDGER
    process = Forked("-m", "largebatch", "branch", run_dir, *ASKED)
    try:
        wait_for(lambda: ledger.is_file() and len(ledger.read_bytes().splitlines()) >= 2, 120, process)
    finally:
        process.kill()
        process.communicate()
    kept = ledger.read_bytes().rpartition(b"\n")[0].splitlines()
    code, out, err = said(capsys, "branch", run_dir, *ASKED, "--json")
    assert code == 0
    lines = ledger.read_bytes().splitlines()
    assert lines[: len(kept)] == kept, "what was done is not done again"
    assert len(lines) >= 2 * 2 * 3 + 6, "two checkpoints, three batches, three orders"
    answer = json.loads(out)
    assert [place["samples_seen"] for place in answer["places"]] == [40 * 32, 2 * 1437 + 30 * 32]
    for place in answer["places"]:
        critical = place["critical"]
        assert critical["num_orders"] == 3
        assert [*critical["excess"]] == ["64", "256"]
        assert critical["low"] <= (critical["critical_batch_size"] or 256) <= (critical["high"] or 1e9)
        assert place["noise_scale"] > 0
    assert answer["rate_power"] == 0.5, "AdamW's"
    assert "branch" in err
    for name in ("critical-batch.png", "branch-losses.png"):
        assert (run_dir / BRANCHES / name).read_bytes().startswith(b"\x89PNG")


def test_a_schedule_is_a_recipe(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a tolerance that nothing passes, the batch may grow to the largest from the first checkpoint on."""
    code, out, _ = said(capsys, "branch", run_dir, *ASKED, "--tolerance", "1e6", "--rate", "none")
    recipe = run_dir / BRANCHES / "grown.yaml"
    assert code == 0
    assert "A batch of 256 from epoch 0.891 takes" in out
    assert f"largebatch train {recipe}" in out
    spec = read_spec(str(recipe))
    assert spec.batch.schedule.rate_follows == "none"
    assert [milestone.factor for milestone in spec.batch.schedule.growth] == [8.0]
    assert prepared(**spec.model_dump(mode="json")).plan.total_steps == 40 + 1 + 5 * 6, "it grows with the very step after the checkpoint"
    code, out, _ = said(capsys, "branch", run_dir, *ASKED, "--tolerance", "1e-12", "--rate", "none")
    assert (code, recipe.exists()) == (0, False), "another tolerance needs no new branch, and takes its recipe back"


def test_what_is_left_is_told(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "branch", run_dir, *ASKED, "--budget", "0.000001s")
    assert code == 4
    assert "Nothing can be said so far" in out
    assert "Go on with the same command" in err
    code, out, _ = said(capsys, "branch", run_dir, *ASKED, "--budget", "0.000001s", "--rate", "tuned")
    assert (code, f"{3 * 2 * 3 * 3} branches are left" in out) == (4, True), "three orders, two checkpoints, three batches, each at three rates"
    code, _, err = said(capsys, "branch", run_dir / "nowhere")
    assert (code, "is not a run's folder" in err) == (2, True)
    code, _, err = said(capsys, "branch", run_dir, "--multiples", "64")
    assert (code, "--multiples: 64 times the batch of 32 is more than the 1,437 samples" in err) == (2, True)


def test_what_cannot_train_side_by_side_is_told(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything trains, and nothing is written."""
    code, _, err = said(capsys, "branch", run_dir, *ASKED, "--address", f"127.0.0.1:{free_port()}")
    assert (code, "--address: nothing answers at 127.0.0.1:" in err) == (2, True)
    code, _, err = said(capsys, "branch", run_dir, *ASKED, "--address", "nowhere")
    assert (code, "--address: 'nowhere' is not an address of Ray." in err) == (2, True)
    code, _, err = said(capsys, "branch", run_dir, *ASKED, "--cpus-per-worker", "0")
    assert (code, "--cpus-per-worker: 0 is not a number above 0." in err) == (2, True)
    assert not (run_dir / BRANCHES).exists()
