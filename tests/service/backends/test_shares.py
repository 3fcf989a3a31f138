"""What a job holds is what its workers get: limits are kept by the machines, not by bookkeeping alone."""

from pathlib import Path
from typing import Any

import pytest

from largebatch.jobs.__main__ import read_arguments
from largebatch.jobs.errors import InputError
from largebatch.jobs.launch.options import TrainOptions
from largebatch.service.api.requests import RunSubmit, SweepSubmit, job_of_run, job_of_sweep
from largebatch.service.backends.base import job_arguments
from largebatch.service.backends.ray import mlflow_environment
from largebatch.service.job import Job, Kind
from largebatch.service.settings import Settings

HERE, CLUSTER = Settings(cpus=8.0, gpus=4), Settings(ray_address="http://head:8265")


def run(settings: Settings = CLUSTER, **parts: Any) -> Job:
    return job_of_run(RunSubmit.model_validate({"recipe": "digits-lamb", **parts}), "ann", settings)


def sweep(settings: Settings = CLUSTER, resources: dict[str, Any] | None = None, **parts: Any) -> Job:
    wanted = {"recipe": "digits-small-batch", "each": {"batch.global_batch_size": [32, 64]}, "resources": resources or {}}
    return job_of_sweep(SweepSubmit.model_validate({"sweep": wanted, **parts}), "ann", settings)


def shares(job: Job) -> TrainOptions:
    """What the job's command says to `python -m largebatch.jobs`."""
    words = job_arguments(job, Path("/runs"), Path("/data"))
    assert words[:3] == ["-m", "largebatch.jobs", "env:LARGEBATCH_SPEC"]
    return read_arguments(words[2:])


@pytest.mark.parametrize(
    ("parts", "cpus", "gpus"),
    [
        ({"workers": "4"}, 1.0, 0.0),
        ({"workers": "4", "cpus": 2.0}, 0.5, 0.0),
        ({"workers": "3", "cpus": 2.0}, 0.6666, 0.0),
        ({"workers": "2", "cpus": 12.0, "gpus": 2}, 6.0, 1.0),
        ({"workers": "2:8", "cpus": 8.0, "gpus": 8}, 1.0, 1.0),
        ({"workers": "8", "cpus": 2.0}, 0.25, 0.0),
    ],
)
def test_workers_share_what_the_job_holds(parts: dict[str, Any], cpus: float, gpus: float) -> None:
    given = shares(run(**parts))
    assert (str(given.workers), given.cpus_per_worker, given.gpus_per_worker) == (parts["workers"], cpus, gpus)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"cpus": 0.000001}, "cpus: must be at least 0.25"),
        ({"workers": "8", "cpus": 1.9}, "cpus: 1.9 for all of its 8 processes is less than 0.25 for each"),
        ({"memory_gib": 0.1}, "memory_gib: must be at least 0.5"),
        ({"workers": "4", "memory_gib": 1.0}, "memory_gib: 1 for all of its 4 processes is less than 0.5 for each"),
    ],
)
def test_a_job_holds_at_least_what_a_process_is_good_for(parts: dict[str, Any], words: str) -> None:
    for settings in (HERE, CLUSTER):
        with pytest.raises(InputError, match=words):
            run(settings, **parts)


def test_memory_is_held_as_cores_are() -> None:
    small = Settings(cpus=8.0, memory_gib=4.0)
    assert run(small).memory_gib == 1.5
    assert run(small, workers="2").memory_gib == 3.0
    assert run(small, workers="4").memory_gib == 4.0, "all there is"
    assert run(workers="4").memory_gib == 6.0
    assert run(Settings(cpus=1.0, memory_gib=0.4)).memory_gib == 0.4, "on a machine of less a run may be tried"
    with pytest.raises(InputError, match="5 GiB are asked for, and jobs on this machine may hold 4 together"):
        run(small, memory_gib=5.0)
    together = sweep(small)
    assert (together.memory_gib, together.spec["resources"]["max_concurrent"]) == (3.0, 2), "as many runs at a time as fit into both"
    assert sweep(small, memory_gib=4.0).spec["resources"]["max_concurrent"] == 8, "who says what they take decides"
    with pytest.raises(InputError, match=r"cpus: must be at least 0\.25"):
        sweep(small, {"cpus_per_worker": 0.1}, cpus=0.1)
    with pytest.raises(InputError, match=r"cpus: 2 for all of its 20 processes is less than 0\.25 for each"):
        sweep(HERE, {"cpus_per_worker": 0.1}, cpus=2.0, memory_gib=20.0)


def test_whatever_is_held_no_more_is_given() -> None:
    for most in range(1, 40):
        for cpus in (most / 4, most / 3, most / 2 + 0.1, 10.0):
            given = shares(run(workers=str(most), cpus=cpus)).cpus_per_worker
            assert 0 < given * most <= cpus + 1e-9


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"workers": "2", "gpus": 3}, "3 cannot be shared out evenly among 2 workers"),
        ({"workers": "2", "gpus": 1}, "Ask for 2"),
        ({"device": "cuda"}, "none is asked for"),
        ({"device": "cpu", "gpus": 1}, "would lie idle"),
    ],
)
def test_gpus_that_fit_no_workers_are_refused(parts: dict[str, Any], words: str) -> None:
    for settings in (HERE, CLUSTER):
        with pytest.raises(InputError, match=words) as refused:
            run(settings, **parts)
        assert refused.value.field == "gpus"


@pytest.mark.parametrize(
    ("settings", "resources", "parts", "holds", "at_once"),
    [
        (HERE, {}, {}, 8.0, 8),
        (HERE, {}, {"cpus": 2.0}, 2.0, 2),
        (HERE, {"cpus_per_worker": 2.0, "max_concurrent": 3}, {}, 8.0, 3),
        (CLUSTER, {}, {}, 1.0, 1),
        (CLUSTER, {"workers": 2, "cpus_per_worker": 4.0, "max_concurrent": 3}, {}, 24.0, 3),
        (CLUSTER, {"gpus_per_worker": 0.5}, {"cpus": 16.0, "gpus": 2}, 16.0, 4),
    ],
)
def test_a_sweep_runs_as_many_as_fit_into_what_it_holds(
    settings: Settings, resources: dict[str, Any], parts: dict[str, Any], holds: float, at_once: int
) -> None:
    job = sweep(settings, resources, **parts)
    assert (job.kind, job.cpus, job.spec["resources"]["max_concurrent"]) == (Kind.SWEEP, holds, at_once)


@pytest.mark.parametrize(
    ("resources", "parts", "field"),
    [
        ({"workers": 4}, {"cpus": 2.0}, "cpus"),
        ({"gpus_per_worker": 1.0}, {}, "gpus"),
        ({}, {"workers": "2"}, "workers"),
    ],
)
def test_a_sweep_that_holds_less_than_one_run_needs_is_refused(resources: dict[str, Any], parts: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as refused:
        sweep(CLUSTER, resources, **parts)
    assert refused.value.field == field


def test_jobs_on_ray_are_told_where_mlflow_is_but_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert mlflow_environment() == {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}
    for kept in ("", "http://me:hidden-7@mlflow"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", kept)
        assert mlflow_environment() == {}
