"""The supervisor of a submitted job's driver."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from small_runs import ROOT, wait_for

SUPERVISE = ROOT / "jobs" / "launch" / "supervise.py"


def supervised(folder: Path, code: str, *arguments: str) -> "subprocess.Popen[str]":
    """The supervisor, with a driver of ours in place of `jobs`."""
    ours = folder / "largebatch" / "jobs"
    ours.mkdir(parents=True)
    (ours.parent / "__init__.py").touch()
    (ours / "__init__.py").write_text(f"__path__.append({str(SUPERVISE.parents[1])!r})")
    (ours / "__main__.py").write_text(code)
    script = f"import sys; sys.argv = ['supervise', *{list(arguments)!r}]; exec(open({str(SUPERVISE)!r}).read())"
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, stderr=subprocess.PIPE, text=True
    )


def test_a_killed_driver_is_started_again_and_an_exit_code_is_passed_on(tmp_path: Path) -> None:
    code = """
import os, pathlib, signal, sys
count = pathlib.Path("count"); n = int(count.read_text()) + 1 if count.exists() else 1; count.write_text(str(n))
if n < 3: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(len(sys.argv) + 10 * bool(os.environ.get("LARGEBATCH_STARTED_AGAIN")))
"""
    process = supervised(tmp_path, code, "one", "two")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 13, "it knows that it is not the first"
    assert (tmp_path / "count").read_text() == "3"
    assert stderr.count("ended by SIGKILL") == 2


def test_a_supervisor_that_is_asked_to_end_asks_its_driver_and_starts_no_other(tmp_path: Path) -> None:
    code = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
pathlib.Path("up").write_text("")
time.sleep(60)
"""
    process = supervised(tmp_path, code)
    wait_for((tmp_path / "up").exists, 30)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 4
