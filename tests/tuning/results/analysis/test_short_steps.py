"""Predicted times where batches do not divide the training set, from planted step times: an epoch ends in a step of what is left."""

from dataclasses import replace

import pytest
from made_runs import made_profile, made_run

from largebatch.tuning.results.analysis.prediction import predict
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.run_result import Evaluation, RunResult

NUM_SAMPLES, OVERHEAD_S, RATE, EPOCHS = 1437, 0.002, 40_000.0, 10
CRITICAL, TARGET = 400.0, 0.9


def profile() -> Profile:
    points = [
        point.model_copy(update={"global_batch_size": batch, "seconds_per_step": step_s(batch)})
        for batch, point in zip((1, 16, 256, NUM_SAMPLES), made_profile().points, strict=True)
    ]
    return made_profile().model_copy(update={"num_train_samples": NUM_SAMPLES, "points": points})


def step_s(batch: int) -> float:
    return OVERHEAD_S + batch / RATE


def epoch_s(batch: int, *, drops: bool) -> float:
    """Every step of one pass, one by one; where the rest is dropped as much as a whole pass would take at that pace."""
    steps = [min(batch, NUM_SAMPLES - begin) for begin in range(0, NUM_SAMPLES, batch)]
    if drops:
        whole = [size for size in steps if size == batch]
        return sum(map(step_s, whole)) * NUM_SAMPLES / sum(whole)
    return sum(map(step_s, steps))


def reference(batch: int, *, drops: bool) -> RunResult:
    """A run that meets the target exactly at its last epoch's end, evaluated at the end of each."""
    per_epoch = NUM_SAMPLES // batch * batch if drops else NUM_SAMPLES
    steps, seconds = len(range(0, per_epoch, batch)), epoch_s(batch, drops=drops) * per_epoch / NUM_SAMPLES
    points = tuple(Evaluation(number * steps, number * per_epoch, number * seconds, TARGET * number / EPOCHS) for number in range(1, EPOCHS + 1))
    made = made_run(batch, settings=(("batch.last", "drop" if drops else "keep"),))
    return replace(made, evaluations=points, summary=made.summary.model_copy(update={"gradient_noise_scale": CRITICAL}))


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("batch", [1000, 256, 64])
def test_a_run_of_the_profiles_own_pace_is_predicted_to_the_second(batch: int, drops: bool) -> None:
    """At 1,000 of 1,437 samples it was 28 % too short: the run's steps, every second of which is short, stood beside the profile's whole ones."""
    run = reference(batch, drops=drops)
    met, interval = run.evaluations[-1].samples, run.evaluations[0].samples
    for predicted in predict(run, profile(), TARGET, [64, 256, 300, 1000]):
        other = predicted.global_batch_size
        samples = met * (1 + other / CRITICAL) / (1 + batch / CRITICAL) + max(interval, other) / 2
        assert predicted.samples == pytest.approx(samples)
        assert predicted.seconds == pytest.approx(samples / NUM_SAMPLES * epoch_s(other, drops=drops), rel=1e-9)
