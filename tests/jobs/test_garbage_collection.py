"""How often the garbage collector looks."""

import subprocess
import sys


def test_a_command_collects_seldom() -> None:
    code = "import gc\nfrom largebatch.jobs.garbage_collection import collect_seldom\ncollect_seldom()\nprint(gc.get_threshold()[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("10000\n", "")
