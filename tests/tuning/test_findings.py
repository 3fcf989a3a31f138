"""From runs to the answer: planted curves come back, misses stay misses, what cannot be compared is not."""

import json

import pytest
from made_runs import CRITICAL, MIN_SAMPLES, RATE, STEP_S, TARGET, made_run

from jobs.errors import InputError
from jobs.records import Outcome
from tuning.analysis.configurations import best_of_each_batch, configurations
from tuning.analysis.prediction import compare, predict
from tuning.analysis.step_time import Profile, ProfilePoint
from tuning.figures import momentum_map
from tuning.findings import find

BATCHES = [32, 128, 512, 2048]
RUNS = [made_run(batch, seed, factor) for batch in BATCHES for seed, factor in ((0, 1.0), (1, 1.0), (2, 1.0), (0, 1.7))]


def test_the_planted_answer_comes_back() -> None:
    found = find(RUNS)
    assert found.target == TARGET
    assert [one.global_batch_size for one in found.best] == BATCHES
    assert all(one.first.learning_rate == 0.1 for one in found.best), "the better rate, which has three seeds"
    assert all(one.seconds.num_runs == 3 for one in found.best)
    assert found.critical_batch is not None
    assert found.critical_batch.critical_batch_size == pytest.approx(CRITICAL, rel=0.05)
    assert found.critical_batch.min_samples == pytest.approx(MIN_SAMPLES, rel=0.05)
    seconds = {batch: MIN_SAMPLES * (1 + batch / CRITICAL) / batch * (STEP_S + batch / RATE) for batch in BATCHES}
    answers = {answer.question: answer.choice for answer in found.advice}
    assert answers["soonest"] is not None
    assert answers["soonest"].global_batch_size == min(seconds, key=lambda batch: seconds[batch])
    assert answers["cheapest"] is not None
    assert answers["cheapest"].global_batch_size == 32
    assert found.noise_scale == 400.0
    words = " ".join(found.words())
    assert "Soonest: batch" in words
    assert "Critical batch size" in words
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_lucky_single_run_does_not_beat_three_seeds() -> None:
    runs = [*(made_run(128, seed, 1.0) for seed in range(3)), made_run(128, 0, 0.5)]
    (best,) = best_of_each_batch(configurations(runs, TARGET))
    assert len(best.runs) == 3
    map_of_them = momentum_map(find([*runs, made_run(128, momentum=0.0)]))
    assert map_of_them is not None
    assert map_of_them.heat is not None
    assert map_of_them.heat.values[1] == [best.seconds.median], "nor in its cell of the map"


def test_misses_are_misses() -> None:
    runs = [made_run(32, seed) for seed in range(3)] + [made_run(512, seed, reaches=seed == 0) for seed in range(3)]
    found = find(runs)
    assert [choice.global_batch_size for choice in found.choices] == [32]
    row = next(row for row in found.rows() if row["batch"] == "512")
    assert row["s to target"] == "missed (1 of 3 reached)"
    assert any("at least three batch sizes" in line for line in found.words())


def test_nothing_reached_is_a_result() -> None:
    found = find([made_run(batch, reaches=False) for batch in BATCHES])
    assert found.choices == []
    assert found.critical_batch is None
    assert any("No batch size reached the target" in line for line in found.words())


def test_other_models_and_devices_are_named_and_left_out() -> None:
    found = find([*RUNS, made_run(64, device="H200"), made_run(64, model="lenet"), made_run(64, device="H200", seed=1)])
    assert len(found.runs) == len(RUNS)
    assert sum(found.other_settings.values()) == 3
    assert any("Left out: 2 runs of mlp on made, H200" in line for line in found.words())


def test_no_target_given_is_what_every_batch_reached() -> None:
    runs = [made_run(batch) for batch in BATCHES]
    bare = [run.__class__(**{**run.__dict__, "summary": run.summary.model_copy(update={"target_accuracy": None})}) for run in runs]
    found = find(bare)
    assert found.target == pytest.approx(0.91)
    assert found.target_is_chosen
    assert "none was given" in found.what_is_sought


def test_runs_that_were_ended_early_are_said_and_left_out() -> None:
    early = made_run(64)
    early = early.__class__(**{**early.__dict__, "summary": early.summary.model_copy(update={"outcome": Outcome.STOPPED})})
    found = find([*RUNS, early])
    assert [one.global_batch_size for one in found.best] == BATCHES
    assert any("1 runs that were ended early" in line for line in found.words())
    with pytest.raises(InputError, match="no run that has ended"):
        find([early])


def test_no_runs() -> None:
    with pytest.raises(InputError, match="no run that has ended"):
        find([])


def profile() -> Profile:
    points = [
        ProfilePoint(
            global_batch_size=batch, micro_batch_size=batch, seconds_per_step=STEP_S + batch / RATE, seconds_per_epoch=1.0, samples_per_second=1.0,
            peak_memory_bytes=1, num_steps=5,
        )
        for batch in (1, 16, 256, 4096)
    ]  # fmt: skip
    return Profile(recipe="made", device="cpu (test)", num_train_samples=4096, gradient_bytes=4000, points=points, left_out={})


def test_a_prediction_from_one_run_is_exact_where_the_noise_scale_is_the_critical_batch() -> None:
    run = made_run(128)
    run = run.__class__(**{**run.__dict__, "summary": run.summary.model_copy(update={"gradient_noise_scale": CRITICAL})})
    predicted = predict(run, profile(), TARGET, BATCHES)
    measured = {one.global_batch_size: one.seconds.median for one in find(RUNS).best if one.seconds.median is not None}
    misses = compare(predicted, measured)
    assert [miss.global_batch_size for miss in misses] == BATCHES
    # Steps are whole, which a batch of 2,048 with 49 of them feels.
    assert all(abs(miss.error) < 0.02 for miss in misses)
    assert [one.learning_rate for one in predicted] == pytest.approx([0.1 / 4, 0.1, 0.1 * CRITICAL / 128, 0.1 * CRITICAL / 128])


def test_a_prediction_goes_at_the_pace_of_its_run() -> None:
    run = made_run(128)
    slower = run.__class__(
        **{**run.__dict__, "evaluations": tuple(at._replace(training_seconds=1.5 * at.training_seconds) for at in run.evaluations)}
    )
    as_profiled, at_pace = (predict(one, profile(), TARGET, BATCHES) for one in (run, slower))
    assert [one.seconds for one in at_pace] == pytest.approx([1.5 * one.seconds for one in as_profiled])


def test_a_run_that_reached_nothing_predicts_nothing() -> None:
    with pytest.raises(InputError, match=r"did not reach 0\.9"):
        predict(made_run(128, reaches=False), profile(), TARGET, BATCHES)
