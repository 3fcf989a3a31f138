"""What is fitted is where a score crosses the target, not the evaluation that happened to see it."""

import math
from dataclasses import replace

import pytest
from made_runs import CRITICAL, MIN_SAMPLES, TARGET, made_run

from largebatch.tuning.results.analysis.critical_batch import fit_critical_batch
from largebatch.tuning.results.analysis.crossing import crossing
from largebatch.tuning.results.findings import find
from largebatch.tuning.results.run_result import Evaluation, RunResult

BATCHES = (64, 256, 1024, 4096)
EPOCH = 15_000
"""Samples between evaluations: three quarters of what the smallest batches take to the target."""


def seen_by_epochs(batch: int) -> RunResult:
    """A run whose score is on a straight line through the target at the planted sample, evaluated once an epoch, a whole number of steps."""
    needed = MIN_SAMPLES * (1 + batch / CRITICAL)
    interval = math.ceil(EPOCH / batch) * batch
    samples = [number * interval for number in range(1, math.ceil(needed / interval) + 1)]
    points = tuple(Evaluation(at // batch, at, at / 1000, TARGET * at / needed) for at in samples)
    return replace(made_run(batch), evaluations=points)


def test_a_planted_curve_comes_back_through_coarse_evaluations() -> None:
    runs = [seen_by_epochs(batch) for batch in BATCHES]
    found = find(runs, TARGET).critical_batch
    assert found is not None
    assert found.critical_batch_size == pytest.approx(CRITICAL, rel=0.01)
    assert found.min_samples == pytest.approx(MIN_SAMPLES, rel=0.01)
    seen = [met.samples for run in runs if (met := run.first_at(TARGET)) is not None]
    late = fit_critical_batch(BATCHES, seen)
    assert late is not None
    assert abs(late.min_samples / MIN_SAMPLES - 1) > 0.1, "else this test would pass without the crossing"


def test_what_a_run_reports_stays_the_evaluation_that_met_it() -> None:
    (choice,) = find([seen_by_epochs(256)], TARGET).choices
    run = seen_by_epochs(256)
    met = crossing(run, TARGET)
    assert met is not None
    assert (choice.samples, choice.seconds) == (met.at.samples, met.at.training_seconds)
    assert met.samples < choice.samples


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_the_line_is_read_whichever_way_is_better(better: str) -> None:
    sign = 1 if better == "higher" else -1
    points = (Evaluation(1, 100, 1.0, sign * 0.2), Evaluation(3, 300, 3.0, sign * 0.8))
    run = made_run(100)
    headline = run.summary.headline.model_copy(update={"name": "made", "better": better, "is_fraction": False})
    run = replace(run, evaluations=points, summary=run.summary.model_copy(update={"headline": headline}))
    met = crossing(run, sign * 0.5)
    assert met is not None
    assert (met.samples, met.interval) == (pytest.approx(200.0), 200)
