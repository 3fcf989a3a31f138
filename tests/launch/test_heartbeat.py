"""A worker that has lost its run ends itself."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys, time
from largebatch.jobs.launch.on_ray.worker.heartbeat import RunGoneError, heartbeat

answers = list(sys.argv[1])

def ask():
    answer = answers.pop(0) if len(answers) > 1 else answers[0]
    if answer == "d":
        raise RunGoneError("it is dead")
    if answer == "n":
        raise TimeoutError("nobody answers")

with heartbeat(ask, every_s=0.01, misses=3):
    time.sleep(float(sys.argv[2]))
time.sleep(0.2)
print("at its end")
"""


@pytest.mark.parametrize(
    ("answers", "seconds", "why"),
    [("yynnn", "60", "TimeoutError: nobody answers"), ("yyd" + "y" * 20, "60", "RunGoneError: it is dead"),
     ("nnynnynny", "0.5", None), ("y" * 20 + "n", "0.05", None)],
    ids=["cut off", "known to be dead", "answers now and then", "over before"],
)  # fmt: skip
def test_a_worker_that_has_lost_its_run_ends_itself(answers: str, seconds: str, why: str | None) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, answers, seconds], capture_output=True, text=True, timeout=60, check=False)
    if why is not None:
        assert done.returncode == 75
        assert f"has lost its run ({why})" in done.stderr
    else:
        assert (done.returncode, done.stdout.strip()) == (0, "at its end")
