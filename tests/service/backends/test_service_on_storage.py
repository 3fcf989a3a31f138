"""Runs that are kept by URI, watched live: what the storage has reaches every listener once and in order."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import made_records
import pytest
from launch_runs import S3_ENVIRONMENT, Head
from servers import serving
from small_runs import wait_for

from largebatch.jobs.errors import InputError, StorageError
from largebatch.jobs.run.journal import Journal
from largebatch.jobs.run.run_folder import CHECKPOINTS, JOURNAL, SUMMARY
from largebatch.jobs.run.storage import Storage
from largebatch.jobs.run.stored_run import StoredRun
from largebatch.service.api.live import Watcher
from largebatch.service.api.serve import serve
from largebatch.service.db.engine import connect, upgrade
from largebatch.service.db.store import Store
from largebatch.service.job import Job, Kind, State
from largebatch.service.present.progress import read_progress
from largebatch.service.queue.run_folders import RunCopies
from largebatch.service.settings import Settings

JOB = Job(id="a", kind=Kind.RUN, owner="ann", name="a", recipe=None, cpus=1.0, gpus=0, created_at_s=0.0, state=State.RUNNING, attempt=1)
STEPS = 150


def test_where_runs_may_be_kept() -> None:
    on_ray = {"ray_address": "http://head:8265", "database_url": "postgresql://x"}
    assert (Settings.read(port=8080).runs_dir, Settings.read(port=8080).store) == (Path("runs"), None)
    settings, other = (Settings.read(runs_dir="s3://bucket/runs", port=port, **on_ray) for port in (8080, 8081))
    assert (settings.store, settings.url) == ("s3://bucket/runs", "postgresql://x")
    assert settings.runs_dir != other.runs_dir
    for missing in on_ray:
        with pytest.raises(InputError, match=r"needs? a folder"):
            serve(Settings.read(runs_dir="s3://bucket/runs", port=8080, **{**on_ray, missing: None}))


class Listening(Storage):
    """A storage that remembers which bytes it was asked for."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.asked = list[tuple[int, int]]()

    def pieces(self, name: str, start: int, end: int) -> Iterator[bytes]:
        self.asked.append((start, end))
        return super().pieces(name, start, end)


def test_a_copy_grows_with_its_run(bucket: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run" / "a"
    (run_dir / CHECKPOINTS).mkdir(parents=True)
    storage = Listening(f"{bucket}/grows")
    kept, copies = StoredRun(Storage(f"{bucket}/grows"), run_dir), RunCopies(storage, tmp_path / "copies", list)
    copy = tmp_path / "copies" / "a"
    copies.refresh("a")
    assert not copy.exists(), "there is nothing yet"
    for step in (1, 2):
        with Journal(run_dir) as journal:
            journal.write(made_records.step(step))
        saved = run_dir / CHECKPOINTS / f"step-{step:08}.{'0' * 32}.pt"
        saved.write_bytes(b"weights")
        kept.push()
        copies.refresh("a", 0.0)
        assert (copy / JOURNAL).read_bytes() == (run_dir / JOURNAL).read_bytes()
        placeholder = copy / CHECKPOINTS / saved.name
        assert (placeholder.stat().st_size, abs(placeholder.stat().st_mtime - time.time()) < 60) == (0, True), "when it was made, without its bytes"
    size = (run_dir / JOURNAL).stat().st_size
    assert storage.asked == [(0, size // 2), (size // 2, size)], "the new bytes alone"
    assert read_progress(JOB, copy)["step"] == 2
    (run_dir / SUMMARY).write_text("{}")
    kept.push()
    copies.refresh("a", 0.0)
    copies.forget_summary("a")
    assert not (copy / SUMMARY).exists()
    copies.remove("a")
    assert (Storage(f"{bucket}/grows").sizes("a"), copy.exists()) == ({}, False)
    copies.stop()


def test_half_a_line_is_not_kept(bucket: str, tmp_path: Path) -> None:
    storage, copies = Storage(f"{bucket}/halves"), RunCopies(Storage(f"{bucket}/halves"), tmp_path / "copies", list)
    copy = tmp_path / "copies" / "a" / JOURNAL
    for found, kept in [(b"1\n2 is cut o", b"1\n"), (b"1\n2 is written anew\n3", b"1\n2 is written anew\n"), (b"1\n", b"1\n")]:
        storage.write(f"a/{JOURNAL}", found)
        copies.refresh("a", 0.0)
        assert copy.read_bytes() == kept
    copies.stop()


class Unsteady(Storage):
    """A storage that does not answer while it is away."""

    is_away = False

    def states(self, folder: str) -> dict[str, tuple[int, int]]:
        if self.is_away:
            raise OSError("AWS Error NETWORK_CONNECTION")
        return super().states(folder)


def test_live_events_of_a_stored_run(bucket: str, tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/x.sqlite")
    upgrade(engine)
    store = Store(engine)
    store.accept(JOB, None, "", 10)
    run_dir = tmp_path / "run" / "a"
    (run_dir / CHECKPOINTS).mkdir(parents=True)
    storage = Unsteady(f"{bucket}/live")
    copies = RunCopies(storage, tmp_path / "copies", store.active_ids, look_every_s=0.1)
    copies.start()

    async def scene() -> tuple[list[int], int]:
        watcher = Watcher(store, copies, look_every_s=0.05)
        watcher.start()
        told = b""

        async def listens() -> None:
            nonlocal told
            async for frames in watcher.listen(JOB, 0):
                told += frames

        listener = asyncio.create_task(listens())
        with StoredRun(Storage(f"{bucket}/live"), run_dir, push_every_s=0.1) as kept, Journal(run_dir) as journal:
            for step in range(1, STEPS + 1):
                journal.write(made_records.step(step))
                await asyncio.sleep(0.01)
            while_running = told.count(b"event: step")
            await asyncio.to_thread(kept.push)
        storage.is_away = True
        with pytest.raises(StorageError, match="does not answer"):
            await asyncio.to_thread(copies.refresh, "a", 0.0)
        await asyncio.to_thread(store.move, JOB, State.SUCCEEDED)
        await asyncio.sleep(0.5)
        assert not listener.done(), "it is over when all has been told, not before"
        storage.is_away = False
        await asyncio.wait_for(listener, 20)
        await watcher.stop()
        return [json.loads(line[6:])["step"] for line in told.split(b"\n") if line.startswith(b'data: {"kind":"step"')], while_running

    steps, while_running = asyncio.run(scene())
    copies.stop()
    assert steps == list(range(1, STEPS + 1))
    assert while_running > 10, "live"
    engine.dispose()


@pytest.mark.slow
def test_the_whole_service_on_ray_and_s3(head: Head, bucket: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/service.sqlite"
    engine = connect(url)
    upgrade(engine)
    engine.dispose()
    options = ("--ray-address", head.dashboard, "--ray-python", sys.executable, "--database-url", url, "--runs-dir", f"{bucket}/whole")
    asked: dict[str, Any] = {
        "recipe": "digits-small-batch", "cpus": 1.0,
        "set": {"stop.epochs": 100_000, "stop.max_seconds": 5.0, "stop.target_accuracy": None, "evaluation.every_epochs": 50.0},
    }  # fmt: skip
    with serving(tmp_path, *options, MLFLOW_TRACKING_URI="", **S3_ENVIRONMENT) as service, httpx.Client(base_url=service.url, timeout=60) as http:
        job_id = http.post("/v1/runs", json=asked).json()["id"]
        wait_for(lambda: http.get(f"/v1/runs/{job_id}").json()["progress"].get("step"), 120)
        assert http.get(f"/v1/runs/{job_id}").json()["state"] == "running", "seen live"
        job = service.wait(job_id, "succeeded", "failed", seconds=200)
        assert (job["state"], job["outcome"]) == ("succeeded", "completed"), job
        records = http.get(f"/v1/runs/{job_id}/records", params={"kind": "step", "limit": 5000}).json()["items"]
        assert [one["step"] for one in records] == list(range(1, len(records) + 1))
        assert {"records.jsonl", "summary.json", "plan.json"} <= {file["path"] for file in http.get(f"/v1/runs/{job_id}/artifacts").json()}
        sweep = http.post("/v1/sweeps", json={"sweep": {"recipe": "digits-small-batch"}})
        assert (sweep.status_code, "by URI" in sweep.text) == (422, True)
        assert http.delete(f"/v1/runs/{job_id}").status_code == 204
        assert Storage(f"{bucket}/whole").sizes(job_id) == {}
        assert service.stop() == 0
    assert not [path for path in Path("/tmp").glob(f"largebatch-copies-*-{service.port}") if os.listdir(path)]
