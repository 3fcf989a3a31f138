"""Machines that come and go."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_a_lost_machine_leaves_the_run_to_the_others_until_it_comes_back(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, HERE / "elastic_scenario.py", tmp_path], capture_output=True, text=True, timeout=280, cwd=HERE)
    assert done.returncode == 0, done.stderr[-3000:]
