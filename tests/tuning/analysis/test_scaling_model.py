"""The scaling model against published records, and against what must hold for any."""

import pytest

from largebatch.tuning.results.analysis.critical_batch import fit_critical_batch
from largebatch.tuning.results.analysis.scaling_model import Link, all_reduce_seconds, scale_out, step_seconds
from largebatch.tuning.results.analysis.step_time import StepTimeModel, fit_step_time

IMAGENET = 1_281_167
GRADIENT_BYTES = 25.6e6 * 2  # ResNet-50's in half precision
NVLINK = Link(200e9, 5e-6)
MLPERF = [
    (1632, 35.0), (3264, 35.2), (4096, 40.0), (8192, 42.0), (13056, 45.4), (32768, 56.0), (49152, 68.0), (58880, 79.9), (65536, 84.5),
    (67840, 85.86),
]  # fmt: skip
# MLPerf Training, ResNet-50, H100: accelerators, batch, epochs, minutes.
RECORDS = {8: (3200, 35, 13.27), 64: (3200, 35, 2.505), 2528: (40448, 68, 0.228), 3584: (57344, 77, 0.183)}


def h100() -> StepTimeModel:
    """From the two small records alone: 400 and 50 images an accelerator."""
    shares, seconds = [], []
    for accelerators in (8, 64):
        batch, epochs, minutes = RECORDS[accelerators]
        shares.append(batch // accelerators)
        seconds.append(minutes * 60 / (epochs * IMAGENET / batch))
    return fit_step_time(shares, seconds)


# How far the model is off; docs/sweeps.md states the same. The two large ones are predicted from the two small ones and the reference points.
ERRORS = {8: 0.061, 64: 0.072, 2528: -0.044, 3584: 0.003}


@pytest.mark.parametrize("accelerators", list(RECORDS))
def test_published_records_with_the_error_that_is_stated(accelerators: int) -> None:
    critical = fit_critical_batch([batch for batch, _ in MLPERF], [epochs * IMAGENET for _, epochs in MLPERF])
    assert critical is not None
    batch, _, minutes = RECORDS[accelerators]
    predicted = critical.steps_to_target(batch) * step_seconds(batch, accelerators, h100(), GRADIENT_BYTES, NVLINK) / 60
    assert predicted / minutes - 1 == pytest.approx(ERRORS[accelerators], abs=0.002)
    assert predicted == pytest.approx(minutes, rel=0.08)


def test_a_link_of_no_cost_and_one_worker() -> None:
    model = StepTimeModel(0.01, 1000.0)
    assert step_seconds(100, 1, model, 1e9, Link(1.0, 1.0)) == pytest.approx(0.11), "one worker sends nothing"
    assert step_seconds(100, 10, model, 1e6, Link(1e15, 0.0)) == pytest.approx(0.02)
    assert all_reduce_seconds(2, 1e9, Link(1e9, 0.0)) == pytest.approx(1.0)


def test_what_is_sent_hides_behind_the_backward_pass_but_for_its_last_bucket() -> None:
    model = StepTimeModel(0.0, 1.0)
    link = Link(2 * 0.5 * 8.0, 0.0)  # two workers: bytes / 8 seconds
    assert step_seconds(30, 2, model, 40.0, link) == pytest.approx(15 + 5 / 4)  # 5 s of travel beside 10 s of backward
    assert step_seconds(3, 2, model, 40.0, link) == pytest.approx(1.5 + 5 - 1)


def test_more_workers_are_never_slower_at_their_best_batch_and_cost_more() -> None:
    critical = fit_critical_batch([batch for batch, _ in MLPERF], [epochs * IMAGENET for _, epochs in MLPERF])
    assert critical is not None
    batches = [2**power for power in range(6, 17)]
    found = scale_out([1, 8, 64, 512], batches, h100(), critical, GRADIENT_BYTES, NVLINK, largest_share=400)
    assert [one.num_workers for one in found] == [1, 8, 64, 512]
    seconds, costs = [one.seconds for one in found], [one.worker_seconds for one in found]
    assert seconds == sorted(seconds, reverse=True)
    assert costs == sorted(costs)
    assert found[0].speedup == 1
    assert all(one.global_batch_size <= 400 * one.num_workers for one in found)
    assert all(one.efficiency == pytest.approx(one.speedup / one.num_workers) for one in found)


def test_step_times_are_fitted_in_relative_error() -> None:
    planted = StepTimeModel(0.004, 5000.0)
    batches = [1, 16, 256, 4096, 60000]
    found = fit_step_time(batches, [planted.seconds_per_step(batch) for batch in batches])
    assert found.overhead_s == pytest.approx(0.004, rel=1e-6)
    assert found.samples_per_second == pytest.approx(5000.0, rel=1e-6)
    assert found.flat_until == pytest.approx(20.0, rel=1e-6)
