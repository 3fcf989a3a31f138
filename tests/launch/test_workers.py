"""Ray Train's workers against one process, and what they survive. Real Ray, real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import launch_runs as runs
import pytest
import torch
from launch_runs import Head

from jobs.errors import DataError, FaultError, InputError, PlanError
from jobs.job import Listener, prepare, run_job
from jobs.launch.options import Workers, read_workers
from jobs.records import Outcome
from jobs.spec_reader import build_spec

# Ray warns of its own old ways.
pytestmark = pytest.mark.filterwarnings("ignore")
TWO = Workers(2, 2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, head: Head) -> Path:
    """The run of two workers that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    summary = runs.train(folder, head.address, TWO, runs.document())
    assert (summary.outcome, summary.world_size, summary.steps) == (Outcome.COMPLETED, 2, runs.STEPS)
    return folder / "run"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points are found in the current folder."""
    monkeypatch.chdir(Path(__file__).parent)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("one") / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run_job(prepare(build_spec(runs.document()), torch.device("cpu"), Path("data")), run_dir, Listener())
    torch.set_num_threads(threads)
    return run_dir


def test_one_worker_is_one_process_bit_for_bit(head: Head, one_process: Path, tmp_path: Path) -> None:
    watcher = runs.Watcher()
    summary = runs.train(tmp_path, head.address, Workers(1, 1), runs.document(), watcher)
    assert runs.same(runs.parameters(one_process), runs.parameters(tmp_path / "run"))
    assert runs.steps(tmp_path / "run") == list(range(1, runs.STEPS + 1))
    assert watcher.records[-1].kind == "end"  # type: ignore[attr-defined]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["parameters_sha256"] == summary.parameters_sha256
    assert not (tmp_path / ".ray").exists()


def test_two_workers_are_one_process_within_rounding(one_process: Path, undisturbed: Path) -> None:
    assert 0 < runs.distance(runs.parameters(one_process), runs.parameters(undisturbed)) < 1e-3
    assert runs.starts(undisturbed)[0].samples_per_rank == [125, 125]


@pytest.mark.slow
def test_three_workers_of_an_uneven_batch(head: Head, one_process: Path, tmp_path: Path) -> None:
    summary = runs.train(tmp_path, head.address, Workers(3, 3), runs.document())
    assert (summary.world_size, summary.global_batch_size) == (3, 250)
    assert runs.starts(tmp_path / "run")[0].samples_per_rank == [75, 75, 100]
    assert runs.distance(runs.parameters(one_process), runs.parameters(tmp_path / "run")) < 1e-3


def test_a_killed_worker_leaves_the_same_run(head: Head, undisturbed: Path, tmp_path: Path) -> None:
    killed = []

    def kill() -> None:
        runs.kill_a_worker(tmp_path)
        (tmp_path / "acted").touch()
        killed.append(time.monotonic())

    watcher = runs.Watcher(15, kill)
    runs.train(tmp_path, head.address, TWO, runs.slow_document(tmp_path / "acted"), watcher)
    assert len(killed) == 1
    found = runs.starts(tmp_path / "run")
    assert [record.world_size for record in found] == [2, 2]
    assert found[1].step >= 10
    assert runs.same(runs.parameters(undisturbed), runs.parameters(tmp_path / "run"))
    assert runs.steps(tmp_path / "run") == list(range(1, runs.STEPS + 1)), "no record lost or doubled"
    (notice,) = runs.notices(tmp_path / "run")
    assert "its process ended" in notice
    assert f"from step {found[1].step}" in notice
    assert "\n" not in notice


def test_sigterm_saves_and_is_no_failure(head: Head, undisturbed: Path, tmp_path: Path) -> None:
    given = runs.slow_document(tmp_path / "never", checkpoint={"every_seconds": None, "best": False, "keep": 99})

    # Slow to its end: the signal is answered within a second, not at once.
    watcher = runs.Watcher(15, lambda: runs.kill_a_worker(tmp_path, signal.SIGTERM))
    summary = runs.train(tmp_path, head.address, TWO, given, watcher, max_failures=0)
    assert summary.outcome is Outcome.COMPLETED, "preemptions are not counted as failures"
    found = runs.starts(tmp_path / "run")
    assert len(found) == 2
    assert found[1].step >= 15, "nothing was lost: there were no periodic checkpoints"
    assert runs.same(runs.parameters(undisturbed), runs.parameters(tmp_path / "run"))


def test_a_run_that_keeps_failing_ends_with_the_first_real_error(head: Head, tmp_path: Path) -> None:
    given = runs.document(model={"entry_point": "failing:build"}, batch_norm={"span": "auto"})
    with pytest.raises(FaultError, match=r"more than 1 times.*worker 1: ZeroDivisionError: rank 1 cannot go on") as caught:
        runs.train(tmp_path, head.address, TWO, given, max_failures=1)
    assert "\n" not in str(caught.value)


def test_asking_to_stop_ends_resumably(head: Head, undisturbed: Path, tmp_path: Path) -> None:
    watcher, slow = runs.Watcher(), runs.slow_document(tmp_path / "acted")
    watcher._at_step, watcher._act = 5, watcher.stops.set
    summary = runs.train(tmp_path, head.address, TWO, slow, watcher)
    (tmp_path / "acted").touch()
    assert summary.outcome is Outcome.STOPPED
    assert 5 <= summary.steps < runs.STEPS
    summary = runs.train(tmp_path, head.address, TWO, slow)
    assert summary.steps == runs.STEPS
    assert runs.same(runs.parameters(undisturbed), runs.parameters(tmp_path / "run"))
    again = runs.Watcher()
    assert runs.train(tmp_path, head.address, TWO, slow, again).parameters_sha256 == summary.parameters_sha256
    assert any("ended before" in notice for notice in again.notices)


def test_a_driver_that_is_killed_is_started_again(head: Head, undisturbed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "RAY_ADDRESS": head.address, "SPEC": json.dumps(runs.slow_document(tmp_path / "acted"))}
    command = [sys.executable, "-m", "jobs.launch.supervise", "env:SPEC", "--workers", "2", "--cpus-per-worker", "0.5", "--run-id", "run"]
    supervisor = subprocess.Popen(
        [*command, "--output-dir", str(tmp_path), "--data-dir", "data", "--device", "cpu"], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        journal = tmp_path / "run" / "records.jsonl"
        ends_at = time.monotonic() + 90
        while not journal.exists() or '"step":11,' not in journal.read_text():
            assert supervisor.poll() is None
            assert time.monotonic() < ends_at
            time.sleep(0.05)
        (driver,) = [pid for pid in _children(supervisor.pid) if b"jobs" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(driver, signal.SIGKILL)
        (tmp_path / "acted").touch()
        output, _ = supervisor.communicate(timeout=120)
    finally:
        supervisor.kill()
    assert supervisor.returncode == 0
    assert json.loads(output.splitlines()[-1])["steps"] == runs.STEPS
    assert runs.same(runs.parameters(undisturbed), runs.parameters(tmp_path / "run"))
    assert runs.steps(tmp_path / "run") == list(range(1, runs.STEPS + 1))


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# ---- bad input: a clear sentence, and nothing begins --------------------------------------------------------------------


@pytest.mark.parametrize(("text", "words"), [("0", "rise"), ("3:2", "rise"), ("two", "not a number"), ("2:", "not a number"), ("-1", "not a number")])
def test_workers_that_are_no_number(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_workers(text)


def test_bounds_of_workers() -> None:
    assert read_workers("2:8") == Workers(2, 8)
    assert read_workers("4") == Workers(4, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"workers": Workers(9, 9), "cpus": 1.0}, r"9 workers with 1 CPUs each, and the cluster has 4 CPUs.*at most 4"),
     ({"workers": TWO, "gpus_per_worker": 1.0}, r"the cluster has 0 GPUs")],
)  # fmt: skip
def test_more_than_the_cluster_has(head: Head, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        runs.train(tmp_path, head.address, options.pop("workers"), runs.document(), **options)
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing answers at 127\.0\.0\.1:9"):
        runs.train(tmp_path, "127.0.0.1:9", TWO, runs.document())
    with pytest.raises(InputError, match="not an address"):
        runs.train(tmp_path, "somewhere", TWO, runs.document())


@pytest.mark.parametrize(
    ("parts", "kind", "words"),
    [
        ({"batch_norm": {"span": "global"}}, PlanError, "at most 125"),
        pytest.param({"dataset": {"name": "cifar100"}}, DataError, "cifar", marks=pytest.mark.slow),
    ],
)
def test_what_only_the_workers_can_know(head: Head, tmp_path: Path, parts: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        runs.train(tmp_path / "new", head.address, TWO, runs.document(**parts))
    assert list(tmp_path.iterdir()) == []
