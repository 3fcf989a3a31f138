"""Who is interrupted by whom, as Linux says it."""

import os
import subprocess
import sys
import threading

import pytest

from largebatch.jobs.launch.on_ray.priority import standing_back, train_first

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the policy is Linux's")
POLICY = "import os; print(os.sched_getscheduler(0))"


def policy_of_a_child() -> int:
    return int(subprocess.run([sys.executable, "-c", POLICY], capture_output=True, text=True, check=True).stdout)


def test_what_is_started_while_standing_back_interrupts_nobody() -> None:
    with standing_back():
        assert policy_of_a_child() == os.SCHED_BATCH
    assert policy_of_a_child() == os.sched_getscheduler(0) == os.SCHED_OTHER


def test_the_thread_that_trains_goes_first() -> None:
    idles, ends = threading.Event(), threading.Event()
    seen: list[int] = []

    def idle() -> None:
        seen.append(threading.get_native_id())
        idles.set()
        ends.wait(60)

    def train() -> None:
        train_first()
        seen.extend([os.sched_getscheduler(0), os.sched_getscheduler(seen[0])])

    other, trainer = threading.Thread(target=idle), threading.Thread(target=train)
    other.start()
    idles.wait(60)
    before = {int(number): os.sched_getscheduler(int(number)) for number in os.listdir("/proc/self/task")}
    trainer.start()
    trainer.join()
    for number, policy in before.items():
        os.sched_setscheduler(number, policy, os.sched_param(0))
    ends.set()
    other.join()
    assert seen[1:] == [os.SCHED_OTHER, os.SCHED_BATCH]
