"""The service killed, doubled, cut off from its database: every accepted run ends right, and none twice."""

import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import NO_TLS, ROOT, Postgres, Service, new_token, serving, small_disk, upgraded
from small_runs import steps, wait_for

from largebatch.service.backends.job_supervisor import EXIT
from largebatch.service.client import Client

STEPS = 12
REAL: dict[str, Any] = {
    "recipe": "digits-small-batch", "cpus": 1.0,
    "set": {"stop.epochs": None, "stop.steps": STEPS, "stop.target_accuracy": None, "tracking.enabled": False},
}  # fmt: skip
LONG_STEPS = 3000
LONG: dict[str, Any] = {
    **REAL, "set": {**REAL["set"], "stop.steps": LONG_STEPS, "checkpoint.every_seconds": 0.3, "evaluation.every_epochs": 1000.0},
}  # fmt: skip
ENDLESS: dict[str, Any] = {
    **REAL, "set": {**REAL["set"], "stop.steps": 10_000_000, "checkpoint.every_seconds": 0.3, "evaluation.every_epochs": 1000.0},
}  # fmt: skip
LATE = {"recipe": "digits-small-batch", "deadline_s": 0.001}
"""Ends without training, so that many can be sent."""


def submit_patiently(url: str, asked: dict[str, Any], key: str) -> str:
    """As a client does whose connections break: again, under the same key, until it has an answer."""
    ends_at = time.monotonic() + 120
    while True:
        try:
            answer = httpx.post(f"{url}/v1/runs", json=asked, headers={"Idempotency-Key": key}, timeout=10, verify=NO_TLS)
            if answer.status_code == 202:
                return str(answer.json()["id"])
            assert answer.status_code in {429, 503}, answer.text
        except httpx.TransportError:
            pass
        assert time.monotonic() < ends_at
        time.sleep(0.05)


def all_jobs(url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = None
    with Client(url) as client:
        while True:
            page = client.request("GET", "/v1/runs", params={"limit": 200, **({} if cursor is None else {"cursor": cursor})})
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found


def trained_once(service: Service, job_id: str, num_steps: int = STEPS) -> bool:
    return steps(service.runs_dir / job_id) == list(range(1, num_steps + 1))


@contextmanager
def disturbed(acts: Any, every_s: tuple[float, float], seed: int) -> Iterator[None]:
    """Something bad happens now and then in the block."""
    over, draw = threading.Event(), random.Random(seed)

    def run() -> None:
        while not over.wait(draw.uniform(*every_s)):
            acts()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_jobs_outlive_the_service_and_are_found_again(service: Service) -> None:
    def progress() -> int:
        return int(httpx.get(f"{service.url}/v1/runs/{job_id}", timeout=60).json()["progress"].get("step", 0))

    job_id = httpx.post(f"{service.url}/v1/runs", json=ENDLESS).json()["id"]
    service.wait(job_id, "running")
    service.kill()
    service.end_leases()
    service.start(is_fresh=True)
    wait_for(progress, 60)
    assert service.stop() == 0, "an end in good order"
    service.start()
    before = progress()
    wait_for(lambda: progress() > before, 60)
    httpx.post(f"{service.url}/v1/runs/{job_id}/cancel")
    job = service.wait(job_id, "cancelled", "failed")
    assert (job["state"], job["attempt"], job["failures"]) == ("cancelled", 1, 0)
    done = steps(service.runs_dir / job_id)
    assert done == list(range(1, len(done) + 1))


@pytest.mark.slow
def test_killed_at_random_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """Ordinary tests: of jobs that a killed service finds again, the one above; of keys, test_two_replicas_on_one_database."""
    submits = 200
    with serving(tmp_path, MLFLOW_TRACKING_URI="") as service:
        kills = 0

        def kill() -> None:
            nonlocal kills
            service.kill()
            kills += 1
            service.start()

        with disturbed(kill, (2.0, 5.0), seed=1), ThreadPoolExecutor(8) as pool:
            late = list(pool.map(lambda n: submit_patiently(service.url, LATE, f"late-{n}"), range(submits)))
            real = list(pool.map(lambda n: submit_patiently(service.url, REAL, f"real-{n}"), range(2)))
            for job_id in real:
                service.wait(job_id, "succeeded", seconds=180)
        assert kills >= 1
        for job_id in late:
            service.wait(job_id, "failed")
        found = all_jobs(service.url)
        assert sorted(job["id"] for job in found) == sorted([*late, *real]), "each request is one run, each run was asked for"
        assert len(set(late)) == submits
        assert {job["reason"] for job in found if job["id"] in late} == {"Its deadline passed before its turn came."}
        for job_id in real:
            assert trained_once(service, job_id)
            assert httpx.get(f"{service.url}/v1/runs/{job_id}").json()["attempt"] == 1, "the runs themselves were never disturbed"


def test_two_replicas_on_one_database(postgres_server: Postgres, tmp_path: Path) -> None:
    url = postgres_server.new_database()
    with upgraded(url):
        pass
    options = ("--database-url", url, "--runs-dir", str(tmp_path / "runs"))
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with (
        serving(tmp_path / "one", *options, MLFLOW_TRACKING_URI="") as one,
        serving(tmp_path / "two", *options, MLFLOW_TRACKING_URI="") as two,
        ThreadPoolExecutor(8) as pool,
    ):
        replicas = [one, two]
        late = list(pool.map(lambda n: submit_patiently(replicas[n % 2].url, LATE, f"late-{n // 2}"), range(20)))
        assert len(set(late)) == 10, "a retry at the other replica is the same run"
        real = submit_patiently(two.url, REAL, "real")
        one.wait(real, "running", "succeeded")
        one.kill()  # which reconciles: it was there first
        one.end_leases(url)
        assert two.wait(real, "succeeded", "failed")["state"] == "succeeded"
        one.start()
        assert len(all_jobs(one.url)) == 11
        job = httpx.get(f"{one.url}/v1/runs/{real}").json()
        assert (job["state"], job["attempt"]) == ("succeeded", 1)
        assert steps(tmp_path / "runs" / real) == list(range(1, STEPS + 1))


@pytest.fixture
def mortal_postgres(postgres_server: Postgres) -> Iterator[Postgres]:
    """One that a test stops; afterwards it is there again."""
    yield postgres_server
    postgres_server.stop()
    postgres_server.start()


def test_the_database_goes_away_and_comes_back(mortal_postgres: Postgres, tmp_path: Path) -> None:
    url = mortal_postgres.new_database()
    with upgraded(url):
        pass
    with serving(tmp_path, "--database-url", url, MLFLOW_TRACKING_URI="") as service:
        before = submit_patiently(service.url, REAL, "before")
        service.wait(before, "running")
        mortal_postgres.stop()
        refused = httpx.post(f"{service.url}/v1/runs", json=LATE, timeout=30)
        assert refused.status_code == 503
        assert refused.json()["title"] == "Not available now"
        assert "Retry-After" in refused.headers
        assert url not in refused.text
        assert httpx.get(f"{service.url}/healthz").status_code == 200
        ready = httpx.get(f"{service.url}/readyz", timeout=30)
        assert (ready.status_code, "does not answer" in ready.json()["checks"]["database"]) == (503, True)
        wait_for((service.runs_dir / ".service" / before / "1" / EXIT).exists, 60)  # it has ended, with nobody to tell
        mortal_postgres.start()
        after = submit_patiently(service.url, LATE, "after")
        for job_id, state, attempt in ((before, "succeeded", 1), (after, "failed", 0)):
            job = service.wait(job_id, "succeeded", "failed")
            assert (job["state"], job["attempt"]) == (state, attempt)
        assert trained_once(service, before)


@pytest.mark.slow
def test_without_mlflow_runs_go_on(tmp_path: Path) -> None:
    """Ordinary tests: of the run, test_mlflow_mirror; of what the service says, test_operations."""
    with serving(tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9") as service:
        ready = httpx.get(f"{service.url}/readyz", timeout=10)
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded"), "no run needs it"
        assert "does not answer" in ready.json()["checks"]["tracking"]
        tracked = {**REAL, "set": {**REAL["set"], "tracking.enabled": True}}
        job = service.wait(submit_patiently(service.url, tracked, "x"), "succeeded", "failed", seconds=120)
        assert job["state"] == "succeeded"
        assert trained_once(service, job["id"])


@pytest.mark.slow
def test_a_disk_that_is_full_fails_the_run_and_nothing_else(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/service.sqlite"
    with upgraded(url):
        pass
    with small_disk(tmp_path / "runs", 4) as disk, serving(tmp_path, "--database-url", url, "--max-failures", "0", MLFLOW_TRACKING_URI="") as service:
        filler = disk / "filler"
        filler.write_bytes(bytes((4 << 20) - (100 << 10)))  # less than the journal alone comes to
        num_steps = LONG_STEPS // 5
        job_id = submit_patiently(service.url, {**LONG, "set": {**LONG["set"], "stop.steps": num_steps}}, "full")
        failed = service.wait(job_id, "failed", "succeeded")
        assert failed["state"] == "failed"
        assert "disk is full" in failed["reason"], failed["reason"]
        assert str(tmp_path) not in failed["reason"]
        ready = httpx.get(f"{service.url}/readyz", timeout=10)
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded"), "the service lives on, and says what it lacks"
        assert re.fullmatch(r"[0-3] MiB are free where the runs lie", ready.json()["checks"]["disk"]), ready.text
        filler.unlink()
        assert httpx.post(f"{service.url}/v1/runs/{job_id}/resume").status_code == 202
        assert service.wait(job_id, "failed", "succeeded")["state"] == "succeeded"
        assert trained_once(service, job_id, num_steps), "gone on with, nothing lost or doubled"


STEPPED = """
import os, time
real, offset = time.time, os.environ["CLOCK"]
def stepped():
    with open(offset) as file:
        return real() + float(file.read() or 0)
time.time = stepped
"""
"""A `sitecustomize` that moves the clock of the service and of its jobs."""


@pytest.mark.slow
def test_a_clock_that_jumps(tmp_path: Path) -> None:
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "sitecustomize.py").write_text(STEPPED)
    clock = tmp_path / "clock"

    def step(seconds: float) -> None:
        (tmp_path / "new").write_text(str(seconds))
        (tmp_path / "new").replace(clock)

    step(0)
    environment = {"PYTHONPATH": f"{tmp_path / 'shim'}:{ROOT}", "CLOCK": str(clock), "MLFLOW_TRACKING_URI": ""}
    with serving(tmp_path, "--with-tokens", "--cpus", "2", **environment) as service:
        secret = new_token(service.runs_dir, "root", "--scope", "admin")
        with httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {secret}"}, timeout=30) as http:

            def submit(key: str, **parts: Any) -> str:
                answer = http.post("/v1/runs", json=REAL | parts, headers={"Idempotency-Key": key})
                assert answer.status_code == 202, answer.text
                return str(answer.json()["id"])

            def ended(job_id: str) -> dict[str, Any]:
                return service.wait(job_id, "succeeded", "failed", headers=dict(http.headers))

            whole = {**LONG, "cpus": 2.0}
            hour = http.post("/v1/tokens", json={"owner": "ann", "scope": "read", "expires_in_s": 3600.0}).json()["secret"]
            first = submit("first", **whole)
            late = submit("late", deadline_s=3600.0)
            waits = submit("waits")
            service.wait(first, "running", headers=dict(http.headers))
            step(2 * 86400.0)
            assert submit("first", **whole) == first, "a key is a key, whatever the clock says"
            asked = httpx.get(f"{service.url}/v1/runs", headers={"Authorization": f"Bearer {hour}"})
            assert "expired" in asked.json()["detail"]
            assert ended(late)["reason"] == "Its deadline passed before its turn came.", "by the clock it did; it ends, once, and says why"
            (supervisor,) = (service.runs_dir / ".service" / first).glob("*/pid")
            os.killpg(int(supervisor.read_text()), signal.SIGKILL)
            service.wait(first, "recovering", "starting", headers=dict(http.headers))
            step(-2 * 86400.0)
            during = submit("during")
            for job_id in (first, waits, during):
                assert ended(job_id)["state"] == "succeeded"
                assert trained_once(service, job_id, LONG_STEPS if job_id == first else STEPS)
            step(0)
            found = http.get("/v1/runs", params={"limit": 200}).json()["items"]
            assert sorted(job["id"] for job in found) == sorted([first, late, waits, during]), "nothing doubled, no job lost"
            assert {job["id"]: job["attempt"] for job in found} == {first: 2, late: 0, waits: 1, during: 1}
            assert http.get("/readyz").json()["status"] == "ready"
