"""A process that collects seldom ends as quietly as any."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["torch", "torchvision"])
def test_nothing_is_printed_at_the_end(module: str) -> None:
    code = f"import gc\nfrom largebatch.jobs.collector import collect_seldom\ncollect_seldom()\nimport {module}\nprint(gc.get_threshold()[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("10000\n", "")
