"""Machines that come and go: Ray's own cluster utility, and two network namespaces as two hosts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_across_two_hosts_survives_a_lost_host(tmp_path: Path) -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    done = subprocess.run([sys.executable, HERE / "namespace_scenario.py", tmp_path], capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_a_lost_machine_leaves_the_run_to_the_others_until_it_comes_back(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, HERE / "elastic_scenario.py", tmp_path], capture_output=True, text=True, timeout=280, cwd=HERE)
    assert done.returncode == 0, done.stderr[-3000:]
