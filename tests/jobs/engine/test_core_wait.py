"""Whether a run's clock was disturbed by other work, as the kernel counts it."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from largebatch.jobs.engine.core_wait import DISTURBED, CoreWait, in_words, waited_s

needs_count = pytest.mark.skipif(waited_s() is None, reason="this kernel does not count how long threads wait")
SHORTEST_S = 0.05


@pytest.fixture
def one_core() -> Iterator[int]:
    """This thread, and what it starts, on one core alone."""
    before = os.sched_getaffinity(0)
    core = min(before)
    os.sched_setaffinity(0, {core})
    yield core
    os.sched_setaffinity(0, before)


def compute(seconds: float) -> None:
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s:
        pass


@needs_count
def test_a_core_that_is_shared_is_waited_for(one_core: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        wait = CoreWait(shortest_s=SHORTEST_S)
        compute(0.4)
        fraction = wait.fraction()
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert fraction > 0.4  # of four that share a core alike, each waits three quarters of the time


@needs_count
def test_sleeping_is_no_waiting() -> None:
    wait = CoreWait(shortest_s=SHORTEST_S)
    time.sleep(0.3)
    fraction = wait.fraction()
    assert fraction < DISTURBED


@needs_count
def test_threads_that_end_take_nothing_away() -> None:
    thread = threading.Thread(target=compute, args=(0.1,))
    wait = CoreWait(shortest_s=SHORTEST_S)
    thread.start()
    thread.join()
    fraction = wait.fraction()
    assert 0.0 <= fraction <= 1.0


def test_where_nothing_is_counted_nothing_is_said(tmp_path: Path) -> None:
    assert CoreWait(tmp_path, shortest_s=0.0).fraction() is None
    assert in_words(None) is None


@needs_count
def test_of_a_moment_nothing_is_said() -> None:
    assert CoreWait(shortest_s=0.0).fraction() is not None
    assert CoreWait(shortest_s=60.0).fraction() is None


def test_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert in_words(0.05) is None
    assert "waited 62% of the time for a core" in (in_words(0.62) or "")
    assert "OMP_WAIT_POLICY=passive" in (in_words(0.62) or "")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert "OMP" not in (in_words(0.62) or ""), "one thread waits for no other"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert "OMP" not in (in_words(0.62) or ""), "what was done is not advised"
