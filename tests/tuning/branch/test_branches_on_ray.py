"""Branches side by side on a real Ray: bit for bit those of one process, though a worker is killed; stopped, and gone on with."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from command_line import said
from launch_runs import Head
from ray.util.state import list_actors
from small_branches import ASK, PARTS, origin_of, told
from small_runs import ROOT, one_thread, prepared, trained, wait_for

from largebatch.tuning.branch.run_branches import BranchListener, run_branches
from largebatch.tuning.branch.train import BranchResult
from largebatch.tuning.branch.trainers.choose import SideBySide, trainer_for
from largebatch.tuning.files import BRANCH_LEDGER, BRANCHES

pytestmark = pytest.mark.filterwarnings("ignore")


def actors(head: Head) -> list[int]:
    """Process ids of the actors that train branches now."""
    return [actor.pid for actor in list_actors(address=head.dashboard, filters=[("class_name", "=", "BranchActor"), ("state", "=", "ALIVE")])]


def test_they_are_those_of_one_process_though_a_worker_is_killed(head: Head, tmp_path: Path) -> None:
    """Two side by side, of which one is killed at the first result; after five results a stop, and this process trains what is left."""
    origin, ended, killed, notices = origin_of(tmp_path / "run"), list[BranchResult](), list[int](), list[str]()

    def kill_one(result: BranchResult) -> None:
        ended.append(result)
        if not killed:
            killed.extend(pid for pid in actors(head) if "get_ready" not in " ".join(psutil.Process(pid).cmdline()))
            os.kill(killed[0], signal.SIGKILL)

    ledger = tmp_path / "run" / BRANCHES / BRANCH_LEDGER
    with trainer_for(origin, SideBySide(address=head.address, max_concurrent=2), "cpu") as trainer:
        assert trainer.num_concurrent == 2
        listener = BranchListener(on_end=kill_one, on_notice=notices.append, should_stop=lambda: len(ended) >= 5)
        stopped = run_branches(origin, ASK, listener, trainer)
        wait_for(lambda: not actors(head), 30)
    assert 0 < stopped.num_left <= 8 - 5
    assert any(notice.endswith("times the batch, died: the branch is trained again.") for notice in notices)
    kept = ledger.read_bytes()
    with one_thread():
        whole = run_branches(origin, ASK, BranchListener())
        alone = run_branches(origin_of(tmp_path / "other"), ASK, BranchListener())
    assert ledger.read_bytes().startswith(kept), "what was done is not done again"
    assert whole.num_left == alone.num_left == 0
    assert told(whole) == told(alone)


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(head: Head, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command itself, on the head, with rates that are tuned."""
    parts = PARTS | {"stop": {"epochs": 60}, "checkpoint": {"every_steps": 100, "keep": 99, "every_seconds": None}}
    trained(prepared(**parts), tmp_path / "run")
    asked = ["branch", str(tmp_path / "run"), "--steps", "100,300", "--multiples", "2", "--samples", "2400", "--orders", "2", "--rate", "tuned",
             "--device", "cpu", "--address", head.address, "--max-concurrent", "2"]  # fmt: skip
    ledger = tmp_path / "run" / BRANCHES / BRANCH_LEDGER
    command = [sys.executable, "-m", "largebatch", *asked]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: ledger.is_file() and len(ledger.read_bytes().splitlines()) >= 2, 120, process)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 4, errors
    assert "SIGINT: stopping; branches under way are not kept." in errors
    assert "Go on with the same command: what was done is kept." in errors
    wait_for(lambda: not actors(head), 30)
    kept = ledger.read_bytes()
    code, out, _ = said(capsys, *asked)
    assert code == 0
    assert "times that rate, which no order judges that has chosen it" in out
    assert ledger.read_bytes().startswith(kept)
    assert len(ledger.read_bytes().splitlines()) > len(kept.splitlines())
