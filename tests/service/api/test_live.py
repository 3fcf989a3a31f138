"""Listeners who come at every moment of a journal's life hear each record once and in order."""

import asyncio
import json
import random
import time
from pathlib import Path

import made_records
import pytest

from largebatch.jobs.run.journal import Journal
from largebatch.service.api.live import Watcher
from largebatch.service.db.store import Store
from largebatch.service.job import Job, Kind, State
from largebatch.service.present.curves import read_series
from largebatch.service.queue.run_folders import RunFolders

JOB = Job(id="a", kind=Kind.RUN, owner="ann", name="a", recipe=None, cpus=1.0, gpus=0, created_at_s=0.0, state=State.RUNNING, attempt=1)


async def heard(watcher: Watcher, after: int = 0) -> list[int]:
    steps = []
    rest = b""
    async for frames in watcher.listen(JOB, after):
        rest += frames
    for line in rest.split(b"\n"):
        if line.startswith(b'data: {"kind":"step"'):
            steps.append(json.loads(line[6:])["step"])
    return steps


@pytest.mark.parametrize("seed", range(6))
def test_each_record_once_and_in_order(sqlite_store: Store, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    sqlite_store.accept(JOB, None, "", 10)
    (tmp_path / "a").mkdir()
    steps = 300

    async def scene() -> list[list[int]]:
        watcher = Watcher(sqlite_store, RunFolders(tmp_path), look_every_s=0.005, chunk_bytes=500)  # two records: a look has many chunks to read
        watcher.start()

        async def late() -> list[int]:
            await asyncio.sleep(draw.random() * 0.4)
            return await heard(watcher)

        async def leaves() -> list[int]:
            await asyncio.sleep(draw.random() * 0.3)
            async for _ in watcher.listen(JOB, 0):
                break
            return list(range(1, steps + 1))

        async def reads_first() -> list[int]:
            """As the page does: the journal as it stands, often further than the watcher has read, then what comes after it."""
            await asyncio.sleep(draw.random() * 0.4)
            series = read_series(tmp_path / "a", 400)
            return [*(step["step"] for step in series.steps), *await heard(watcher, series.next_after)]

        comers = (leaves, late, reads_first)
        listeners = [asyncio.create_task(comers[number % 3]()) for number in range(30)]
        with Journal(tmp_path / "a") as journal:
            for step in range(1, steps + 1):
                journal.write(made_records.step(step))
                if draw.random() < 0.3:
                    await asyncio.sleep(0.003)
        await asyncio.to_thread(sqlite_store.move, JOB, State.SUCCEEDED)
        found = await asyncio.wait_for(asyncio.gather(*listeners), 30)
        await watcher.stop()
        assert watcher.num_listeners == 0
        return found

    for steps_heard in asyncio.run(scene()):
        assert steps_heard == list(range(1, steps + 1))


def test_lists_begin_with_how_things_stand(sqlite_store: Store, tmp_path: Path) -> None:
    for name, owner in (("a", "ann"), ("b", "bob")):
        sqlite_store.accept(JOB.model_copy(update={"id": name, "owner": owner}), None, "", 10)

    async def scene() -> bytes:
        watcher = Watcher(sqlite_store, RunFolders(tmp_path))
        watcher.start()
        told, ends_at = b"", time.monotonic() + 20
        async for frame in watcher.listen_to_all([Kind.RUN], lambda job: job.owner == "ann"):
            told += frame
            if b"cancelled" in told:
                break
            if told.count(b"event: job") == 1:
                await asyncio.sleep(1.2)
                sqlite_store.ask_to_cancel(JOB)
                sqlite_store.move(JOB, State.CANCELLED)
            assert time.monotonic() < ends_at
        await watcher.stop()
        return told

    told = asyncio.run(scene())
    assert told.count(b'"id":"a"') == 2
    assert b'"id":"b"' not in told


def test_what_comes_before_the_first_look_is_told(sqlite_store: Store, tmp_path: Path) -> None:
    """The first listener was told how things stand, and nobody has looked yet: a job that comes now and does not change is new to it all the same."""
    sqlite_store.accept(JOB, None, "", 10)

    async def scene() -> bytes:
        watcher = Watcher(sqlite_store, RunFolders(tmp_path), look_every_s=0.01)
        stream = aiter(watcher.listen_to_all([Kind.RUN], lambda job: True))
        await anext(stream)
        sqlite_store.accept(JOB.model_copy(update={"id": "b"}), None, "", 10)
        watcher.start()
        told = await asyncio.wait_for(anext(stream), 20)
        await watcher.stop()
        return told

    assert b'"id":"b"' in asyncio.run(scene())


def test_one_question_for_all_listeners_and_none_for_their_records(sqlite_store: Store, tmp_path: Path) -> None:
    sqlite_store.accept(JOB, None, "", 10)
    (tmp_path / "a").mkdir()
    asked: list[set[str]] = []
    ended: set[str] = set()

    def still_valid(shown: set[str]) -> set[str]:
        asked.append(shown)
        return shown - ended

    async def scene() -> int:
        watcher = Watcher(sqlite_store, RunFolders(tmp_path), still_valid, look_every_s=0.005, check_every_s=0.2)
        watcher.start()
        told = dict.fromkeys(("one", "other", ""), 0)

        async def listens(shown: str) -> None:
            async for _ in watcher.listen(JOB, 0, shown):
                told[shown] += 1

        listeners = [asyncio.create_task(listens(shown)) for shown in [*["one"] * 10, *["other"] * 10, ""]]
        with Journal(tmp_path / "a") as journal:
            for step in range(100):
                journal.write(made_records.step(step))
                await asyncio.sleep(0.005)
        ended.add("one")
        await asyncio.wait_for(asyncio.gather(*listeners[:10]), 10)
        after_end = told["one"]
        with Journal(tmp_path / "a") as journal:
            journal.write(made_records.step(101))
        await asyncio.sleep(0.3)
        assert told["one"] == after_end
        assert told["other"] > after_end, "they heard more"
        assert not any(task.done() for task in listeners[10:])
        await watcher.stop()
        await asyncio.gather(*listeners)
        return watcher.num_listeners

    assert asyncio.run(scene()) == 0
    assert asked[0] == {"one", "other"}
    assert len(asked) < 20, "by time, not by record"
