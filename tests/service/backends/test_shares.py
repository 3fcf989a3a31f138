"""What a job holds is what its workers get: limits are kept by the machines, not by bookkeeping alone."""

import math
from pathlib import Path
from typing import Any

import pytest

from largebatch.jobs.__main__ import read_arguments
from largebatch.jobs.errors import InputError
from largebatch.jobs.launch.options import TrainOptions
from largebatch.service.api.requests import RunSubmit, SweepSubmit, job_of_run, job_of_sweep
from largebatch.service.backends.base import job_arguments
from largebatch.service.backends.ray import RayBackend, mlflow_environment
from largebatch.service.job import Capacity, Job, Kind, Machine
from largebatch.service.memory import GIB, memory_bytes
from largebatch.service.present.job_plan import narrowed_in_words
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


def test_memory_on_a_cluster_is_the_clusters_not_the_services_own() -> None:
    """No machine that a service runs on has the memory that is held here."""
    own_gib = memory_bytes() / GIB
    assert own_gib < 6000.0
    assert Settings.read(cpus=8.0, gpus=0).memory_gib == pytest.approx(0.8 * own_gib)
    cluster = Settings.read(cpus=1.0, gpus=0, ray_address="http://head:8265")
    assert run(cluster, workers="100000").memory_gib == 150_000.0
    for settings in (cluster, Settings.read(cpus=1.0, gpus=0, ray_address="http://head:8265", memory_gib=2.0)):
        with pytest.raises(InputError, match=r"memory_gib: 49 for all of its 100 processes is less than 0\.5 for each"):
            run(settings, workers="100", memory_gib=49.0)
    for wide in (sweep(cluster, {"max_concurrent": 4000}), sweep(cluster, cpus=4000.0)):
        assert (wide.cpus, wide.memory_gib, wide.spec["resources"]["max_concurrent"]) == (4000.0, 6000.0, 4000)
        assert narrowed_in_words(wide, None) == []
    narrow = sweep(cluster, cpus=8.0, memory_gib=1.0)
    assert narrow.spec["resources"]["max_concurrent"] == 2
    assert narrowed_in_words(narrow, None)[0].how.startswith(
        "enough for 2 at a time, where 8 would fit otherwise: 1 GiB, 0.5 for each of its processes"
    )


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ({}, "enough for 1 at a time, where 8 would fit otherwise: 1.5 GiB, 1.5 for its one process; where a run takes less, say how much"),
        ({"workers": 2}, "enough for 1 at a time, where 4 would fit otherwise: 2.4 GiB, 1.2 for each of its processes"),
        ({"max_concurrent": 3}, "enough for 1 at a time, where 3 would fit otherwise"),
        ({"max_concurrent": 1}, None),
        ({"cpus_per_worker": 8.0}, None),
    ],
)
def test_a_sweep_that_memory_narrows_says_so(resources: dict[str, Any], told: str | None) -> None:
    lines = narrowed_in_words(sweep(Settings.read(cpus=8.0, gpus=0, memory_gib=2.4), resources), resources.get("max_concurrent"))
    assert [line.what for line in lines] == ["memory"] * (told is not None)
    assert all(line.how.startswith(told or "") for line in lines)


class Two(RayBackend):
    """A cluster of two machines."""

    each = Capacity(4.0, 1, 8.0)

    def machines(self) -> list[Machine]:
        return [Machine("one", self.each), Machine("two", self.each)]


def test_jobs_on_a_cluster_hold_what_its_machines_have_or_what_the_operator_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def there(most_memory_gib: float) -> Capacity:
        return Two("http://head:8265", Path("runs"), Path("data"), "python", most_memory_gib=most_memory_gib).capacity()

    assert there(Settings.read(cpus=1.0, gpus=0, ray_address="http://head:8265").memory_gib) == Capacity(8.0, 2, 16.0)
    assert there(10.0) == Capacity(8.0, 2, 10.0)
    monkeypatch.setattr(Two, "each", Capacity(4.0, 1, 0.0))
    assert there(math.inf) == Capacity(8.0, 2, math.inf), "Ray counts none"


def test_more_runs_while_a_sweep_searches_are_held_too() -> None:
    wide = sweep(CLUSTER, {"max_concurrent": 1, "max_searching": 100}, cpus=4.0)
    assert (wide.spec["resources"]["max_searching"], wide.memory_gib) == (4, 6.0)


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
