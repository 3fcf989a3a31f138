"""The service with Ray underneath: runs, sweeps, and a head that is killed and comes back knowing nothing."""

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from carried_out import carry_out
from launch_runs import Head, new_head
from ports import free_port
from ray.util.state import list_placement_groups
from servers import Service, serving
from small_runs import wait_for

from largebatch.jobs.run.journal import read_records
from largebatch.jobs.run.records import StepRecord

LONG: dict[str, Any] = {
    "recipe": "digits-small-batch", "cpus": 1.0,
    "set": {
        "stop.epochs": 100_000, "stop.target_accuracy": None, "checkpoint.every_seconds": 0.5, "evaluation.every_epochs": 50.0,
        "tracking.enabled": False,
    },
}  # fmt: skip


def on_ray(head: Head) -> tuple[str, ...]:
    return ("--ray-address", head.dashboard, "--ray-python", sys.executable)


@pytest.fixture(scope="module")
def service(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("on-ray"), *on_ray(head), MLFLOW_TRACKING_URI="") as made:
        yield made


def submit(service: Service, asked: dict[str, Any], kind: str = "run") -> str:
    answer = httpx.post(f"{service.url}/v1/{kind}s", json=asked, timeout=30)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def steps(service: Service, job_id: str) -> list[int]:
    return [record.step for record in read_records(service.runs_dir / job_id) if isinstance(record, StepRecord)]


def wait_for_steps(service: Service, job_id: str, more_than: int = 0) -> int:
    """Until there are more steps than that; the last one's number, from the journal's end: it grows by a thousand lines a second."""
    ends_at = time.monotonic() + 120
    journal = service.runs_dir / job_id / "records.jsonl"
    while True:
        if journal.exists():
            with journal.open("rb") as file:
                file.seek(-min(journal.stat().st_size, 10_000), os.SEEK_END)
                found = [int(number) for number in re.findall(rb'"kind":"step","step":(\d+),', file.read())]
            if found and found[-1] > more_than:
                return found[-1]
        assert time.monotonic() < ends_at, service.log[-3000:]
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [None, "2"])
def test_a_run_on_the_cluster(service: Service, workers: str | None) -> None:
    """Ordinary tests: what a job on Ray goes through, test_ray_jobs; what several workers do, tests/jobs/launch."""
    cluster = httpx.get(f"{service.url}/v1/cluster", timeout=30).json()
    assert (cluster["backend"], cluster["cpus"]) == ("ray", 4.0)
    asked = {"recipe": "digits-small-batch", "workers": workers, "cpus": float(workers or 1), "set": {"stop.epochs": 1, "tracking.enabled": False}}
    job = service.wait(submit(service, asked), "succeeded", "failed", seconds=150)
    assert (job["state"], job["summary"]["world_size"]) == ("succeeded", int(workers or 1)), job
    assert "test accuracy" in httpx.get(f"{service.url}/v1/runs/{job['id']}/logs", timeout=30).text


@pytest.mark.slow
def test_a_sweep_and_its_answer(service: Service) -> None:
    """Ordinary tests: that Ray carries a job out, the one above; sweeps on Ray, tests/tuning/sweep; a service's sweep, test_api; its answers,
    test_studies."""
    job_id = carry_out(service, [0.05, 0.2])
    advice = httpx.get(f"{service.url}/v1/sweeps/{job_id}/advice", timeout=90).json()
    assert {one["question"] for one in advice["advice"]} >= {"soonest", "cheapest"}
    assert httpx.get(f"{service.url}/v1/sweeps/{job_id}/frontier", timeout=90).json()["cost_frontier"]


@pytest.mark.slow
def test_a_head_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    ports = [free_port() for _ in range(6)]
    with serving(tmp_path, *on_ray(Head("", f"http://127.0.0.1:{ports[1]}", 0)), MLFLOW_TRACKING_URI="") as service:
        job_id = submit(service, LONG)
        wait_for(lambda: "no Ray dashboard answers" in httpx.get(f"{service.url}/readyz", timeout=60).json()["checks"]["backend"], 90)
        ready = httpx.get(f"{service.url}/readyz", timeout=60)
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded"), "there is no head yet; lists, pages and submits work"
        assert "no Ray dashboard answers" in httpx.get(f"{service.url}/runs", timeout=60, headers={"Accept": "text/html"}).text
        with new_head({}, ports):
            wait_for_steps(service, job_id)
            (group,) = [one for one in list_placement_groups(address=f"http://127.0.0.1:{ports[1]}", detail=True) if one.state == "CREATED"]
            assert [bundle["unit_resources"] for bundle in group.bundles] == [{"CPU": 1.0}], "what the job holds, on a cluster of four"
        assert httpx.get(f"{service.url}/v1/runs/{job_id}").json()["state"] in {"starting", "running"}, "nobody knows yet how it goes on"
        before = wait_for_steps(service, job_id)  # all that were done while the head was there
        with new_head({}, ports):
            wait_for_steps(service, job_id, more_than=before + 50)
            job = httpx.get(f"{service.url}/v1/runs/{job_id}").json()
            assert job["attempt"] >= 2
            httpx.post(f"{service.url}/v1/runs/{job_id}/cancel")
            assert service.wait(job_id, "cancelled", "succeeded", "failed")["state"] == "cancelled"
        done = steps(service, job_id)
        assert done == list(range(1, len(done) + 1)), "no step lost or doubled"
