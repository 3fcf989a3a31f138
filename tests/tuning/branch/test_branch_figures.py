"""The figures and the words of branches, from a made answer: what is open is an arrow, units are the task's, the schedule steps where it may."""

from pathlib import Path

import numpy as np
import pytest

from largebatch.tuning.branch.answer import BranchAnswer, Place, in_words, schedule_in_words
from largebatch.tuning.branch.critical import BranchedBatch, critical_batch
from largebatch.tuning.branch.figures import branch_charts
from largebatch.tuning.branch.schedule import BatchSchedule
from largebatch.tuning.report.picture_pen import write_png
from largebatch.tuning.results.unit import Unit


def critical(*excess: float) -> BranchedBatch:
    base = np.array([0.9, 1.0, 1.1])
    return critical_batch(np.stack([base, *(base + value for value in excess)], axis=1), (1, 2, 4), 8, tolerance=0.1)


def answer(tokens_per_sample: int | None = None) -> BranchAnswer:
    """Critical batches of 8 + 8 / 2 = 12, and above all 32 that were tried; the batch doubles twice with the second."""
    places = [
        Place(step=10, samples_seen=80, critical=critical(0.2, 0.4), noise_scale=7.0),
        Place(step=20, samples_seen=160, critical=critical(0.0, 0.01), noise_scale=None),
    ]
    schedule = BatchSchedule(growth=[(1.6, 4)], places=[160], rate_follows="sqrt", num_steps=60, num_constant_steps=100, num_more_samples=0)
    return BranchAnswer(
        run="made", optimizer="adamw", global_batch_size=8, tokens_per_sample=tokens_per_sample, evaluated_on="validation", rate_power=0.5,
        num_samples=64, num_left=0, places=places, schedule=schedule, words=[], rows=[],
    )  # fmt: skip


@pytest.mark.parametrize(("tokens", "per_sample"), [(None, 1), (128, 128)])
def test_the_critical_batch_along_the_run(tokens: int | None, per_sample: int, tmp_path: Path) -> None:
    along, losses = branch_charts(answer(tokens))
    measured, noise, schedule = along.series
    assert list(measured.x) == [80 * per_sample, 160 * per_sample]
    assert list(measured.y) == pytest.approx([12 * per_sample, 32 * per_sample])
    assert measured.open_ends == [(160 * per_sample, 32 * per_sample, 1)]
    assert (list(noise.x), list(noise.y)) == ([80 * per_sample], [7 * per_sample]), "what was not measured is not drawn"
    assert list(schedule.y) == [8 * per_sample, 8 * per_sample, 32 * per_sample]
    assert along.y_title == ("samples" if tokens is None else "tokens")
    assert "validation loss" in along.caption
    assert [list(line.y) for line in losses.series] == [pytest.approx([2.0, 4.0]), pytest.approx([0.0, 0.1])]
    assert list(losses.series[0].x) == [16 * per_sample, 32 * per_sample]
    for chart in (along, losses):
        write_png(chart, tmp_path / f"{chart.name}.png")


def test_noise_in_the_optimizers_own_norm_is_another_line(tmp_path: Path) -> None:
    places = [place.model_copy(update={"dual_noise_scale": scale}) for place, scale in zip(answer().places, (5.0, 40.0), strict=True)]
    along, _ = branch_charts(answer().model_copy(update={"places": places}))
    lines = {line.name: (list(line.x), list(line.y)) for line in along.series}
    assert lines["noise scale"] == ([80], [7])
    assert lines["dual noise scale"] == ([80, 160], [5, 40])
    write_png(along, tmp_path / "along.png")


def test_there_is_no_figure_of_nothing() -> None:
    assert branch_charts(answer().model_copy(update={"places": []})) == []


def test_in_words() -> None:
    assert in_words(critical(0.0, 0.01), Unit()).startswith("above 32 (at least ")
    exact = critical(0.2, 0.4).model_copy(update={"low": 10.0, "high": 14.0})
    assert in_words(exact, Unit("tokens", 10)) == "120 (100 ... 140)"
    assert in_words(exact.model_copy(update={"high": None}), Unit()) == "12 (10 ... more)"


@pytest.mark.parametrize(("low", "is_carried"), [(31.0, False), (32.0, True)])
def test_a_schedule_that_the_interval_does_not_carry_says_so(low: float, is_carried: bool) -> None:
    """It grows to 32 after 160 samples; what was measured before that says nothing against it."""
    first, last = answer().places
    places = [first, last.model_copy(update={"critical": last.critical.model_copy(update={"low": low})})]
    told = schedule_in_words(answer().model_copy(update={"places": places}), Unit())
    assert told.startswith("A batch of 32 from epoch 1.6 takes 60 steps in place of 100, 40% fewer.")
    assert (
        told.endswith("But the interval of the critical batch reaches below it, so that it may lose: train both with several seeds.")
        is not is_carried
    )
