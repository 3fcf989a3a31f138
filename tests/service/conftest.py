"""Databases for the service's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Postgres, postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/service.sqlite"
    server: Postgres = request.getfixturevalue("postgres_server")
    return server.new_database()
