"""A job whose driver went down with its machine has failed, whatever a head says that came back with old notes (tests/k8s has a real one)."""

from types import SimpleNamespace
from typing import Any

from ray.job_submission import JobStatus

from largebatch.service.backends.ray_jobs import LOOK_AT_NODES_EVERY_S, NAME, RayJobs


class Cluster(RayJobs):
    """Some jobs and some machines that are alive."""

    def __init__(self, jobs: list[Any], alive: set[str]) -> None:
        self.address, self._alive, self._looked_at_s = "http://127.0.0.1:8265", frozenset(), 0.0
        self._client: Any = SimpleNamespace(list_jobs=lambda: jobs)
        self.alive, self.looks = alive, 0

    def _nodes(self) -> list[Any]:
        self.looks += 1
        return [SimpleNamespace(node_id=name) for name in self.alive]


def told(job_id: str, status: JobStatus, driver: str | None) -> Any:
    return SimpleNamespace(
        submission_id=job_id, status=status, driver_node_id=driver, metadata={NAME: job_id}, message="", driver_exit_code=None, start_time=0
    )


def test_a_running_job_needs_its_drivers_machine() -> None:
    jobs = [
        told("here", JobStatus.RUNNING, "head-2"), told("lost", JobStatus.RUNNING, "head-1"),
        told("waits", JobStatus.PENDING, None), told("ended", JobStatus.SUCCEEDED, "head-1"),
    ]  # fmt: skip
    found = {job.name: job for job in Cluster(jobs, {"head-2"}).all()}
    assert {name: job.status for name, job in found.items()} == {"here": "RUNNING", "lost": "FAILED", "waits": "PENDING", "ended": "SUCCEEDED"}
    assert "machine of its driver" in found["lost"].message


def test_machines_are_asked_for_now_and_then_and_when_a_new_one_is_named() -> None:
    jobs = [told("run", JobStatus.RUNNING, "one")]
    cluster = Cluster(jobs, {"one"})
    for _ in range(3):
        assert cluster.all()[0].status == "RUNNING"
    assert cluster.looks == 1
    jobs.append(told("other", JobStatus.RUNNING, "two"))
    cluster.alive = {"two"}
    cluster.all()
    assert cluster.looks == 2
    assert {job.name: job.status for job in cluster.all()} == {"run": "FAILED", "other": "RUNNING"}
    cluster.alive = set()
    cluster._looked_at_s -= LOOK_AT_NODES_EVERY_S + 1
    assert {job.status for job in cluster.all()} == {"FAILED"}
