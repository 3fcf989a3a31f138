"""The reconciler against a backend that loses, forgets, hangs and comes back; and against itself, broken off anywhere."""

import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from largebatch.jobs.run import run_folder
from largebatch.service.backends.base import BackendDown, CannotStart, Presence, Seen
from largebatch.service.db.engine import connect, upgrade, writing
from largebatch.service.db.store import Store
from largebatch.service.db.tables import leases
from largebatch.service.job import FINAL, Capacity, Job, Kind, State
from largebatch.service.queue.reconcile import Reconciler
from largebatch.service.settings import Settings


class Scripted:
    """A backend in memory that does what a test says; it counts what ran at once under one job's name."""

    name = "scripted"

    def __init__(self) -> None:
        self.attempts: dict[str, dict[int, Seen]] = {}
        self.stopped: list[tuple[str, bool]] = []
        self.is_down = False
        self.is_deaf = False
        self.broken: set[str] = set()
        self.most_at_once = 0

    def _here(self) -> None:
        if self.is_down:
            raise BackendDown("scripted", "does not answer.")

    def capacity(self) -> Capacity:
        self._here()
        return Capacity(4.0, 0)

    def start(self, job: Job) -> None:
        self._here()
        if job.id in self.broken:
            raise CannotStart("scripted", "its process cannot be started (Argument list too long).")
        mine = self.attempts.setdefault(job.id, {})
        if job.attempt not in mine and job.attempt >= max(mine, default=0):
            mine[job.attempt] = Seen(Presence.PRESENT)
        running = sum(seen.presence is Presence.PRESENT for seen in mine.values())
        self.most_at_once = max(self.most_at_once, running)

    def look(self, jobs: Sequence[Job]) -> dict[str, Seen]:
        self._here()
        return {job.id: self.attempts.get(job.id, {}).get(job.attempt, Seen(Presence.ABSENT)) for job in jobs}

    def stop(self, job: Job, is_urgent: bool) -> bool:
        self._here()
        self.stopped.append((job.id, is_urgent))
        return not self.is_deaf

    def fence(self, job: Job) -> bool:
        self._here()
        return self.look([job])[job.id].presence is Presence.ABSENT

    def logs(self, job: Job, attempt: int, offset: int, limit: int) -> bytes:
        return b""

    def end(self, job_id: str, code: int | None, message: str = "") -> None:
        newest = max(self.attempts[job_id])
        self.attempts[job_id][newest] = Seen(Presence.ENDED, code, message)


class House:
    """A store, a backend and a reconciler that a test drives pass by pass."""

    def __init__(self, tmp_path: Path, max_failures: int = 3, max_running: int | None = None) -> None:
        self.settings = Settings(runs_dir=tmp_path, max_failures=max_failures, max_running=max_running)
        engine = connect(f"sqlite:///{tmp_path}/service.sqlite")
        upgrade(engine)
        self.store, self.backend = Store(engine), Scripted()
        self.reconciler = Reconciler(self.store, self.backend, self.settings)

    def restart(self, urgent_after_s: float = 120.0) -> None:
        """The service is killed, and another begins once the dead one's leases have run out."""
        with writing(self.store.engine) as connection:
            connection.execute(leases.delete())
        self.reconciler = Reconciler(self.store, self.backend, self.settings, urgent_after_s=urgent_after_s)

    def submit(self, job_id: str = "a", **parts: object) -> str:
        given = {"owner": "ann", "created_at_s": time.time(), "cpus": 1.0, **parts}
        job = Job.model_validate({"id": job_id, "kind": Kind.RUN, "name": "a", "recipe": None, "gpus": 0, **given})
        self.store.accept(job, None, "", 1000)
        return job_id

    def passes(self, count: int = 1) -> None:
        for _ in range(count):
            self.reconciler.make_pass()

    def job(self, job_id: str = "a") -> Job:
        return self.store.find(job_id)

    def hurry(self, job_id: str = "a") -> None:
        """Let a pause be over."""
        self.store.note(self.job(job_id), not_before_s=0.0)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.store.engine.dispose()


@pytest.fixture
def running(house: House) -> House:
    """With a job, `a`, that runs."""
    house.submit()
    house.passes(2)
    return house


def test_a_run_from_queue_to_end(house: House, tmp_path: Path) -> None:
    house.submit()
    house.passes()
    assert (house.job().state, house.job().attempt) == (State.STARTING, 1)
    house.passes()
    assert house.job().state is State.RUNNING
    assert house.job().started_at_s is not None
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / run_folder.SUMMARY).write_text(json.dumps({"outcome": "missed", "score": 0.5}))
    house.backend.end("a", 0)
    house.passes()
    job = house.job()
    assert (job.state, job.outcome, job.summary) == (State.SUCCEEDED, "missed", {"outcome": "missed", "score": 0.5})


@pytest.mark.parametrize(
    ("code", "message", "state", "reason"),
    [
        (2, "SpecError: model.name: no such model.", State.FAILED, "SpecError: model.name: no such model."),
        (2, f"InputError: /x/a: {run_folder.AT_WORK} (train).", State.RECOVERING, "exit code 2"),
        (3, "", State.FAILED, "diverged"),
        (4, "", State.RECOVERING, "stopped from outside"),
        (1, "StorageError: /secret/place/a: cannot be written (No space left).", State.RECOVERING, "exit code 1: StorageError: a: cannot be written"),
        (-9, "", State.RECOVERING, "signal 9"),
        (None, "", State.RECOVERING, "exit code None"),
    ],
)
def test_how_an_attempt_ends(running: House, code: int | None, message: str, state: State, reason: str) -> None:
    running.backend.end("a", code, message)
    running.passes()
    assert running.job().state is state
    assert reason in str(running.job().reason)
    assert "/secret" not in str(running.job().reason)


def test_failures_are_counted_and_pauses_grow(house: House) -> None:
    house.submit()
    pauses = []
    for failure in range(1, 5):
        house.passes(2)
        assert house.job().state is State.RUNNING
        house.backend.end("a", 1)
        house.passes()
        if failure < 4:
            job = house.job()
            assert (job.state, job.failures) == (State.RECOVERING, failure)
            pauses.append(job.not_before_s - time.time())
            house.passes()
            assert house.job().state is State.RECOVERING, "the pause is kept"
            house.hurry()
    assert house.job().state is State.FAILED
    assert "failed 4 times" in str(house.job().reason)
    assert pauses == pytest.approx([1, 2, 4], abs=0.9)


def test_stops_from_outside_are_no_failures(house: House) -> None:
    house.submit()
    for attempt in range(1, 9):
        house.passes(2)
        assert house.job().attempt == attempt
        house.backend.end("a", 4)
        house.passes()
        house.hurry()
    assert house.job().failures == 0


def test_a_backend_that_forgets_is_asked_again(running: House) -> None:
    running.backend.attempts.clear()  # as Ray's head does when it restarts
    running.passes()
    assert running.job().state is State.RECOVERING
    running.hurry()
    running.passes(2)
    assert (running.job().state, running.job().attempt) == (State.RUNNING, 2)


def test_one_that_ended_and_was_forgotten_is_not_run_again(house: House, tmp_path: Path) -> None:
    for job_id, outcome, state in (("a", "reached", State.SUCCEEDED), ("b", "diverged", State.FAILED)):
        house.submit(job_id)
        house.passes(2)
        (tmp_path / job_id).mkdir()
        (tmp_path / job_id / run_folder.SUMMARY).write_text(json.dumps({"outcome": outcome}))
        house.backend.attempts.clear()
        house.passes()
        assert (house.job(job_id).state, house.job(job_id).outcome) == (state, outcome)


def test_a_backend_that_is_away_changes_nothing(running: House) -> None:
    running.backend.is_down = True
    for _ in range(3):
        with pytest.raises(BackendDown):
            running.passes()
    assert running.job().state is State.RUNNING
    running.backend.is_down = False
    running.passes()
    assert (running.job().state, running.job().attempt) == (State.RUNNING, 1)


def test_cancelling(running: House) -> None:
    running.restart(urgent_after_s=0.0)
    running.store.ask_to_cancel(running.job())
    running.passes(2)
    assert running.backend.stopped == [("a", False)], "asked once"
    running.passes()
    assert running.backend.stopped[-1] == ("a", True), "and at last not asked any more"
    running.backend.end("a", 4)
    running.passes()
    assert running.job().state is State.CANCELLED
    running.store.queue_again(running.job())
    running.passes(2)
    assert (running.job().state, running.job().attempt) == (State.RUNNING, 2)


@pytest.mark.parametrize("step_s", [1e6, -1e6])
def test_a_clock_that_jumps_makes_no_stop_urgent(running: House, monkeypatch: pytest.MonkeyPatch, step_s: float) -> None:
    running.store.ask_to_cancel(running.job())
    running.passes()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + step_s)
    running.passes(3)
    assert running.backend.stopped == [("a", False)]


def test_cancelled_but_it_was_done(running: House) -> None:
    running.store.ask_to_cancel(running.job())
    running.backend.end("a", 0)
    running.passes()
    assert running.job().state is State.SUCCEEDED


def test_cancelled_between_start_and_look(house: House) -> None:
    house.submit()
    house.passes()
    house.backend.attempts.clear()
    house.store.ask_to_cancel(house.job())
    house.passes()
    assert house.job().state is State.CANCELLED
    assert house.backend.attempts == {}


def test_a_stop_that_nobody_heard_is_asked_again(running: House) -> None:
    running.backend.is_deaf = True  # its supervisor has not written down its number yet
    running.store.ask_to_cancel(running.job())
    running.passes(3)
    assert running.backend.stopped == [("a", False)] * 3
    assert running.job().stop_asked_at_s is None


def test_cancelled_and_killed_it_does_not_come_back(running: House) -> None:
    running.store.ask_to_cancel(running.job())
    running.passes()
    running.backend.attempts.clear()  # an urgent end leaves no exit code, nor does a head that restarts
    running.passes()
    assert running.job().state is State.CANCELLED
    running.store.queue_again(running.job())
    running.passes(2)
    assert (running.job().state, running.job().stop_asked_at_s) == (State.RUNNING, None)


def test_one_that_cannot_start_stops_no_other(house: House) -> None:
    house.backend.broken.add("bad")
    house.submit("bad")
    house.submit("good")
    house.passes(2)
    assert house.job("good").state is State.RUNNING
    assert house.job("bad").state is State.RECOVERING
    assert "Argument list too long" in str(house.job("bad").reason)
    for _ in range(3):
        house.hurry("bad")
        house.passes()
    assert house.job("bad").state is State.FAILED


def test_more_than_there_is_waits_alone_and_says_so(house: House) -> None:
    house.submit("huge", cpus=1e6, priority=100)
    house.submit("small")
    house.passes(2)
    assert house.job("small").state is State.RUNNING
    assert (house.job("huge").state, house.job("huge").reason) == (
        State.QUEUED, "It asks for 1e+06 CPUs and 0 GPUs, and there are 4 and 0.",
    )  # fmt: skip


def test_a_sweep_whose_budget_is_used_up_has_ended(house: House) -> None:
    house.submit("sweep", kind=Kind.SWEEP, spec={"budget": {"seconds": 5.0}})
    house.submit("other", kind=Kind.SWEEP, spec={"budget": {"seconds": None}})
    house.passes(2)
    house.backend.end("sweep", 4)
    house.backend.end("other", 4)
    house.passes()
    assert house.job("sweep").state is State.SUCCEEDED
    assert house.job("other").state is State.RECOVERING


def test_a_deadline(house: House) -> None:
    house.submit("late", deadline_at_s=time.time() - 1)
    house.submit("running", deadline_at_s=time.time() + 1e6)
    house.passes(2)
    assert house.job("late").state is State.FAILED
    assert "before its turn" in str(house.job("late").reason)
    house.store.note(house.job("running"), deadline_at_s=time.time() - 1)
    house.passes()
    assert house.backend.stopped == [("running", False)]
    house.backend.end("running", 4)
    house.passes()
    assert (house.job("running").state, house.job("running").reason) == (State.FAILED, "Its deadline passed.")


def test_no_more_jobs_run_together_than_the_service_was_started_with(tmp_path: Path) -> None:
    house = House(tmp_path, max_running=1)
    for owner in ("ann", "bob"):
        house.submit(owner, owner=owner)
    house.passes(3)
    assert (house.job("ann").state, house.job("bob").state) == (State.RUNNING, State.QUEUED)
    house.backend.end("ann", 0)
    house.passes(3)
    assert house.job("bob").state is State.RUNNING
    house.store.engine.dispose()


def test_the_machine_is_not_overbooked(house: House) -> None:
    for number in range(9):
        house.submit(f"job{number}", cpus=1.5)
    house.passes(3)
    counts = house.store.counts()
    assert (counts["running"], counts["queued"]) == (2, 7)


class Crash(BaseException):
    """A kill -9 at this point."""


@pytest.mark.parametrize("seed", [*range(15), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(15, 60))])
def test_whatever_breaks_whenever_every_job_ends_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Random ends, a backend that forgets and goes away, a clock that jumps, and a service that is killed before or after any statement."""
    draw = random.Random(seed)
    house = House(tmp_path, max_failures=1000)
    real, step_s = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + step_s)

    def dangerous(thing: object, name: str) -> None:
        calm = getattr(thing, name)

        def acts(*arguments: object, **named: object) -> object:
            if draw.random() < 0.05:
                raise Crash
            found = calm(*arguments, **named)
            if draw.random() < 0.05:
                raise Crash
            return found

        setattr(thing, name, acts)

    for name in ("move", "note", "in_states", "waiting"):
        dangerous(house.store, name)
    for name in ("start", "stop", "look"):
        dangerous(house.backend, name)
    ids = [house.submit(f"job{number}", owner=draw.choice("ab")) for number in range(6)]
    ended_well: set[str] = set()
    cancelled: set[str] = set()
    for _ in range(3000):
        try:
            house.reconciler.make_pass()
        except Crash:
            house.restart()
        except BackendDown:
            pass
        house.backend.is_down = draw.random() < 0.1
        if draw.random() < 0.05:
            step_s = draw.uniform(-1e6, 1e6)
        for job_id, attempts in house.backend.attempts.items():
            newest = max(attempts, default=0)
            if newest and attempts[newest].presence is Presence.PRESENT:
                assert job_id not in ended_well, "what ended well is not run again"
                if draw.random() < 0.3:
                    code = 4 if job_id in cancelled else draw.choice([0, 0, 1, 4, -9])
                    house.backend.end(job_id, code)
                    if code == 0:
                        (tmp_path / job_id).mkdir(exist_ok=True)
                        (tmp_path / job_id / run_folder.SUMMARY).write_text('{"outcome": "completed"}')
                        ended_well.add(job_id)
        if draw.random() < 0.02:
            for attempts in house.backend.attempts.values():  # the head restarts: what ran is gone, and so is its memory
                attempts.clear()
        if draw.random() < 0.02:
            unwanted = draw.choice(ids)
            cancelled.add(unwanted)
            Store(house.store.engine).ask_to_cancel(house.job(unwanted))
        found = list(house.store.find_all(ids).values())
        for job in found:
            if job.state is State.RECOVERING:
                Store(house.store.engine).note(job, not_before_s=0.0)
        if all(job.state in FINAL for job in found):
            break
    assert sorted(job.id for job in found) == ids
    assert sum(job.attempt for job in found) >= 6, "and that was after trying"
    for job in found:
        assert job.state is (State.SUCCEEDED if job.id in ended_well else State.CANCELLED), job
        assert job.id in ended_well | cancelled, "none is lost"
    assert house.backend.most_at_once <= 1, "two attempts at one job never ran at once"
    house.store.engine.dispose()
