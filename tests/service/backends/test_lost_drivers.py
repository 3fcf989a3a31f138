"""A job whose driver went down with its machine has failed, whatever a head says that came back with old notes (tests/k8s has a real one)."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ray.job_submission import JobStatus

from largebatch.service.backends.ray_jobs import LOOK_AT_NODES_EVERY_S, NAME, RayJobs


class Alive:
    """The machines that are alive, and how often they were asked for."""

    def __init__(self, *names: str) -> None:
        self.names, self.num_looks = names, 0

    def __call__(self, address: str) -> list[Any]:
        self.num_looks += 1
        return [SimpleNamespace(node_id=name) for name in self.names]


def cluster_of(jobs: list[Any], alive: Alive, clock: Callable[[], float] = time.monotonic) -> RayJobs:
    client: Any = SimpleNamespace(list_jobs=lambda: jobs, get_version=lambda: "4")
    return RayJobs("http://127.0.0.1:8265", client, alive, clock=clock)


def told(job_id: str, status: JobStatus, driver: str | None) -> Any:
    return SimpleNamespace(
        submission_id=job_id, status=status, driver_node_id=driver, metadata={NAME: job_id}, message="", driver_exit_code=None, start_time=0
    )


def test_a_running_job_needs_its_drivers_machine() -> None:
    jobs = [
        told("here", JobStatus.RUNNING, "head-2"), told("lost", JobStatus.RUNNING, "head-1"),
        told("waits", JobStatus.PENDING, None), told("ended", JobStatus.SUCCEEDED, "head-1"),
    ]  # fmt: skip
    found = {job.name: job for job in cluster_of(jobs, Alive("head-2")).all()}
    assert {name: job.status for name, job in found.items()} == {"here": "RUNNING", "lost": "FAILED", "waits": "PENDING", "ended": "SUCCEEDED"}
    assert "machine of its driver" in found["lost"].message


def test_machines_are_asked_for_now_and_then_and_when_a_new_one_is_named() -> None:
    jobs, now_s = [told("run", JobStatus.RUNNING, "one")], 100.0
    alive = Alive("one")
    cluster = cluster_of(jobs, alive, clock=lambda: now_s)
    for _ in range(3):
        assert cluster.all()[0].status == "RUNNING"
    assert alive.num_looks == 1
    jobs.append(told("other", JobStatus.RUNNING, "two"))
    alive.names = ("two",)
    cluster.all()
    assert alive.num_looks == 2
    assert {job.name: job.status for job in cluster.all()} == {"run": "FAILED", "other": "RUNNING"}
    alive.names = ()
    now_s += LOOK_AT_NODES_EVERY_S + 1
    assert {job.status for job in cluster.all()} == {"FAILED"}


def test_a_jobs_reason_is_what_it_said_last() -> None:
    """Ray's message begins with where its logs are, and ends with them."""
    failed = told("failed", JobStatus.FAILED, None)
    failed.message = (
        "Job entrypoint command failed with exit code 2, last available logs (truncated to 20,000 chars):\nstarting\nDataError: no such set.\n"
    )
    (job,) = cluster_of([failed], Alive()).all()
    assert job.reason == "DataError: no such set."
