"""What every request needs."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from largebatch.service.api.dependencies import run_within
from largebatch.service.db.engine import DatabaseError


def test_nobody_waits_for_ever_behind_a_database_that_hangs() -> None:
    answers, done = threading.Event(), []
    pool = ThreadPoolExecutor(1)

    async def ask() -> list[object]:
        hanging = run_within(0.2, pool, lambda: answers.wait(30))
        waiting = [run_within(0.2, pool, lambda: done.append(1)) for _ in range(3)]
        return await asyncio.gather(hanging, *waiting, return_exceptions=True)

    began_s = time.monotonic()
    refused = asyncio.run(ask())
    assert time.monotonic() - began_s < 20
    assert [type(one) for one in refused] == [DatabaseError] * 4
    answers.set()
    pool.shutdown()
    assert done == [], "what was refused is not done later"


def test_what_a_look_raises_is_handed_on() -> None:
    def fails() -> None:
        raise DatabaseError("database", "does not answer (x).")

    with ThreadPoolExecutor(1) as pool, pytest.raises(DatabaseError, match="does not answer"):
        asyncio.run(run_within(5.0, pool, fails))
