"""Compares what the database says with what the backend has, and repairs either, until they agree.

One pass: look at every active job, move it to where it is, then start those whose turn it is. Each step is written
to the database before the backend is asked, and the backend takes each attempt once, so a pass may break off anywhere
(kill -9 of the service, the database gone, the backend gone) and the next one goes on. Only the replica that holds
the lease makes passes; were there two for a moment, compare-and-set and the attempts' numbers keep them apart.
"""

import contextlib
import secrets
import time
from pathlib import Path
from typing import Any

import structlog

from largebatch.jobs.errors import FaultError
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.json_lines import parse_object
from largebatch.jobs.run.records import Outcome
from largebatch.service.backends.base import Backend, CannotStart, Presence, Seen
from largebatch.service.db.engine import DatabaseError
from largebatch.service.db.store import Store
from largebatch.service.job import ACTIVE, Capacity, Job, Kind, State
from largebatch.service.present.commands import as_a_service_says_it
from largebatch.service.present.progress import final_progress, read_progress
from largebatch.service.queue.background import Background
from largebatch.service.queue.one_host import OneHost
from largebatch.service.queue.run_folders import RunFolders
from largebatch.service.queue.schedule import choose, fits, limits_of
from largebatch.service.settings import Settings

LEASE, LEASE_S = "reconciler", 15.0
URGENT_AFTER_S = 120.0
"""How long a job may take to finish its step and save before it is ended at once."""
LONGEST_PAUSE_S = 60.0
QUEUE_FRONT = 1000
PROGRESS_EVERY_S = 1.0
CANCELLED = "Cancelled; resume goes on from its last checkpoint."
DIVERGED, BAD_INPUT, STOPPED = 3, 2, 4
"""Exit codes of `python -m largebatch.jobs`."""


class Reconciler:
    """Makes passes in a thread of its own, from `start` to `stop`."""

    def __init__(
        self,
        store: Store,
        backend: Backend,
        settings: Settings,
        run_folders: RunFolders | None = None,
        one_host: OneHost | None = None,
        urgent_after_s: float = URGENT_AFTER_S,
    ) -> None:
        """Args: one_host: local jobs belong to one machine; None: any replica may make passes."""
        self._store, self._backend, self._settings = store, backend, settings
        self._run_folders, self._one_host = run_folders or RunFolders(settings.runs_dir), one_host
        self._urgent_after_s = urgent_after_s
        self._holder = secrets.token_hex(8)
        self._log = structlog.get_logger("reconcile")
        self.background = Background("reconciler", self._look, settings.poll_s)
        self._renewed_at_s = -LEASE_S
        self._noted_at_s = 0.0
        self._is_storage_away = False
        """Found out in this pass: the others need not wait for it, too."""
        self._stopping: dict[str, float] = {}
        """Since when jobs that were asked to stop are seen to go on, by the clock that never jumps."""
        self.last_pass_s = time.monotonic()
        """The monotonic clock at the end of the last whole pass, here or by another replica; before the first, when this was made."""

    def start(self) -> None:
        """Begin."""
        self.background.start()

    def stop(self) -> None:
        """End after the pass under way, and let another replica go on at once."""
        self.background.stop()
        with contextlib.suppress(DatabaseError):  # it runs out by itself
            self._store.give_back(LEASE, self._holder)

    def _look(self) -> None:
        if self.holds_lease():
            self.make_pass()
        self.last_pass_s = time.monotonic()

    def holds_lease(self) -> bool:
        """Whether it is this replica that makes the passes now; the lease is renewed in time."""
        now = time.monotonic()
        if now - self._renewed_at_s > LEASE_S / 3:
            if self._one_host is not None and not self._one_host.hold():
                return False
            if not self._store.hold_lease(LEASE, self._holder, LEASE_S):
                return False
            self._renewed_at_s = now
        return True

    def make_pass(self) -> None:
        """One comparison and repair. Raises: DatabaseError, BackendDown."""
        active = self._store.in_states(ACTIVE)
        begun = [job for job in active if job.state is not State.RECOVERING]
        seen = self._backend.look(begun) if begun else {}
        self._stopping = {job.id: self._stopping[job.id] for job in active if job.id in self._stopping}
        self._is_storage_away = False
        holding = []
        for job in active:
            if job.id in seen:
                repaired = self._repair(job, seen[job.id])
                if repaired is not None and repaired.state in {State.STARTING, State.RUNNING}:
                    holding.append(repaired)
            elif job.is_cancel_asked or _is_late(job):
                self._end_unwanted(job, "Cancelled while it recovered.")
        self._note_progress(holding)
        self._start_next(holding)

    # ---- what runs, or should ----------------------------------------------------------------------------------------

    def _repair(self, job: Job, seen: Seen) -> Job | None:
        """Move a starting or running job to where the backend has it."""
        if seen.presence is not Presence.PRESENT and not self._is_fresh(job):
            return job  # how it went cannot be read now
        if seen.presence is Presence.ENDED:
            return self._end(job, seen)
        if seen.presence is Presence.ABSENT:
            return self._absent(job)
        if job.state is State.STARTING:
            moved = self._move(job, State.RUNNING, started_at_s=job.started_at_s or time.time())
            if moved is None:
                return job
            job = moved
        return self._end_in_time(job)

    def _absent(self, job: Job) -> Job | None:
        outcome = self._outcome(job)
        if outcome is not None:  # it ended while nobody looked, and the backend has forgotten
            return self._end(job, Seen(Presence.ENDED, DIVERGED if outcome == Outcome.DIVERGED else 0))
        if job.is_cancel_asked or _is_late(job):
            # One that cannot be fenced off has begun after all; the next pass sees it.
            return self._end_unwanted(job, CANCELLED) if self._backend.fence(job) else job
        if job.state is State.RUNNING:
            return self._recover(job, f"Attempt {job.attempt} is gone: the {self._backend.name} backend knows nothing of it.", counts=False)
        return self._begin(job)

    def _begin(self, job: Job) -> Job | None:
        """Ask the backend to run an attempt that the database knows; one that cannot be started stops no other."""
        try:
            self._backend.start(job)
        except CannotStart as error:
            return self._recover(job, f"Attempt {job.attempt}: {error.problem}", counts=True)
        return job

    def _end_in_time(self, job: Job) -> Job:
        """Ask a running job to stop if somebody wants that, or its time is over."""
        is_late = _is_late(job)
        if not job.is_cancel_asked and not is_late:
            return job
        if job.stop_asked_at_s is None:
            # Asked first and noted then: were we killed between, it is asked twice, which does no harm.
            if self._backend.stop(job, is_urgent=False):
                self._log.info("asked to stop", job=job.id, late=is_late)
                return self._store.note(job, stop_asked_at_s=time.time()) or job
        elif time.monotonic() - self._stopping.setdefault(job.id, time.monotonic()) > self._urgent_after_s:
            self._backend.stop(job, is_urgent=True)
        return job

    def _end(self, job: Job, seen: Seen) -> Job | None:
        """An attempt is over: the job is too, or it recovers."""
        code, last = seen.exit_code, as_a_service_says_it(job.id, _without_paths(seen.message))
        ended: dict[str, Any] = {"ended_at_s": time.time(), "progress": final_progress(job, self._folder(job)) or job.progress}
        if code == 0:
            return self._move(job, State.SUCCEEDED, reason=None, outcome=self._outcome(job), summary=self._summary(job), **ended)
        if job.is_cancel_asked or _is_late(job):
            return self._end_unwanted(job, CANCELLED, **ended)
        if code == DIVERGED:
            return self._move(job, State.FAILED, reason="It diverged: the loss or the gradient stopped being finite.", outcome=Outcome.DIVERGED,
                              summary=self._summary(job), **ended)  # fmt: skip
        if code == BAD_INPUT and run_folder.AT_WORK not in seen.message:
            return self._move(job, State.FAILED, reason=last or "Its input cannot be used.", **ended)
        if code == STOPPED and job.kind is Kind.SWEEP and any((job.spec.get("budget") or {}).get(name) for name in ("seconds", "samples")):
            return self._move(job, State.SUCCEEDED, reason="Its budget was used up; what ended by then is its result.", **ended)
        if code == STOPPED:
            return self._recover(job, "It was stopped from outside, and goes on.", counts=False)
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return self._recover(job, f"Attempt {job.attempt} ended by {how}{f': {last}' if last else '.'}", counts=True)

    def _recover(self, job: Job, reason: str, counts: bool) -> Job | None:
        failures = job.failures + counts
        if failures > self._settings.max_failures:
            return self._move(job, State.FAILED, reason=f"It failed {failures} times. {reason}", failures=failures, ended_at_s=time.time())
        pause_s = min(2.0 ** (failures - 1), LONGEST_PAUSE_S) if counts else 1.0
        return self._move(job, State.RECOVERING, reason=reason, failures=failures, not_before_s=time.time() + pause_s)

    def _end_unwanted(self, job: Job, cancelled: str, late: str = "Its deadline passed.", **changes: Any) -> Job | None:
        """End a job that somebody cancelled, or that is out of time. Args: cancelled, late: the reasons that people read."""
        state, reason = (State.CANCELLED, cancelled) if job.is_cancel_asked else (State.FAILED, late)
        return self._move(job, state, reason=reason, **{"ended_at_s": time.time(), **changes})

    # ---- what waits --------------------------------------------------------------------------------------------------

    def _start_next(self, holding: list[Job]) -> None:
        waiting = [*self._store.in_states([State.RECOVERING]), *self._store.waiting(QUEUE_FRONT)]
        if not waiting:
            return
        capacity = self._backend.capacity()
        in_time = []
        for job in waiting:
            if job.is_cancel_asked or _is_late(job):
                self._end_unwanted(job, "Cancelled while it waited.", "Its deadline passed before its turn came.")
            else:
                in_time.append(job)
                if not fits(job, capacity):  # it starts when there is so much
                    reason = _too_much(job, capacity)
                    if job.reason != reason:
                        self._store.note(job, reason=reason)
        for job in choose(in_time, holding, capacity, limits_of(self._settings, capacity), time.time()):
            if not self.holds_lease():
                return  # a pass took so long that another replica makes them now
            started = self._store.move(job, State.STARTING, attempt=job.attempt + 1, not_before_s=None, stop_asked_at_s=None)
            if started is not None:  # else it was cancelled meanwhile
                self._log.info("starts", job=job.id, attempt=started.attempt)
                self._begin(started)

    # ---- what is written down ----------------------------------------------------------------------------------------

    def _note_progress(self, running: list[Job]) -> None:
        now = time.monotonic()
        if now - self._noted_at_s < PROGRESS_EVERY_S:
            return
        self._noted_at_s = now
        for job in running:
            progress = read_progress(job, self._folder(job))
            if progress and progress != job.progress:
                self._store.note(job, progress=progress)

    def _is_fresh(self, job: Job) -> bool:
        """Whether all that the job has left is here."""
        if self._is_storage_away:
            return False
        try:
            self._run_folders.refresh(job.id, 0.0)
        except FaultError as error:
            self._log.warning("its folder cannot be read", job=job.id, reason=error.problem)
            self._is_storage_away = True
            return False
        return True

    def _folder(self, job: Job) -> Path:
        return self._settings.runs_dir / job.id

    def _summary(self, job: Job) -> dict[str, Any] | None:
        try:
            return parse_object((self._folder(job) / run_folder.SUMMARY).read_bytes())
        except OSError:
            return None

    def _outcome(self, job: Job) -> str | None:
        """How a run ended, by its summary; None if it did not, or is no run."""
        summary = self._summary(job) if job.kind is Kind.RUN else None
        outcome = summary.get("outcome") if summary else None
        return None if outcome in {None, Outcome.STOPPED, Outcome.FAILED} else str(outcome)

    def _move(self, job: Job, state: State, **changes: Any) -> Job | None:
        moved = self._store.move(job, state, **changes)
        if moved is not None:
            self._log.info("moved", job=job.id, before=str(job.state), now=str(state), reason=changes.get("reason"))
        return moved


def _is_late(job: Job) -> bool:
    return job.deadline_at_s is not None and time.time() > job.deadline_at_s


def _without_paths(text: str) -> str:
    """A job's last words, for people who need not know this machine's folders."""
    words = " ".join(part if not part.startswith("/") else Path(part).name for part in text.split())
    return "".join(letter for letter in words if letter.isprintable())


def _too_much(job: Job, capacity: Capacity) -> str:
    """What a job asks for that there is less of in all."""
    if job.memory_gib > capacity.memory_gib:
        return f"It asks for {job.memory_gib:.3g} GiB of memory, and there are {capacity.memory_gib:.3g}."
    return f"It asks for {job.cpus:g} CPUs and {job.gpus} GPUs, and there are {capacity.cpus:g} and {capacity.gpus}."
