"""Machines that come and go: Ray's own cluster utility, and two network namespaces as two hosts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import ROOT

HERE = Path(__file__).parent


def why_not() -> str | None:
    """What this machine lacks for namespaces, in its own words."""
    if not shutil.which("ip"):
        return "there is no `ip` (package iproute2)"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    name = f"lb{os.getpid()}try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return f"this machine refuses a network namespace: {made.stderr.strip()}" if made.returncode else None


def played(scenario: str, tmp_path: Path, timeout_s: float) -> "subprocess.CompletedProcess[str]":
    """A scenario in a process of its own, which finds what tests share as this one does."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", HERE)))}
    return subprocess.run([sys.executable, HERE / scenario, tmp_path], capture_output=True, text=True, timeout=timeout_s, cwd=HERE, env=environment)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_across_two_hosts_survives_a_lost_host(tmp_path: Path) -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    done = played("namespace_scenario.py", tmp_path, 580)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_a_lost_machine_leaves_the_run_to_the_others_until_it_comes_back(tmp_path: Path) -> None:
    done = played("elastic_scenario.py", tmp_path, 280)
    assert done.returncode == 0, done.stderr[-3000:]
