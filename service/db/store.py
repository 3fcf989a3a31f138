"""Every statement about jobs. A job moves only by compare-and-set, so that two replicas never both move it."""

import re
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from largebatch.jobs.errors import InputError, LargebatchError
from largebatch.service.db.engine import reading, writing
from largebatch.service.db.listing import (
    BRIEF,
    CREATED,
    BriefRow,
    Question,
    Sight,
    columns_of,
    counting,
    is_by_time,
    listing,
    narrowed,
    read_condition,
    shown,
)
from largebatch.service.db.tables import bundle_owners, jobs, leases, submissions
from largebatch.service.job import ACTIVE, FINAL, MOVES, Job, Kind, State

CLOCKS = {"postgresql": "EXTRACT(EPOCH FROM clock_timestamp())", "sqlite": "(julianday('now') - 2440587.5) * 86400.0"}
"""Unix seconds, by each database's own clock."""


class ConflictError(LargebatchError):
    """The request does not fit to how things stand."""

    exit_code = 2


class GoneError(LargebatchError):
    """What is asked for was deleted."""

    exit_code = 2


SHORT_ID = r"[0-9a-f]{8}"
_BY_SHORT_ID = sa.select(jobs).where(jobs.c.id.like(sa.bindparam("ending"))).limit(2)
_BY_ID = sa.select(jobs).where(jobs.c.id == sa.bindparam("id"))
_IN_STATES = sa.select(jobs).where(jobs.c.state.in_(sa.bindparam("states", expanding=True))).order_by(jobs.c.created_at_s, jobs.c.id)
_TURN = sa.func.row_number().over(partition_by=jobs.c.owner, order_by=(jobs.c.priority.desc(), jobs.c.created_at_s, jobs.c.id))
_RANKED = sa.select(*BRIEF, _TURN.label("turn")).where(jobs.c.state == State.QUEUED).subquery()
_FRONT = sa.select(_RANKED).order_by(_RANKED.c.turn).limit(sa.bindparam("most", type_=sa.Integer))
"""See `Store.waiting`. Made once, as the others are: it is asked for twice a second, and making it takes longer than asking."""
_TAKE_LEASE = """
    INSERT INTO leases (name, holder, expires_at_s) VALUES (:name, :holder, {now} + :seconds)
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at_s = excluded.expires_at_s
    WHERE leases.holder = excluded.holder OR leases.expires_at_s < {now} OR leases.expires_at_s > {now} + 10 * :seconds
"""
"""A lease is taken by who has it, or from whoever let it run out; one that ends too far ahead was taken by a clock that jumped."""


class Page(NamedTuple):
    """The rows of some jobs, where the next page begins, and how many there are on all pages together, where that was asked."""

    rows: list[BriefRow]
    next_cursor: str | None
    total: int | None

    @property
    def jobs(self) -> list[Job]:
        """The same as jobs in brief, made anew each time."""
        return _JOBS.validate_python([columns_of(row) for row in self.rows])


class Store:
    """The jobs in one database. Raises: DatabaseError from every method while it does not answer."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    # ---- a person's side -------------------------------------------------------------------------------------------

    def accept(self, job: Job, key: str | None, digest: str, max_waiting: int) -> tuple[Job, bool]:
        """Remember a job; under an idempotency key at most once. Returns the job and whether it is new.

        Raises: InputError for a key that was used for something else; ConflictError for too many that wait; GoneError
        for a key whose job was deleted.
        """
        try:
            with writing(self.engine) as connection:
                if key is not None:
                    submission = {"owner": job.owner, "key": key, "digest": digest, "job_id": job.id, "created_at_s": job.created_at_s}
                    connection.execute(submissions.insert().values(**submission))
                waiting = sa.select(sa.func.count()).where(jobs.c.state == State.QUEUED, jobs.c.owner == job.owner)
                if connection.execute(waiting).scalar_one() >= max_waiting:
                    raise ConflictError("", f"{max_waiting} jobs of {job.owner} wait already.", "Wait until some have run, or cancel some.")
                if job.code is not None:
                    _hold_bundle(connection, job.owner, job.code)
                connection.execute(jobs.insert().values(**job.model_dump(mode="json")))
            return job, True
        except IntegrityError:
            if key is None:
                raise
        with reading(self.engine) as connection:
            earlier = connection.execute(sa.select(submissions).where(submissions.c.owner == job.owner, submissions.c.key == key)).one()
        if earlier.digest != digest:
            raise InputError("Idempotency-Key", "was used for another request.", "Use a new key for each new request.")
        job_of_key = self.find(earlier.job_id)
        if job_of_key is None:
            raise GoneError("", f"job {earlier.job_id} was accepted under this key, and deleted since.", "Use a new key to submit it again.")
        return job_of_key, False

    def add(self, job: Job, most_bytes: int, most_jobs: int) -> tuple[Job, bool]:
        """Remember a run that was trained elsewhere, once. Returns it, and whether it is new.

        Args: most_bytes, most_jobs: that one owner may have added.
        Raises: ConflictError for more.
        """
        kept = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(jobs.c.added_bytes), 0))
        try:
            with writing(self.engine) as connection:
                num_jobs, num_bytes = connection.execute(kept.where(jobs.c.owner == job.owner, jobs.c.added_bytes.is_not(None))).one()
                if num_jobs >= most_jobs or num_bytes + (job.added_bytes or 0) > most_bytes:
                    problem = (
                        f"one owner may add {most_jobs:,} runs of {most_bytes >> 20} MiB; {job.owner} has {num_jobs:,}, of {num_bytes / 2**20:.1f}."
                    )
                    raise ConflictError("", problem, "Delete some.")
                connection.execute(jobs.insert().values(**job.model_dump(mode="json")))
            return job, True
        except IntegrityError:  # the same request, at the same time
            earlier = self.find(job.id)
            if earlier is None or earlier.owner != job.owner:
                raise
            return earlier, False

    def find(self, job_id: str) -> Job | None:
        """One job, by its id or by the end of it that lists show, if that is of one alone."""
        found = self._jobs(_BY_ID, id=job_id)
        if not found and re.fullmatch(SHORT_ID, job_id):
            found = self._jobs(_BY_SHORT_ID, ending=f"%-{job_id}")
        return found[0] if len(found) == 1 else None

    def find_all(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Those of these jobs that there are, by id, in brief."""
        return {job.id: job for job in self._jobs(sa.select(*BRIEF).where(jobs.c.id.in_(job_ids)))}

    def lately(self, limit: int) -> dict[str, Job]:
        """The newest jobs, and all that are active, by id, in brief."""
        newest = sa.select(*BRIEF).order_by(jobs.c.created_at_s.desc(), jobs.c.id.desc()).limit(limit)
        with reading(self.engine) as connection:
            lately = [*_jobs(connection.execute(newest)), *_jobs(connection.execute(sa.select(*BRIEF).where(jobs.c.state.in_([*ACTIVE]))))]
        return {job.id: job for job in lately}

    def page(
        self,
        kind: Kind | None,
        *,
        owner: str | None = None,
        state: State | None = None,
        recipe: str | None = None,
        text: str | None = None,
        where: Sequence[str] = (),
        sight: Sight | None = None,
        sort: str = f"-{CREATED}",
        limit: int = 50,
        cursor: str | None = None,
        counts: bool = False,
    ) -> Page:
        """Jobs in brief.

        Args: kind: None: of every kind; where: see `read_condition`; counts: all of them, too.
        Raises: InputError, also for a cursor that is not ours.
        """
        columns = {"kind": kind, "owner": owner, "state": state, "recipe": recipe}
        equal = {name: value for name, value in columns.items() if value is not None}
        conditions = [read_condition(text) for text in where]
        at_s, after, skipped = None, None, 0
        if cursor is not None and is_by_time(sort):
            at_s, after = _read_cursor(cursor)
        elif cursor is not None:
            skipped = _read_skipped(cursor)
        seen_by = {} if sight is None else sight.columns
        question, given = Question(tuple(equal), tuple(seen_by)), {**equal, **{f"seen_by_{name}": value for name, value in seen_by.items()}}
        statement = shown(narrowed(listing(question, cursor is not None, sort), conditions, text), sort)
        with reading(self.engine) as connection:
            rows = connection.execute(statement, {**given, "at_s": at_s, "after": after, "skipped": skipped, "most": limit + 1}).all()
            total = connection.execute(narrowed(counting(question), conditions, text), given).scalar_one() if counts else None
        is_more, rows = len(rows) > limit, rows[:limit]
        following = f"{rows[-1].created_at_s!r}~{rows[-1].id}" if rows and is_by_time(sort) else str(skipped + limit)
        return Page([tuple(row) for row in rows], following if is_more else None, total)

    def say_of(self, job: Job, **said: Any) -> Job:
        """Change what people say of a job: its name, tags, notes or project. Raises: GoneError."""
        with writing(self.engine) as connection:
            changed = _jobs(connection.execute(jobs.update().where(jobs.c.id == job.id).values(**said).returning(jobs)))
        if not changed:
            raise GoneError("", f"job {job.id} was deleted meanwhile.")
        return changed[0]

    def ask_to_cancel(self, job: Job) -> Job:
        """Note that somebody wants it ended; one that waits is ended at once."""
        if job.state in FINAL:
            return job
        with writing(self.engine) as connection:
            connection.execute(jobs.update().where(jobs.c.id == job.id, jobs.c.state.not_in(FINAL)).values(is_cancel_asked=True))
        for state in (State.QUEUED, State.RECOVERING):
            self.move(job.model_copy(update={"state": state}), State.CANCELLED, reason="Cancelled before it ran.", ended_at_s=time.time())
        cancelled = self.find(job.id)
        if cancelled is None:
            raise GoneError("", f"job {job.id} was deleted meanwhile.")
        return cancelled

    def queue_again(self, job: Job, spec: dict[str, Any] | None = None) -> Job:
        """Resume a job that failed or was cancelled; with another spec also one that succeeded. Raises: ConflictError for another."""
        if job.added_bytes is not None:
            raise ConflictError(
                "", f"run {job.id} was trained elsewhere and added: nothing of it can go on here.", "Go on with it where it was trained."
            )
        if State.QUEUED not in MOVES[job.state] or (job.state is State.SUCCEEDED and spec is None):
            hint = "A run that succeeded goes on where its end is set later: stop.epochs." if job.kind is Kind.RUN else ""
            raise ConflictError("", f"job {job.id} is {job.state}; only a failed or cancelled one can be resumed.", hint)
        moved = self.move(job, State.QUEUED, reason=None, failures=0, is_cancel_asked=False, stop_asked_at_s=None, started_at_s=None, ended_at_s=None,
                          outcome=None, summary=None, deadline_at_s=None, **({} if spec is None else {"spec": spec}))  # fmt: skip
        if moved is None:
            raise ConflictError("", f"job {job.id} has moved on meanwhile.", "Look at it again.")
        return moved

    def delete(self, job: Job) -> None:
        """Forget a job that is over. Raises: ConflictError for one that is not."""
        with writing(self.engine) as connection:
            gone = connection.execute(jobs.delete().where(jobs.c.id == job.id, jobs.c.state.in_(FINAL))).rowcount
        if not gone:
            raise ConflictError("", f"job {job.id} is {job.state}.", "Cancel it first.")

    # ---- the reconciler's side -------------------------------------------------------------------------------------

    def in_states(self, states: Iterable[State], limit: int | None = None) -> list[Job]:
        """All jobs in these states, oldest first."""
        return self._jobs(_IN_STATES.limit(limit), states=[*states])

    def active_ids(self) -> list[str]:
        """The ids of what the backend may have something of."""
        with reading(self.engine) as connection:
            return list(connection.execute(sa.select(jobs.c.id).where(jobs.c.state.in_([*ACTIVE]))).scalars())

    def waiting(self, limit: int) -> list[Job]:
        """The queue's front, in brief: the highest priorities first, the oldest of each owner among them."""
        return self._jobs(_FRONT, most=limit)

    def move(self, job: Job, state: State, **changes: Any) -> Job | None:
        """Move a job if it still stands as `job` says. Returns it as it is then; None if it has moved meanwhile."""
        assert state in MOVES[job.state], f"{job.state} -> {state}"
        return self.note(job, state=state, **changes)

    def note(self, job: Job, **changes: Any) -> Job | None:
        """Change a job that still stands where it did; None if it does not."""
        unmoved = (jobs.c.id == job.id, jobs.c.state == job.state, jobs.c.attempt == job.attempt)
        with writing(self.engine) as connection:
            return next(iter(_jobs(connection.execute(jobs.update().where(*unmoved).values(**changes).returning(jobs)))), None)

    def _jobs(self, statement: sa.Select[Any], **parameters: Any) -> list[Job]:
        with reading(self.engine) as connection:
            return _jobs(connection.execute(statement, parameters))

    def counts(self) -> dict[str, int]:
        """How many jobs stand where; every state is there."""
        with reading(self.engine) as connection:
            rows = connection.execute(sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)).all()
        return {**{str(state): 0 for state in State}, **{state: count for state, count in rows}}

    def hold_lease(self, name: str, holder: str, seconds: float) -> bool:
        """Take or renew a lease; False if another has it. By the database's clock, which all replicas share."""
        statement = _TAKE_LEASE.format(now=CLOCKS[self.engine.dialect.name])
        with writing(self.engine) as connection:
            return bool(connection.execute(sa.text(statement), {"name": name, "holder": holder, "seconds": seconds}).rowcount)

    def lease_holder(self, name: str) -> str | None:
        """Who had a lease last."""
        with reading(self.engine) as connection:
            return connection.execute(sa.select(leases.c.holder).where(leases.c.name == name)).scalar_one_or_none()

    def give_back(self, name: str, holder: str) -> None:
        """End a lease early, so that another replica goes on at once."""
        with writing(self.engine) as connection:
            connection.execute(leases.delete().where(leases.c.name == name, leases.c.holder == holder))


def _hold_bundle(connection: sa.Connection, owner: str, sha256: str) -> None:
    """Let nobody remove an owner's bundle before this transaction ends. Raises: ConflictError where somebody has."""
    of_owner = sa.select(bundle_owners.c.owner).where(bundle_owners.c.sha256 == sha256, bundle_owners.c.owner == owner)
    if connection.execute(of_owner.with_for_update(read=True)).first() is None:
        raise ConflictError("code", f"bundle {sha256[:12]} was deleted meanwhile.", "Send it again.")


_JOBS = TypeAdapter(list[Job])
"""A page of them at once takes half as long as one after another."""


def _jobs(rows: sa.CursorResult[Any]) -> list[Job]:
    names = tuple(rows.keys())
    return _JOBS.validate_python([dict(zip(names, row, strict=True)) for row in rows])


def _read_skipped(cursor: str) -> int:
    """How many jobs the pages before held, where a list is not by time: what changes its order meanwhile may show twice, or not at all."""
    if not re.fullmatch(r"[0-9]{1,9}", cursor):
        raise InputError("cursor", "is not one that this service gave.", "Leave it out for the first page.")
    return int(cursor)


def _read_cursor(cursor: str) -> tuple[float, str]:
    created, tilde, job_id = cursor.partition("~")
    with suppress(ValueError):
        if tilde and abs(at_s := float(created)) <= 1e12:  # NaN is not
            return at_s, job_id
    raise InputError("cursor", "is not one that this service gave.", "Leave it out for the first page.")
