"""What each worker gets of a cluster, and what is refused."""

from typing import Any

import pytest

from largebatch.jobs.errors import InputError
from largebatch.jobs.launch.on_ray.resources import Resources, worker_resources
from largebatch.jobs.launch.options import TrainOptions, Workers


def nodes(*machines: tuple[int, int]) -> list[dict[str, Any]]:
    """Machines by their CPUs and GPUs, as Ray lists them; one more has been lost."""
    lost = {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}}
    return [lost, *({"Alive": True, "Resources": {"CPU": float(cpus), "GPU": float(gpus)}} for cpus, gpus in machines)]


@pytest.mark.parametrize(
    ("machines", "options", "gets"),
    [([(8, 4), (8, 2)], TrainOptions(workers=Workers(4, 8), device="auto"), Resources(1.0, 1.0)),
     ([(8, 4)], TrainOptions(workers=Workers(4, 8), device="cuda"), Resources(1.0, 1.0)),
     ([(8, 3)], TrainOptions(workers=Workers(4, 8), device="auto"), Resources(1.0, 0.0)),
     ([(8, 4)], TrainOptions(workers=Workers(4, 8), device="cpu"), Resources(1.0, 0.0)),
     ([(4, 0), (4, 0)], TrainOptions(workers=Workers(2, 2), cpus_per_worker=3.0, device="auto"), Resources(3.0, 0.0)),
     ([(1, 0)], TrainOptions(workers=Workers(3, 3), cpus_per_worker=1 / 3, device="auto"), Resources(1 / 3, 0.0))],
)  # fmt: skip
def test_what_each_worker_gets(machines: list[tuple[int, int]], options: TrainOptions, gets: Resources) -> None:
    assert worker_resources(options, nodes(*machines), is_own=False) == gets


def test_a_ray_of_our_own_is_shared_out_whole() -> None:
    assert worker_resources(TrainOptions(workers=Workers(2, 2), device="cpu"), nodes((8, 0)), is_own=True) == Resources(4.0, 0.0)


@pytest.mark.parametrize(
    ("machines", "options", "words"),
    [([(4, 0), (4, 0)], TrainOptions(workers=Workers(1, 1), cpus_per_worker=6.0, device="cpu"), "room for 0: 4 CPUs and 0 GPUs, 4 CPUs and 0 GPUs"),
     ([(4, 0), (4, 0)], TrainOptions(workers=Workers(2, 9), cpus_per_worker=4.0, device="cpu"), None),
     ([(4, 0), (3, 0), (1, 0)], TrainOptions(workers=Workers(2, 2), cpus_per_worker=4.0, device="cpu"), "have room for 1"),
     ([(4, 2), (4, 2)], TrainOptions(workers=Workers(1, 1), gpus_per_worker=4.0, device="cuda"), "have room for 0"),
     ([(8, 3)], TrainOptions(workers=Workers(4, 8), device="cuda"), "4 workers with 1 GPUs|cuda for 4 workers")],
)  # fmt: skip
def test_a_worker_is_not_spread_over_machines(machines: list[tuple[int, int]], options: TrainOptions, words: str | None) -> None:
    if words is None:
        worker_resources(options, nodes(*machines), is_own=False)
        return
    with pytest.raises(InputError, match=words):
        worker_resources(options, nodes(*machines), is_own=False)
