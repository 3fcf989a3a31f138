"""What a worker decides for itself, without a cluster."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import launch_runs as runs
import psutil
import pytest
import ray

from largebatch.jobs.errors import DataError, InputError, PlanError
from largebatch.jobs.launch.on_ray.worker.entry import interface_of
from largebatch.jobs.launch.on_ray.worker.heartbeat import RunGoneError
from largebatch.jobs.launch.on_ray.worker.work import ask_run, excuse, refuse_unplannable
from largebatch.jobs.launch.options import Workers
from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.spec.read import build_spec


class SomeRanks:
    """Ranks of which so many find the data missing, this one included if it does."""

    def __init__(self, world_size: int, others_lacking: int = 0) -> None:
        self.world_size, self._others_lacking = world_size, others_lacking

    def sum_numbers(self, *numbers: float) -> list[float]:
        return [numbers[0] + self._others_lacking]


def agreed_on(error: InputError) -> InputError:
    error.is_agreed = True
    return error


@pytest.mark.parametrize(
    ("workers", "is_here", "others_lacking", "error", "is_excused"),
    [
        (Workers(2, 2), True, 0, agreed_on(PlanError("model", "is wrong.")), False),
        (Workers(1, 4), True, 0, agreed_on(PlanError("model", "is wrong.")), False),
        (Workers(2, 2), False, 1, agreed_on(DataError("dataset", "no files.")), False),
        (Workers(2, 2), False, 0, agreed_on(DataError("dataset", "no files.")), True),
        (Workers(2, 2), True, 1, agreed_on(DataError("dataset", "no files.")), True),
        (Workers(1, 4), False, 1, agreed_on(DataError("dataset", "no files.")), True),
        (Workers(2, 2), True, 0, DataError("dataset", "sample 7 cannot be read."), False),
        (Workers(2, 2), True, 0, agreed_on(InputError("--output-dir", "s3://x cannot be used.")), True),
        (Workers(2, 2), True, 0, InputError("/runs/one", "another process is at work on this run (train)."), True),
    ],
    ids=["bad spec", "bad spec, elastic", "data gone everywhere", "data gone here", "data gone there", "another machine may have them",
         "a bad sample", "storage away", "an old worker"],
)  # fmt: skip
def test_what_passes_with_another_machine_or_moment_is_tried_again_and_bad_input_is_not(
    workers: Workers, is_here: bool, others_lacking: int, error: InputError, is_excused: bool
) -> None:
    def load() -> None:
        if not is_here:
            raise DataError("dataset", "no files.")

    ranks: Any = SomeRanks(2, others_lacking)
    config: Any = SimpleNamespace(workers=workers, run_dir=Path("/runs/one"))
    unfit = excuse(error, ranks, load, config, "this machine")
    assert (unfit is not None) is is_excused
    if unfit is not None:
        assert (unfit.problem, unfit.node_id) == (error.problem, None if is_here else "this machine")


def test_every_number_of_workers_is_planned_before_anything_starts() -> None:
    spec = build_spec(runs.document(batch_norm={"span": 125}, batch={"global_batch_size": 250, "micro_batch_size": 125}))
    plan = make_plan(spec, Facts(1437, True, 125, 1))
    refuse_unplannable(spec, plan, Workers(1, 2))
    with pytest.raises(PlanError, match=r"--workers 1:4 may come to 3: .* The largest number that works is 2\."):
        refuse_unplannable(spec, plan, Workers(1, 4))
    auto = build_spec(runs.document(batch_norm={"span": 25}, batch={"global_batch_size": 250, "micro_batch_size": "auto"}))
    refuse_unplannable(auto, make_plan(auto, Facts(1437, True, 250, 3)), Workers(1, 10))


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ray.exceptions.ActorDiedError(), RunGoneError),
     (ray.exceptions.ActorUnavailableError("no route", None), ray.exceptions.ActorUnavailableError),
     (ray.exceptions.GetTimeoutError(), ray.exceptions.GetTimeoutError)],
    ids=["dead", "out of reach", "silent"],
)  # fmt: skip
def test_a_run_is_gone_only_when_ray_knows_that_it_is(monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception]) -> None:
    """An actor that cannot be reached, or does not answer, may come back."""

    def get(answer: object, timeout: float) -> None:
        raise error

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(kind):
        ask_run(SimpleNamespace(ping=SimpleNamespace(remote=lambda: None)))


def test_what_a_worker_does_before_torch_is_loaded_does_not_load_it() -> None:
    """How OpenMP's threads wait is read once, when torch is loaded."""
    script = "import sys; import largebatch.jobs.launch.on_ray.worker.entry; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_the_interface_that_has_an_address() -> None:
    loopback = next(name for name, addresses in psutil.net_if_addrs().items() if any(entry.address == "127.0.0.1" for entry in addresses))
    assert interface_of("127.0.0.1") == loopback
    assert interface_of("203.0.113.7") is None
