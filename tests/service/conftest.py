"""Databases for the service's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Postgres, postgres, upgraded

from largebatch.service.db.store import Store


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[Store]:
    """A store in SQLite alone, for tests of what uses it."""
    with upgraded(f"sqlite:///{tmp_path}/service.sqlite") as store:
        yield store


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A store in either kind of database."""
    with upgraded(database_url) as store:
        yield store


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/service.sqlite"
    server: Postgres = request.getfixturevalue("postgres_server")
    return server.new_database()
