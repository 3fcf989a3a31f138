"""Every statement on both databases, by real threads where it matters who comes first."""

import contextlib
import random
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from servers import postgres_bin

from largebatch.jobs.errors import InputError
from largebatch.service.api.dependencies import make_dependencies
from largebatch.service.db.engine import DatabaseError, connect, open_database, reading, refuse_outdated, revision, upgrade, writing
from largebatch.service.db.store import ConflictError, GoneError, Store
from largebatch.service.db.tables import jobs, metadata
from largebatch.service.job import Job, Kind, State
from largebatch.service.settings import Settings


def new_job(number: int = 0, **parts: object) -> Job:
    given = {"id": f"run-{number:05}", "owner": "ann", "created_at_s": 1000.0 + number // 3, **parts}
    return Job.model_validate({"kind": Kind.RUN, "name": "run", "recipe": "digits-lamb", "spec": {"a": [1, None]}, "cpus": 1.0, "gpus": 0, **given})


def test_the_migrations_make_the_tables_that_the_program_uses(database_url: str) -> None:
    engine = connect(database_url)
    with pytest.raises(InputError, match=r"revision none.*largebatch db upgrade"):
        refuse_outdated(engine)
    assert upgrade(engine)[0] is None
    assert upgrade(engine)[0] == revision(engine), "a second time changes nothing"
    refuse_outdated(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_what_is_accepted_comes_back_as_it_was(store: Store) -> None:
    given = new_job(global_batch_size=64, base={"b": "é\u2028"}, deadline_at_s=5.5, progress={"step": 3})
    store.accept(given, None, "", 10)
    assert store.find(given.id) == given
    assert store.find("other") is None


def test_the_end_of_an_id_that_lists_show_is_enough(store: Store) -> None:
    for job_id in ("run-20260101-120000-ab12cd34", "run-20260101-120000-00000000", "sweep-20260101-120000-00000000"):
        store.accept(new_job(id=job_id), None, "", 10)
    found = store.find("ab12cd34")
    assert found is not None
    assert found.id == "run-20260101-120000-ab12cd34"
    assert store.find("00000000") is None, "which of the two?"
    assert store.find("b12cd34") is None


def test_a_key_submits_once(store: Store) -> None:
    first, is_new = store.accept(new_job(1), "key", "digest", 10)
    assert is_new
    assert store.accept(new_job(2), "key", "digest", 10) == (first, False)
    with pytest.raises(InputError, match="used for another request"):
        store.accept(new_job(3), "key", "other", 10)
    assert store.accept(new_job(4, owner="bob"), "key", "other", 10)[1], "another owner's keys are their own"
    store.move(first, State.CANCELLED)
    store.delete(first)
    with pytest.raises(GoneError):
        store.accept(new_job(5), "key", "digest", 10)


def test_many_at_once_under_one_key_are_one(store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda number: store.accept(new_job(number), "key", "digest", 100), range(40)))
    assert len({job.id for job, _ in found}) == 1
    assert sum(is_new for _, is_new in found) == 1
    assert store.counts()["queued"] == 1


def test_too_many_that_wait_are_refused(store: Store) -> None:
    for number in range(3):
        store.accept(new_job(number), None, "", 3)
    with pytest.raises(ConflictError, match="3 jobs of ann wait"):
        store.accept(new_job(9), "key", "digest", 3)
    assert store.accept(new_job(9), "key", "digest", 4)[1], "the refused one used up no key"


def test_one_owner_adds_runs_up_to_a_bound(store: Store) -> None:
    """A run that was trained elsewhere is there once, and does not go on."""
    first, second = (new_job(number, state=State.CANCELLED, added_bytes=60) for number in range(2))
    assert [store.add(first, 100, 9), store.add(first, 200, 9)] == [(first, True), (first, False)]
    for most_bytes, most_jobs in ((100, 9), (1000, 1)):
        with pytest.raises(ConflictError, match="one owner may add"):
            store.add(second, most_bytes, most_jobs)
    assert store.add(second.model_copy(update={"owner": "bob"}), 100, 1)[1]
    with pytest.raises(ConflictError, match="was trained elsewhere"):
        store.queue_again(first)


@pytest.mark.parametrize("sort", ["-created_at", "created_at", "name", "-score"])
def test_pages_hold_everything_once(store: Store, sort: str) -> None:
    numbers = list(range(25))
    random.Random(0).shuffle(numbers)
    for number in numbers:  # three at each time: the cursor must tell them apart
        store.accept(new_job(number), None, "", 100)
    store.accept(new_job(99, kind=Kind.SWEEP), None, "", 100)
    seen, cursor = [], None
    while True:
        page = store.page(Kind.RUN, limit=4, cursor=cursor, sort=sort, counts=True)
        assert page.total == 25
        seen += [job.id for job in page.jobs]
        cursor = page.next_cursor
        if cursor is None:
            break
    expected = [f"run-{number:05}" for number in range(25)]
    assert seen == (expected if sort == "created_at" else expected[::-1]), "the newest first of those that are alike"


def test_filters(store: Store) -> None:
    store.accept(new_job(1), None, "", 10)
    store.accept(new_job(2, owner="bob", recipe="other"), None, "", 10)
    assert [job.id for job in store.page(Kind.RUN, owner="bob").jobs] == ["run-00002"]
    assert [job.id for job in store.page(Kind.RUN, recipe="other").jobs] == ["run-00002"]
    assert [job.id for job in store.page(Kind.RUN, text="0001").jobs] == ["run-00001"]
    assert store.page(Kind.RUN, text="%").jobs == []
    assert store.page(Kind.RUN, state=State.FAILED).jobs == []
    for cursor in ("x", "nan~a", "1", "1e400~a"):
        with pytest.raises(InputError, match="cursor"):
            store.page(Kind.RUN, cursor=cursor)


def test_only_one_of_many_moves_a_job(store: Store) -> None:
    job, _ = store.accept(new_job(), None, "", 10)
    with ThreadPoolExecutor(8) as pool:
        moved = list(pool.map(lambda n: store.move(job, State.STARTING, attempt=1), range(8)))
    assert sum(found is not None for found in moved) == 1
    assert store.move(job, State.STARTING, attempt=1) is None
    with pytest.raises(AssertionError):
        store.move(job, State.SUCCEEDED)


def test_cancel_resume_delete(store: Store) -> None:
    job, _ = store.accept(new_job(), None, "", 10)
    with pytest.raises(ConflictError, match="queued"):
        store.delete(job)
    assert store.ask_to_cancel(job).state is State.CANCELLED, "nothing runs, so nothing has to end first"
    cancelled = store.find(job.id)
    again = store.queue_again(cancelled)
    assert (again.state, again.is_cancel_asked, again.reason) == (State.QUEUED, False, None)
    with pytest.raises(ConflictError, match="only a failed or cancelled"):
        store.queue_again(again)
    started = store.move(again, State.STARTING, attempt=1)
    asked = store.ask_to_cancel(started)
    assert (asked.state, asked.is_cancel_asked) == (State.STARTING, True)


def test_a_jobs_clock_begins_again_when_it_is_resumed(store: Store) -> None:
    """Else its duration would count what it lay still."""
    job, _ = store.accept(new_job(0), None, "", 100)
    for state, more in ((State.STARTING, {}), (State.RUNNING, {"started_at_s": 100.0}), (State.FAILED, {"ended_at_s": 130.0})):
        moved = store.move(job, state, **more)
        assert moved is not None
        job = moved
    again = store.queue_again(job)
    assert (again.started_at_s, again.ended_at_s) == (None, None)


def test_the_queues_front_holds_every_owner(store: Store) -> None:
    for number in range(50):
        store.accept(new_job(number), None, "", 100)
    store.accept(new_job(90, owner="bob", created_at_s=9e9), None, "", 100)
    store.accept(new_job(91, priority=9, created_at_s=9e9), None, "", 100)
    front = [job.id for job in store.waiting(3)]
    assert set(front) == {"run-00091", "run-00090", "run-00000"}


def test_a_lease_has_one_holder_and_runs_out(store: Store) -> None:
    assert store.hold_lease("x", "a", 60.0)
    assert store.hold_lease("x", "a", 60.0), "renewed"
    assert not store.hold_lease("x", "b", 60.0)
    assert store.hold_lease("x", "a", 0.1), "for less"
    time.sleep(0.2)
    assert store.hold_lease("x", "b", 60.0)
    assert not store.hold_lease("x", "a", 60.0)
    store.give_back("x", "a")
    assert not store.hold_lease("x", "a", 60.0), "only its holder gives it back"
    store.give_back("x", "b")
    barrier = threading.Barrier(8)

    def take(number: int) -> bool:
        barrier.wait()
        return store.hold_lease("x", str(number), 60.0)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(8))) == 1


def test_nobody_waits_without_end_for_a_writer(sqlite_store: Store) -> None:
    store = Store(connect(str(sqlite_store.engine.url), busy_s=0.05))
    with ThreadPoolExecutor(1) as pool:
        with writing(sqlite_store.engine), pytest.raises(DatabaseError, match="is busy"):
            pool.submit(store.accept, new_job(), None, "", 10).result()
        assert pool.submit(store.accept, new_job(), None, "", 10).result()[1], "the turn was given back"
    store.engine.dispose()


def test_a_full_disk_is_called_so(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'full.sqlite'}")
    sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count = 10"))
    with pytest.raises(DatabaseError, match="its disk is full"), writing(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE large AS SELECT zeroblob(1000000) AS zeros")
    engine.dispose()


def no_database(file: Path) -> None:
    file.write_bytes(b"notes of mine" * 100)


def damaged(file: Path) -> None:
    engine = connect(f"sqlite:///{file}")
    upgrade(engine)
    engine.dispose()
    content = file.read_bytes()
    file.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


@pytest.mark.parametrize(("spoil", "words"), [(no_database, "is no SQLite database"), (damaged, "is damaged"), (Path.mkdir, "cannot be opened")])
def test_a_file_that_no_second_try_makes_better_is_called_what_it_is(spoil: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    spoil(tmp_path / "service.sqlite")
    with pytest.raises(DatabaseError, match=f"its file {words}") as refused:
        open_database(Settings(runs_dir=tmp_path))
    assert "try again" not in refused.value.hint.lower()


@pytest.mark.parametrize("url", [None, "postgresql://nobody@127.0.0.1:1/nothing"])
def test_a_runs_folder_that_is_none_is_refused_by_name(url: str | None, tmp_path: Path) -> None:
    file = tmp_path / "runs"
    file.touch()
    with pytest.raises(InputError, match="is there, and no folder"):
        make_dependencies(Settings(runs_dir=file, database_url=url))
    with pytest.raises(InputError, match="cannot be made a folder"):
        make_dependencies(Settings(runs_dir=file / "below", database_url=url))
    if url is None:
        with pytest.raises(InputError, match="is there, and no folder"):  # of a command that makes tokens
            open_database(Settings(runs_dir=file))


def test_lists_use_an_index(store: Store) -> None:
    rows = [{**new_job(number).model_dump(), "kind": "run", "state": "succeeded", "owner": f"o{number % 50}"} for number in range(2000)]
    with store.engine.begin() as connection:
        connection.execute(jobs.insert(), rows)
        if store.engine.dialect.name == "postgresql":
            connection.execute(sa.text("ANALYZE jobs"))
    last = "1000005.0~run-01000"
    looks: list[dict[str, Any]] = [{}, {"owner": "o7"}, {"state": State.QUEUED}]
    for look in [*looks, *({**look, "cursor": last} for look in looks), {"cursor": last, "sort": "created_at"}]:
        plan = plan_of(store, lambda look=look: store.page(Kind.RUN, **look))
        assert "jobs_by_" in plan, plan
        assert "TEMP B-TREE" not in plan, plan
        assert "Seq Scan" not in plan, plan
    assert "jobs_by_state" in plan_of(store, lambda: store.in_states([State.STARTING]))


def plan_of(store: Store, look: Callable[[], object]) -> str:
    """How the database answers the statement that a look at it sends."""
    sent: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if statement.startswith("SELECT"):
            sent.append((statement, parameters))

    sa.event.listen(store.engine, "before_cursor_execute", note)
    look()
    sa.event.remove(store.engine, "before_cursor_execute", note)
    ((statement, parameters),) = sent
    prefix = "EXPLAIN" if store.engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    with store.engine.connect() as connection:
        return " ".join(str(row) for row in connection.exec_driver_sql(f"{prefix} {statement}", parameters))


def test_a_backup_of_a_database_in_use_comes_back(store: Store, database_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    job, _ = store.accept(new_job(), "key", "digest", 10)
    if database_url.startswith("sqlite"):
        restored_url = f"sqlite:///{tmp_path}/restored.sqlite"
        with (
            contextlib.closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as source,
            contextlib.closing(sqlite3.connect(tmp_path / "restored.sqlite")) as target,
        ):
            source.backup(target)
    else:
        restored_url = request.getfixturevalue("postgres_server").new_database()
        programs = postgres_bin()
        subprocess.run([programs / "pg_dump", "-Fc", "-f", tmp_path / "dump", database_url], check=True)
        subprocess.run([programs / "pg_restore", "-d", restored_url, tmp_path / "dump"], check=True)
    store.accept(new_job(1), None, "", 10)  # after the backup
    engine = connect(restored_url)
    refuse_outdated(engine)
    restored = Store(engine)
    assert restored.accept(new_job(7), "key", "digest", 10) == (job, False), "keys are remembered too"
    assert restored.counts()["queued"] == 1
    engine.dispose()


def test_looks_within_a_look_are_one_transaction_and_the_next_is_another(store: Store) -> None:
    with reading(store.engine) as outer:
        assert store.counts()["queued"] == 0
        writer = threading.Thread(target=store.accept, args=(new_job(), None, "", 10))
        writer.start()
        writer.join(30)
        with reading(store.engine) as inner:
            assert inner is outer
        if store.engine.dialect.name == "sqlite":  # PostgreSQL shows each statement what was committed before it
            assert store.counts()["queued"] == 0
    assert store.counts()["queued"] == 1
    with pytest.raises(NotImplementedError), reading(store.engine):
        raise NotImplementedError
    assert store.counts()["queued"] == 1
