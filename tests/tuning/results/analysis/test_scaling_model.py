"""The scaling model: one link and machines, restated; what limits a number of workers; memory, start-up, evaluation, and what was measured."""

import math
from dataclasses import replace

import pytest
from made_runs import TARGET, made_profile, made_run
from mlperf import DGX_H100, IMAGENET, RESNET_GRADIENT, RESNET_POINTS

from largebatch.jobs.errors import InputError
from largebatch.tuning.results.analysis.beside import Beside, beside_runs
from largebatch.tuning.results.analysis.cluster import Cluster, Link
from largebatch.tuning.results.analysis.critical_batch import fit_critical_batch
from largebatch.tuning.results.analysis.scaling_model import BUCKETS_OVERLAP, Measured, Workload, largest_share, scale_out
from largebatch.tuning.results.analysis.step_time import Profile, ProfilePoint, StepTimeModel, fit_step_time
from largebatch.tuning.results.answers import CriticalBatch
from largebatch.tuning.results.run_result import RunResult

CURVE = fit_critical_batch([batch for batch, _ in RESNET_POINTS], [epochs * IMAGENET for _, epochs in RESNET_POINTS])
FREE = Cluster(Link(1e30, 0.0))
H100 = StepTimeModel(0.0031, 7610.0)


def curve(critical: float, min_samples: float) -> CriticalBatch:
    return CriticalBatch(
        critical_batch_size=critical, low=critical, high=critical, min_steps=min_samples / critical, min_samples=min_samples, error=0.0, num_points=3
    )


def one_link(model: StepTimeModel, num_bytes: float, link: Link) -> Workload:
    return Workload(model, num_bytes, Cluster(link), BUCKETS_OVERLAP)


def test_a_link_of_no_cost_and_one_worker() -> None:
    model = StepTimeModel(0.01, 1000.0)
    assert one_link(model, 1e9, Link(1.0, 1.0)).step(100, 1).seconds == pytest.approx(0.11), "one worker sends nothing"
    assert one_link(model, 1e6, Link(1e15, 0.0)).step(100, 10).seconds == pytest.approx(0.02)
    assert Cluster(Link(1e9, 0.0)).all_reduce(2, 1e9).seconds == pytest.approx(1.0)


def test_what_is_sent_hides_behind_the_backward_pass_but_for_its_last_bucket() -> None:
    of = one_link(StepTimeModel(0.0, 1.0), 40.0, Link(2 * 0.5 * 8.0, 0.0))  # two workers: bytes / 8 seconds
    assert of.step(30, 2).seconds == pytest.approx(15 + 5 / 4)  # 5 s of travel beside 10 s of backward
    assert of.step(4, 2).seconds == pytest.approx(2 + 5 - 4 / 3)
    assert of._replace(overlap=0.0).step(30, 2).seconds == pytest.approx(15 + 5), "nothing hides"
    assert of._replace(overlap=1.0).step(30, 2).seconds == pytest.approx(15), "all of it hides"
    assert of._replace(overlap=1.0).step(4, 2).seconds == pytest.approx(2 + 5 - 4 / 3), "no longer than the backward pass"


@pytest.mark.parametrize(("batch", "num_workers", "share"), [(3, 2, 2), (64, 48, 2), (96, 48, 2), (97, 48, 3), (5, 5, 1)])
def test_a_step_waits_for_the_worker_that_has_most_of_it(batch: int, num_workers: int, share: int) -> None:
    """Samples are dealt out one by one: somebody has one more than others where they do not divide by the workers."""
    dealt = [0] * num_workers
    for sample in range(batch):
        dealt[sample % num_workers] += 1
    assert max(dealt) == share
    of = Workload(StepTimeModel(0.5, 10.0), 1.0, FREE, largest_share=2)
    passes = -(-share // 2)
    assert of.step(batch, num_workers).seconds == pytest.approx(0.5 * passes + share / 10)
    (scaled,) = scale_out([num_workers], [batch], curve(100.0, 1e4), of, Measured(shares=(share / passes, share / passes)))
    assert (scaled.passes, scaled.beyond) == (passes, [])


@pytest.mark.parametrize(
    ("num_workers", "seconds"), [(2, 0.1 + 2e-3), (64, 2 * 63 / 64 * 0.1 + 12e-3), (100, 2 * 0.99 * 0.1 + 2 * math.log2(100) * 1e-3)]
)
def test_one_link_for_all(num_workers: int, seconds: float) -> None:
    travel = Cluster(Link(1e9, 1e-3)).all_reduce(num_workers, 1e8)
    assert travel == pytest.approx((0.0, seconds))


def rounds_of_a_ring(members: int, num_bytes: float, link: Link) -> float:
    """Reduce-scatter and all-gather, round by round: each member passes on one of as many parts as there are members."""
    return sum(num_bytes / members / link.bytes_per_s + link.latency_s for _ in range(2 * (members - 1)))


def rounds_of_a_tree(members: int, num_bytes: float, link: Link) -> float:
    """Up and down two trees, half of the bytes in each, which share every link's two ways: all bytes pass once each way, a hop for each level."""
    levels = 0
    while 2**levels < members:
        levels += 1
    return sum(num_bytes / link.bytes_per_s + levels * link.latency_s for _ in ("up", "down"))


@pytest.mark.parametrize("num_machines", [1, 2, 4, 32, 512])
@pytest.mark.parametrize("num_bytes", [1e3, 5e7, 7e8])
def test_machines_reduce_inside_between_and_gather_inside(num_machines: int, num_bytes: float) -> None:
    travel = DGX_H100.all_reduce(8 * num_machines, num_bytes)
    assert travel.inside_s == pytest.approx(rounds_of_a_ring(8, num_bytes, Link(450e9, 1.9e-6)))
    if num_machines == 1:
        assert travel.between_s == 0
        return
    ways = [rounds(num_machines, num_bytes / 8, Link(50e9, 8.5e-6)) for rounds in (rounds_of_a_ring, rounds_of_a_tree)]
    assert travel.between_s == pytest.approx(min(ways))
    assert (ways[0] < ways[1]) == (num_machines == 2 or (num_machines == 4 and num_bytes > 1e7)), "few machines: a ring; many: a tree"


def test_a_machine_that_is_not_full_and_machines_of_one() -> None:
    assert DGX_H100.all_reduce(4, 1e8) == pytest.approx((rounds_of_a_ring(4, 1e8, Link(450e9, 1.9e-6)), 0.0))
    assert Cluster(Link(1e9, 0.0), None, 1).all_reduce(4, 1e9) == pytest.approx((0.0, 1.5))


def test_the_parts_are_the_whole() -> None:
    of = Workload(H100, RESNET_GRADIENT, DGX_H100, beside=Beside(5.0, 3.0, 4 * IMAGENET))
    for point in scale_out([1, 8, 64, 512], [2**power for power in range(17)], CURVE, of):
        parts = (point.compute_s, point.link_inside_s, point.link_between_s, point.evaluation_s, point.startup_s)
        assert point.seconds == pytest.approx(sum(parts))
        assert point.startup_s == 5.0
        assert point.evaluation_s == pytest.approx(point.samples / (4 * IMAGENET) * max(3.0 / point.num_workers, 0.0031))
        assert point.compute_s == pytest.approx(point.steps * (0.0031 + point.global_batch_size / point.num_workers / 7610))


def test_more_workers_are_never_slower_at_their_best_batch_and_cost_more() -> None:
    found = scale_out([1, 8, 64, 512], [2**power for power in range(6, 17)], CURVE, Workload(H100, RESNET_GRADIENT, DGX_H100))
    assert [one.num_workers for one in found] == [1, 8, 64, 512]
    seconds, costs = [one.seconds for one in found], [one.worker_seconds for one in found]
    assert seconds == sorted(seconds, reverse=True)
    assert costs == sorted(costs)
    assert found[0].speedup == 1
    assert all(one.efficiency == pytest.approx(one.speedup / one.num_workers) for one in found)


MODEL = StepTimeModel(0.001, 1000.0)


@pytest.mark.parametrize(
    ("limit", "workload", "batch", "num_workers"),
    [
        ("compute", Workload(MODEL, 1.0, FREE), 64, 4),
        ("critical batch", Workload(MODEL, 1.0, FREE), 4096, 4),
        ("link between", Workload(MODEL, 1e9, Cluster(Link(1e9, 0.0))), 64, 4),
        ("link inside", Workload(MODEL, 1e9, Cluster(Link(1e12, 0.0), Link(1e9, 0.0), 2)), 64, 4),
        ("memory", Workload(StepTimeModel(0.1, 1000.0), 1.0, FREE, largest_share=2), 64, 4),
        ("evaluation", Workload(MODEL, 1.0, FREE, beside=Beside(0.0, 1e4, 1e5)), 64, 4),
        ("start-up", Workload(MODEL, 1.0, FREE, beside=Beside(1e4)), 64, 4),
    ],
)
def test_what_limits(limit: str, workload: Workload, batch: int, num_workers: int) -> None:
    (point,) = scale_out([num_workers], [batch], curve(1000.0, 1e5), workload)
    assert point.limited_by == limit


def test_a_share_that_does_not_fit_is_taken_in_passes_that_each_cost_what_a_step_does() -> None:
    of = Workload(StepTimeModel(0.1, 10.0), 8.0, Cluster(Link(1.0, 0.0)), overlap=1.0, largest_share=4)
    assert of.passes(16, 2) == 2
    assert of.passes(18, 2) == 3
    # Two workers, 8 s of travel, 0.8 s of arithmetic in 2 passes: the last pass' backward hides 2/3 of half of it.
    assert of.step(16, 2).seconds == pytest.approx(2 * 0.1 + 0.8 + 8 - 2 / 3 * 0.4)
    (point,) = scale_out([2], [16], curve(100.0, 1e4), of)
    assert point.passes == 2
    costly = of._replace(model=StepTimeModel(1.0, 10.0))
    bound, free = (scale_out([1], [1, 2, 4, 8, 16, 32, 64], curve(100.0, 1e4), costly._replace(largest_share=share))[0] for share in (4, None))
    assert (bound.limited_by, bound.global_batch_size, free.global_batch_size) == ("memory", 4, 32)


def test_what_lies_beyond_the_measurements_is_said() -> None:
    measured = Measured(batches=(32, 512), shares=(4, 256))
    of = Workload(MODEL, 1.0, FREE)
    says = [
        scale_out([workers], [batch], curve(1000.0, 1e5), of, measured)[0].beyond
        for workers, batch in ((1, 32), (2, 512), (1, 512), (4, 1024), (512, 512), (1, 16), (1, 1024))
    ]
    assert says == [[], [], ["profile"], ["runs"], ["profile"], ["runs"], ["runs", "profile"]]
    assert scale_out([1], [1024], curve(1000.0, 1e5), of)[0].beyond == []
    assert scale_out([1], [512], curve(1000.0, 1e5), of._replace(largest_share=256), measured)[0].beyond == [], "two passes of what was timed"


def gpu_profile(*points: tuple[int, float]) -> Profile:
    gib = [
        ProfilePoint(
            global_batch_size=micro, micro_batch_size=micro, seconds_per_step=1.0, seconds_per_epoch=1.0, samples_per_second=1.0,
            peak_memory_bytes=round(peak * 2**30), num_steps=2,
        )
        for micro, peak in points
    ]  # fmt: skip
    return made_profile().model_copy(update={"device": "H200", "points": gib})


def test_memory_bounds_a_share_by_what_was_measured() -> None:
    assert largest_share(gpu_profile((1, 2.5), (8, 6.0), (16, 10.0)), 20.3 * 2**30) == 36, "2 GiB and 0.5 for each sample"
    assert largest_share(gpu_profile((1, 4.0), (8, 4.0)), 5 * 2**30) == 8, "no sample costs any: as far as was measured"
    for profile, words in (
        (made_profile(), "--memory: needs a GPU's profile"),
        (gpu_profile((8, 4.0)), "--memory: needs a profile of at least two micro-batch sizes"),
        (gpu_profile((1, 2.5), (8, 6.0)), "--memory: 2 GiB hold not even one sample, which takes 2.5 GiB"),
    ):
        with pytest.raises(InputError, match=words):
            largest_share(profile, 2 * 2**30)


def test_start_up_and_evaluation_as_runs_had_them() -> None:
    def run(seed: int, wall: float, evaluated: tuple[float, ...] | None, world_size: int = 1) -> RunResult:
        made = made_run(100, seed)
        summary = made.summary.model_copy(
            update={"wall_seconds": wall, "training_seconds": 10.0, "evaluation_seconds": 3.0, "world_size": world_size}
        )
        times = evaluated or (None,) * len(made.evaluations)
        points = tuple(at._replace(evaluation_seconds=seconds) for at, seconds in zip(made.evaluations, times, strict=True))
        return replace(made, summary=summary, evaluations=points)

    samples = made_run(100).evaluations[-1].samples
    of_runs = beside_runs([run(0, 14.0, (0.5, 1.0)), run(1, 15.0, (0.5, 1.0), 2), run(2, 30.0, None)], TARGET)
    assert of_runs.startup_s == 2.0, "the median of 1, 2 and 17"
    assert of_runs.evaluation_s == pytest.approx(0.75), "half a second by one worker, half a second by two"
    assert of_runs.evaluate_every == samples / 2
    assert beside_runs([run(0, 14.0, None)], TARGET)[1:] == (0.0, math.inf)
    assert of_runs.evaluation_seconds(10 * samples, 3, 0.0) == pytest.approx(20 * 0.25)
    assert of_runs.evaluation_seconds(10 * samples, 1000, 0.01) == pytest.approx(20 * 0.01)


def test_step_times_are_fitted_in_relative_error() -> None:
    planted = StepTimeModel(0.004, 5000.0)
    batches = [1, 16, 256, 4096, 60000]
    found = fit_step_time(batches, [planted.seconds_per_step(batch) for batch in batches])
    assert found.overhead_s == pytest.approx(0.004, rel=1e-6)
    assert found.samples_per_second == pytest.approx(5000.0, rel=1e-6)
    assert found.flat_until == pytest.approx(20.0, rel=1e-6)
