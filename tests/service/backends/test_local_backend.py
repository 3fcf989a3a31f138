"""Jobs as real processes of this machine, with a service that dies and comes back."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from launch_runs import kill
from servers import job_processes
from small_runs import wait_for

from largebatch.service.backends import job_supervisor
from largebatch.service.backends.base import CannotStart, Presence, Seen
from largebatch.service.backends.local import LocalBackend, job_environment
from largebatch.service.job import Capacity, Job, Kind, State

SLEEPER = """
import os, signal, sys, time
from pathlib import Path
Path(sys.argv[1]).open("a").write(f"{os.getpid()} ")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
print("began", flush=True)
until = Path(sys.argv[2])
while not until.exists():
    time.sleep(0.02)
sys.exit(int(until.read_text() or 0))
"""


@pytest.fixture
def backends(tmp_path: Path) -> Iterator[Callable[[], LocalBackend]]:
    """Makes backends on the same folders, whose jobs wait for a file, and end with the exit code in it."""
    script, made, before = tmp_path / "sleeper.py", list[LocalBackend](), set(psutil.Process().children())
    script.write_text(SLEEPER)

    def make() -> LocalBackend:
        folders = (tmp_path / name for name in ("state", "runs", "data"))
        words = [str(script), str(tmp_path / "pids"), str(tmp_path / "until")]
        made.append(LocalBackend(*folders, Capacity(2.0, 4), lambda job, *_: [*words, job.id]))
        return made[-1]

    yield make
    (tmp_path / "until").touch()
    kill(job_processes(tmp_path))

    def all_ended() -> bool:
        for backend in made:
            backend.look([])  # it waits for the supervisors that have ended
        return set(psutil.Process().children()) <= before

    wait_for(all_ended, 20)


@pytest.fixture
def backend(backends: Callable[[], LocalBackend]) -> LocalBackend:
    return backends()


def job(attempt: int = 1, **parts: object) -> Job:
    given = {"id": "job-a", "kind": Kind.RUN, "owner": "ann", "name": "a", "recipe": None, "spec": {"x": 1}, "cpus": 2.0, "gpus": 0, **parts}
    return Job.model_validate({**given, "created_at_s": 0.0, "state": State.STARTING, "attempt": attempt})


def started(tmp_path: Path) -> list[int]:
    return [int(text) for text in (tmp_path / "pids").read_text().split()] if (tmp_path / "pids").exists() else []


def seen(backend: LocalBackend, one: Job) -> Seen:
    return backend.look([one])[one.id]


def test_begun_twice_it_runs_once(backends: Callable[[], LocalBackend], tmp_path: Path) -> None:
    backend, other = backends(), backends()  # a service that comes back, or another replica
    assert seen(backend, job()).presence is Presence.ABSENT
    for _ in range(5):
        backend.start(job())
    wait_for(lambda: started(tmp_path) != [], 20)
    other.start(job())
    time.sleep(0.3)
    assert len(started(tmp_path)) == 1
    assert seen(other, job()).presence is Presence.PRESENT
    (tmp_path / "code").write_text("3")
    (tmp_path / "code").rename(tmp_path / "until")  # whole: the job looks every 20 ms
    wait_for(lambda: seen(other, job()).presence is Presence.ENDED, 20)
    assert seen(backend, job()) == Seen(Presence.ENDED, 3, "began")
    backend.start(job())
    time.sleep(0.3)
    assert len(started(tmp_path)) == 1, "an attempt that is over is not begun again"


def test_an_older_attempt_never_runs_after_a_newer(backend: LocalBackend, tmp_path: Path) -> None:
    (tmp_path / "until").write_text("0")
    backend.start(job(2))
    wait_for(lambda: seen(backend, job(2)).presence is Presence.ENDED, 20)
    folder = tmp_path / "state" / "job-a"
    (folder / "1").mkdir()
    (folder / "1" / job_supervisor.COMMAND).write_text(json.dumps({"command": [sys.executable, "-c", "print('old')"], "cwd": "/", "gpus": []}))
    assert job_supervisor.main(folder, "1") == 0
    assert not (folder / "1" / job_supervisor.EXIT).exists()


@pytest.mark.parametrize("is_urgent", [False, True])
def test_stopping(backend: LocalBackend, tmp_path: Path, is_urgent: bool) -> None:
    backend.start(job())
    wait_for(lambda: started(tmp_path) != [], 20)
    backend.stop(job(), is_urgent)
    wait_for(lambda: seen(backend, job()).presence is not Presence.PRESENT, 20)
    # Ended with its supervisor, nobody wrote the exit code down; the reconciler asks the run's folder then.
    assert seen(backend, job()) == (Seen(Presence.ABSENT) if is_urgent else Seen(Presence.ENDED, 4, "began"))
    backend.stop(job(), is_urgent)


def test_a_killed_supervisor_leaves_a_job_that_is_still_known(backend: LocalBackend, tmp_path: Path) -> None:
    backend.start(job())
    wait_for(lambda: started(tmp_path) != [], 20)
    os.kill(int((tmp_path / "state" / "job-a" / "1" / job_supervisor.PID).read_text()), signal.SIGKILL)
    time.sleep(0.2)
    assert seen(backend, job()).presence is Presence.PRESENT, "the process holds the lock that its supervisor took"
    backend.start(job(2))
    time.sleep(0.3)
    assert len(started(tmp_path)) == 1, "a second attempt waits for it"
    backend.stop(job(), is_urgent=False)
    wait_for(lambda: seen(backend, job()).presence is Presence.ABSENT, 20)


def test_a_killed_process_is_told_by_its_signal(backend: LocalBackend, tmp_path: Path) -> None:
    backend.start(job())
    wait_for(lambda: started(tmp_path) != [], 20)
    os.kill(started(tmp_path)[0], signal.SIGKILL)
    wait_for(lambda: seen(backend, job()).presence is Presence.ENDED, 20)
    assert seen(backend, job()).exit_code == -9


def test_a_process_number_that_went_to_another_is_left_alone(backend: LocalBackend, tmp_path: Path) -> None:
    backend.start(job())
    wait_for(lambda: started(tmp_path) != [], 20)
    (tmp_path / "state" / "job-a" / "1" / job_supervisor.PID).write_text(str(os.getpid()))
    backend.stop(job(), is_urgent=False)  # would end this very test
    time.sleep(0.2)
    assert seen(backend, job()).presence is Presence.PRESENT


def test_what_was_fenced_off_never_begins(backend: LocalBackend, tmp_path: Path) -> None:
    assert backend.fence(job())
    backend.start(job())
    wait_for(lambda: started(tmp_path) != [], 20)
    assert not backend.fence(job()), "it has begun"
    (tmp_path / "until").write_text("0")
    wait_for(lambda: seen(backend, job()).presence is Presence.ENDED, 20)
    (tmp_path / "state" / "job-a" / "1" / job_supervisor.EXIT).unlink()  # as if this attempt's supervisor had not come to it yet
    assert backend.fence(job())
    assert job_supervisor.main(tmp_path / "state" / "job-a", "1") == 0
    assert len(started(tmp_path)) == 1


def test_logs_from_any_byte(backend: LocalBackend, tmp_path: Path) -> None:
    assert backend.logs(job(), 1, 0, 100) == b""
    (tmp_path / "until").write_text("0")
    backend.start(job())
    wait_for(lambda: seen(backend, job()).presence is Presence.ENDED, 20)
    assert backend.logs(job(), 1, 0, 100) == b"began\n"
    assert backend.logs(job(), 1, 2, 2) == b"ga"
    assert backend.logs(job(), 1, 99, 100) == b""


def test_gpus_are_shared_out_once(backend: LocalBackend, tmp_path: Path) -> None:
    for name, gpus in (("job-a", 1), ("job-b", 2), ("job-c", 1)):
        backend.start(job(id=name, gpus=gpus))
    given = [json.loads((tmp_path / "state" / name / "1" / job_supervisor.COMMAND).read_text())["gpus"] for name in ("job-a", "job-b", "job-c")]
    assert given == [[0], [1, 2], [3]]


def test_jobs_get_none_of_the_services_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARGEBATCH_DATABASE_URL", "postgresql://me:hidden-7@host/x")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hidden-7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment = job_environment(job(), [2, 3])
    assert "hidden-7" not in str(environment)
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["OMP_NUM_THREADS"]) == ("2,3", "2")
    assert json.loads(environment["LARGEBATCH_SPEC"]) == {"x": 1}


def test_the_operator_bounds_the_threads_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for bound, threads in [("1", "1"), ("8", "2"), ("0", "2"), ("4,2", "2")]:
        monkeypatch.setenv("OMP_NUM_THREADS", bound)
        assert job_environment(job(), [])["OMP_NUM_THREADS"] == threads


def test_code_that_is_no_longer_taken_is_not_run(backend: LocalBackend, tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="no code of people's own is taken here"):
        backend.start(job(code="f" * 64))
    assert started(tmp_path) == []
