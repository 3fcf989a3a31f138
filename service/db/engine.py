"""Connections to either database, and the migrations that bring it up to date."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from largebatch.jobs.errors import FaultError, InputError
from largebatch.service.settings import Settings, make_folder

HERE = Path(__file__).parent
BUSY_S = 15
POOL = 20
MAPPED_BYTES = 2**28
"""So much of SQLite's file is read where the system keeps it: what looks at every job, as counting and sorting do, takes half as long."""
POSTGRESQL_DISK_FULL = "53100"
UNUSABLE = {
    sqlite3.SQLITE_NOTADB: "is no SQLite database", sqlite3.SQLITE_CORRUPT: "is damaged", sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_READONLY: "cannot be written by this user",
}  # fmt: skip
"""What no second try makes better of SQLite's file, by the code's last byte; the rest says more closely why."""
_sqlite_writer = threading.Lock()
_look = threading.local()
"""The connection of the look that a thread is at."""


class DatabaseError(FaultError):
    """The database does not answer; the same request may succeed later."""


def connect(url: str, busy_s: float = BUSY_S) -> Engine:
    """An engine for an SQLite or PostgreSQL address. Raises: InputError for another.

    Args: busy_s: how long a writer of SQLite waits for another.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InputError("--database-url", "is not a database's address.", "Example: postgresql://user@host/largebatch") from error
    if parsed.get_backend_name() == "sqlite":
        if parsed.database:
            _for_its_owner_alone(Path(parsed.database))
        engine = sqlalchemy.create_engine(
            parsed, pool_size=POOL, max_overflow=POOL,
            connect_args={"timeout": busy_s, "check_same_thread": False}, execution_options={"busy_s": busy_s},
        )  # fmt: skip
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if parsed.get_backend_name() != "postgresql":
        raise InputError("--database-url", f"{parsed.get_backend_name()} is not supported.", "Use sqlite:///FILE or postgresql://user@host/database.")
    try:
        return sqlalchemy.create_engine(
            parsed.set(drivername="postgresql+psycopg"), pool_size=POOL, max_overflow=POOL, pool_timeout=5, pool_pre_ping=True,
            # A link that is cut without a word, or a server that hangs, is given up too.
            connect_args={"connect_timeout": 5, "tcp_user_timeout": 20_000, "keepalives_idle": 10, "options": "-c statement_timeout=30000"},
        )  # fmt: skip
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise InputError("--database-url", "PostgreSQL needs psycopg.", "pip install 'psycopg[binary]'") from error


def _for_its_owner_alone(file: Path) -> None:
    """Let a database's file, and what SQLite puts beside it, which takes over its mode, be read by this user alone; it holds digests of tokens."""
    make_folder("database", file.parent)
    with contextlib.suppress(OSError):  # SQLite says in a moment what is wrong with it, and another user's stays theirs
        file.touch(mode=0o600)
        file.chmod(0o600)


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say so
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"mmap_size={MAPPED_BYTES}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A reader that becomes a writer half-way can be refused; a writer says so at once, and waits its turn.
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One consistent look; within another of this thread a part of that. Raises: DatabaseError."""
    outer: Connection | None = getattr(_look, "connection", None)
    if outer is not None and outer.engine is engine:
        with _faults():
            yield outer
        return
    with _faults(), engine.connect() as connection, connection.begin():
        _look.connection = connection
        try:
            yield connection
        finally:
            _look.connection = None


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One transaction: all of it or nothing. Raises: DatabaseError."""
    with _turn(engine), _faults(), engine.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection


@contextmanager
def _turn(engine: Engine) -> Iterator[None]:
    """SQLite has one writer at a time, and those who wait for it sleep longer and longer: ours wait here, each woken in its turn."""
    if engine.dialect.name != "sqlite":
        yield
    elif _sqlite_writer.acquire(timeout=engine.get_execution_options()["busy_s"]):
        try:
            yield
        finally:
            _sqlite_writer.release()
    else:
        raise DatabaseError("database", "is busy.", "Try again in a moment.")


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except sqlalchemy.exc.IntegrityError:
        raise
    except sqlalchemy.exc.DataError as error:
        raise InputError("", "holds a value that the database cannot keep.", "Leave out NUL characters and numbers beyond 9e15.") from error
    except (DBAPIError, sqlalchemy.exc.TimeoutError) as error:
        if isinstance(error, DBAPIError) and _is_full(error.orig):
            raise DatabaseError("database", "cannot write: its disk is full.", "Free some space there.") from error
        if isinstance(error, DBAPIError) and (unusable := UNUSABLE.get(getattr(error.orig, "sqlite_errorcode", 0) & 0xFF)):
            hint = "Look at the file, service.sqlite among the runs unless told otherwise: a backup may take its place."
            raise DatabaseError("database", f"its file {unusable}.", hint) from error
        # The driver's text can hold the address with its password; its type says enough.
        kind = type(error.orig).__name__ if isinstance(error, DBAPIError) else type(error).__name__
        raise DatabaseError("database", f"does not answer ({kind}).", "Try again in a moment.") from error


def _is_full(error: BaseException | None) -> bool:
    """Whether SQLite's or PostgreSQL's error is that of a full disk, by its code."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL or getattr(error, "sqlstate", None) == POSTGRESQL_DISK_FULL


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Refresh the schema up to date. Returns the revisions before and after."""
    before = revision(engine)
    with _faults(), engine.begin() as connection:
        configuration = Config(attributes={"connection": connection})
        configuration.set_main_option("script_location", str(HERE))
        command.upgrade(configuration, "head")
    return before, newest_revision()


def revision(engine: Engine) -> str | None:
    """The schema's revision; None for a database without ours."""
    with _faults(), engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def newest_revision() -> str:
    """What this program needs."""
    return str(ScriptDirectory(str(HERE)).get_current_head())


def refuse_outdated(engine: Engine) -> None:
    """Raises: InputError if the schema is not the one this program needs."""
    current, needed = revision(engine), newest_revision()
    if current != needed:
        problem = f"the schema is at revision {current or 'none'}, and this program needs {needed}."
        raise InputError("--database-url", problem, "Run: largebatch db upgrade")


def open_database(settings: Settings) -> Engine:
    """The service's database: the embedded one is brought up to date, another that is not is refused. Raises: InputError, DatabaseError."""
    engine = connect(settings.url)
    if settings.database_url is None:
        upgrade(engine)
    else:
        refuse_outdated(engine)
    return engine
