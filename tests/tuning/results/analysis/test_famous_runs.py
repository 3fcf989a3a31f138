"""The scaling model against the famous runs of ResNet-50 on P100s and V100s; docs/results/famous-runs.md states the same figures.

Links are published speeds: PCIe 3 x16 (15.75 GB/s) and, for each machine of eight P100s, FDR InfiniBand (56 Gbit/s); NVLink 2 (50 GB/s for a pair of
V100s) and, for each machine of four, two of EDR InfiniBand (100 Gbit/s). Gradients travel in half precision, with nothing hidden.
"""

import pytest
from mlperf import IMAGENET, RESNET_GRADIENT, RESNET_POINTS

from largebatch.tuning.results.analysis.cluster import Cluster, Link
from largebatch.tuning.results.analysis.critical_batch import fit_critical_batch
from largebatch.tuning.results.analysis.scaling_model import Workload
from largebatch.tuning.results.analysis.step_time import StepTimeModel

HOP_S = 2e-6
CURVE = fit_critical_batch([batch for batch, _ in RESNET_POINTS], [epochs * IMAGENET for _, epochs in RESNET_POINTS])
ONE_P100 = 90 * IMAGENET / 3600 / 256 / 0.9
"""Images a second of a P100 alone: 256 of them take an hour for 90 epochs, 90 % efficient (Goyal et al., arXiv:1706.02677)."""
EIGHT_P100S = Cluster(Link(56e9 / 8 / 8, HOP_S), Link(15.75e9, HOP_S), 8)
FOUR_V100S = Cluster(Link(2 * 100e9 / 8 / 4, HOP_S), Link(50e9, HOP_S), 4)
YAMAZAKI_STEP_S = 74.7 * 81_920 / (90 * IMAGENET)
ONE_V100 = 40 / (YAMAZAKI_STEP_S - FOUR_V100S.all_reduce(2048, RESNET_GRADIENT).seconds)
"""Images a second of a V100, so that the run at 81,920 takes its 74.7 s."""
P100, V100 = (Workload(StepTimeModel(0.0, rate), RESNET_GRADIENT, joined) for rate, joined in ((ONE_P100, EIGHT_P100S), (ONE_V100, FOUR_V100S)))


def seconds(of: Workload, batch: int, workers: int, epochs: float) -> float:
    return epochs * IMAGENET / batch * of.step(batch, workers).seconds


def test_fifteen_minutes_come_out_from_another_groups_hour() -> None:
    assert pytest.approx(139.0, abs=0.1) == ONE_P100
    step = P100.step(32_768, 1024)
    assert [1e3 * part for part in step] == pytest.approx([230.2, 5.7, 14.6], abs=0.1)
    minutes = seconds(P100, 32_768, 1024, 90) / 60
    assert minutes == pytest.approx(14.7, abs=0.05)
    assert abs(minutes / 15 - 1) < 0.03


def test_the_run_that_grows_took_three_times_what_its_machines_did_four_months_later() -> None:
    assert pytest.approx(844, abs=1) == ONE_V100
    grown = seconds(V100, 34_816, 2176, 30) + seconds(V100, 69_632, 2176, 60)
    assert grown == pytest.approx(75, abs=0.5)
    assert 224 / grown == pytest.approx(3.0, abs=0.05)


@pytest.mark.parametrize(
    ("of", "workers", "batch", "best", "at_best_s", "at_batch_s"),
    [(P100, 1024, 32_768, 11 * 1024, 486, 575), (V100, 2048, 81_920, 10 * 2048, 55, 79)],
    ids=["1,024 P100", "2,048 V100"],
)
def test_smaller_batches_would_reach_mlperfs_target_sooner(
    of: Workload, workers: int, batch: int, best: int, at_best_s: float, at_batch_s: float
) -> None:
    """Where a small share keeps a GPU as busy as a large one, which these figures cannot tell; each GPU has as many images."""
    times = {size: CURVE.steps_to_target(size) * of.step(size, workers).seconds for size in range(workers, 100_000, workers)}
    soonest = min(times, key=times.__getitem__)
    assert soonest == best
    assert times[soonest] == pytest.approx(at_best_s, rel=0.02)
    assert CURVE.steps_to_target(batch) * of.step(batch, workers).seconds == pytest.approx(at_batch_s, rel=0.02)
