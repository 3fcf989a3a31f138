"""A real Ray head with its dashboard, on free ports, in a folder of its own; gone when the tests are."""

import os
from collections.abc import Iterator

import pytest
from launch_runs import S3_ENVIRONMENT, Head, new_head

# Before ray is imported anywhere: no token files, nothing sent.
os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """One Ray for all tests that do not break it."""
    with new_head(S3_ENVIRONMENT) as made:
        yield made
