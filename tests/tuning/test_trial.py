"""A run of a sweep in the process that Ray Tune gave it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRIAL = """
import os, sys, threading
from pathlib import Path
from largebatch.jobs.run.records import StepRecord
from largebatch.jobs.spec.read import read_spec
from largebatch.tuning.sweep.trial import TrialOptions, _train_here

class Reporter:
    def record(self, record):
        if isinstance(record, StepRecord):
            print(os.sched_getscheduler(0), os.sched_getscheduler(beside.native_id))
    def should_stop(self):
        return False

beside = threading.Thread(target=threading.Event().wait, daemon=True)
beside.start()
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # as on a Ray of the sweep's own
spec = read_spec("digits-small-batch", ["stop.epochs=null", "stop.steps=2", "tracking.enabled=false"])
_train_here(spec, TrialOptions(Path(sys.argv[1]), Path("data"), "cpu", 1, 1.0, 0.0, None), "one", Reporter())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the policy is Linux's")
def test_what_trains_goes_first(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", TRIAL, str(tmp_path)], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.splitlines() == [f"{os.SCHED_OTHER} {os.SCHED_BATCH}"] * 2
    assert (tmp_path / "one" / "summary.json").is_file()
