"""Whether a run's clock was disturbed by other work, as the kernel counts it."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_runs import prepared, stopping_after, trained

from largebatch.jobs.engine.core_wait import DISTURBED, CoreWait, in_words, waited_s
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.reporting import summarise
from largebatch.jobs.run.records import Outcome, RunSummary

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


@pytest.mark.parametrize(("waited_s", "is_known"), [(0.05, False), (0.4, True)])
def test_of_a_short_run_only_much_is_said(waited_s: float, is_known: bool, tmp_path: Path) -> None:
    """A recipe's run of 0.8 s was five times as slow as the machine, and nothing said so."""
    count = tmp_path / "1" / "schedstat"
    count.parent.mkdir()
    count.write_text("0 1000000000 1")
    wait = CoreWait(tmp_path, shortest_s=60.0)
    count.write_text(f"0 {1_000_000_000 + round(1e9 * waited_s)} 2")
    assert (wait.fraction() is not None) == is_known


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


@pytest.mark.parametrize("num_legs", [2, 3])
def test_a_resumed_run_tells_of_all_its_seconds(tmp_path: Path, num_legs: int) -> None:
    """Of less than a second nothing is known, so what the first leg waited stays what is known; resumed once more, with no step left, too."""
    job = {"batch": {"global_batch_size": 8}, "stop": {"steps": 6}}
    trained(prepared(**job), tmp_path / "run", stopping_after(2))
    path = tmp_path / "run" / "summary.json"
    first = json.loads(path.read_text())
    path.write_text(json.dumps({**first, "core_wait_fraction": 0.5, "stopped_seconds": 4.0}))
    for _ in range(num_legs - 1):
        summary = trained(prepared(**job), tmp_path / "run", resumes=True)
    assert (first["steps"], summary.steps, first["core_wait_fraction"]) == (2, 6, None)
    assert (summary.core_wait_fraction, summary.stopped_seconds) == (0.5, 4.0)
    assert RunSummary.model_validate_json(path.read_text()) == summary


@pytest.mark.parametrize(("before", "now", "of_all"), [(0.5, 0.1, 0.2), (None, 0.1, 0.1), (0.5, None, 0.5), (None, None, None)])
def test_each_leg_counts_by_its_seconds(tmp_path: Path, before: float | None, now: float | None, of_all: float | None) -> None:
    """A quarter of them before, three quarters now; what is not known of one says nothing."""
    job = prepared(batch={"global_batch_size": 8}, stop={"steps": 2})
    earlier = trained(job, tmp_path / "run").model_copy(update={"training_seconds": 10.0, "evaluation_seconds": 0.0, "core_wait_fraction": before})
    (tmp_path / "run" / "summary.json").write_text(earlier.model_dump_json())
    state = new_state(job)
    state.clock.go_on_from(40.0, 0.0, 40.0)
    summary = summarise(job, state, Outcome.STOPPED, tmp_path / "run", now, 0.0)
    assert summary.core_wait_fraction == (None if of_all is None else pytest.approx(of_all))
