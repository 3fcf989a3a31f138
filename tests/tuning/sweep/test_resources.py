"""How many runs go at a time, and what each gets of the machines."""

from typing import Any

import pytest

from largebatch.jobs.errors import InputError
from largebatch.tuning.sweep.spec import ResourcesSpec
from largebatch.tuning.sweep.trials.resources import split_machines

FOUR_OF_FOUR = [{"CPU": 4.0}] * 4
WITH_GPUS = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}]


@pytest.mark.parametrize(
    ("machines", "resources", "device", "num_concurrent", "gpus", "run_device"),
    [
        (FOUR_OF_FOUR, {"cpus_per_worker": 4.0}, "auto", 4, 0.0, "cpu"),
        (FOUR_OF_FOUR, {"cpus_per_worker": 3.0, "workers": 2}, "cpu", 2, 0.0, "cpu"),
        (FOUR_OF_FOUR, {"cpus_per_worker": 0.5, "max_concurrent": 3}, "auto", 3, 0.0, "cpu"),
        (WITH_GPUS, {}, "auto", 3, 1.0, "auto"),
        (WITH_GPUS, {}, "cpu", 16, 0.0, "cpu"),
        (WITH_GPUS, {"gpus_per_worker": 0.5}, "cuda", 6, 0.5, "cuda"),
        (WITH_GPUS, {"gpus_per_worker": 0.0}, "auto", 16, 0.0, "cpu"),
        (WITH_GPUS, {"workers": 3}, "auto", 1, 1.0, "auto"),
    ],
)
def test_runs_at_a_time_are_what_machines_can_hold(
    machines: list[dict[str, float]], resources: dict[str, Any], device: str, num_concurrent: int, gpus: float, run_device: str
) -> None:
    shares = split_machines(machines, ResourcesSpec.model_validate(resources), device)
    assert (shares.num_concurrent, shares.gpus_per_worker, shares.device) == (num_concurrent, gpus, run_device)


@pytest.mark.parametrize(
    ("machines", "resources", "device", "words"),
    [
        (FOUR_OF_FOUR, {"cpus_per_worker": 8.0}, "auto", "a run needs 8 CPUs and 0 GPUs, a worker's on one machine, and there are 4 CPUs"),
        (FOUR_OF_FOUR, {}, "cuda", "each run gets no GPU of the 0"),
        (WITH_GPUS, {"gpus_per_worker": 2.0, "workers": 2}, "auto", "4 GPUs"),
    ],
)
def test_a_run_that_no_machine_can_hold_is_refused(machines: list[dict[str, float]], resources: dict[str, Any], device: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        split_machines(machines, ResourcesSpec.model_validate(resources), device)
