"""The figures: a page that needs no network, and a picture."""

import errno
import itertools
import os
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from made_records import summary
from made_runs import made_profile, made_run

from largebatch.jobs.errors import StorageError
from largebatch.jobs.run.records import Outcome
from largebatch.tuning.measure.lines import line_conditions
from largebatch.tuning.report.batch_figures import frontiers, profile_charts, score_of_batch, steps_and_samples, time_on_workers, time_to_target
from largebatch.tuning.report.charts import ARROW, Chart, Series
from largebatch.tuning.report.labels import LINE, labels_of, tags_of
from largebatch.tuning.report.picture_pen import write_png
from largebatch.tuning.report.plotly_pen import to_plotly, write_page
from largebatch.tuning.report.run_figures import label, on_unlike_footing, score_curves
from largebatch.tuning.report.view import ticks, view_of
from largebatch.tuning.results.analysis.cluster import Cluster, Link
from largebatch.tuning.results.analysis.critical_batch import fit_critical_batch
from largebatch.tuning.results.analysis.scaling_model import Measured, Workload, scale_out
from largebatch.tuning.results.analysis.step_time import StepTimeModel
from largebatch.tuning.results.findings import find
from largebatch.tuning.results.run_result import Evaluation, RunResult
from largebatch.tuning.results.unit import SAMPLES


def result(name: str, curve: tuple[tuple[float, float], ...], target: float | None = None, device: str = "cpu") -> RunResult:
    points = tuple(Evaluation(step, 4096 * step, seconds, accuracy) for step, (seconds, accuracy) in enumerate(curve, start=1))
    made = summary(name, outcome=Outcome.COMPLETED, global_batch_size=4096, target=target)
    return RunResult(name, made, points, "mnist", "mlp", "lars", 0.9, 0.1, 3, device, ())


RESULTS = [result("first", ((1.0, 0.5), (2.0, 0.75)), target=0.7), result("second", ((1.0, 0.25),)), result("third", ())]


def test_words() -> None:
    assert label(RESULTS[0]) == "first: batch 4,096, lars, seed 3"
    assert score_curves(RESULTS).title == "Accuracy against training time, cpu"
    assert score_curves([*RESULTS, result("gpu", (), device="H200")]).title == "Accuracy against training time, cpu, H200"


def test_a_page_is_self_contained(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(score_curves(RESULTS), path)
    page = path.read_text()
    assert not re.search(r"<script[^>]*\ssrc\s*=", page)
    assert not re.search(r"<link[^>]*\shref\s*=\s*[\"']https?:", page)
    for one in RESULTS:
        assert label(one) in page
    assert "target 0.7" in page
    assert page.count("target 0.7") < 3  # one line for one target


def test_a_picture_is_one(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    write_png(score_curves(RESULTS), path)
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == (1040, 624)  # 8 x 4.8 inches at 130 dots
    assert content.endswith(b"IEND\xaeB`\x82")


def test_a_full_disk_leaves_no_half_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        write_png(score_curves(RESULTS), tmp_path / "picture.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_runs", [1, 9])
def test_as_many_runs_as_wanted(tmp_path: Path, num_runs: int) -> None:
    """More runs than colours too."""
    runs = [result(f"run-{index}", ((1.0, 0.5),)) for index in range(num_runs)]
    write_png(score_curves(runs), tmp_path / "p.png")
    write_page(score_curves(runs), tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    assert all(label(run) in page for run in runs)


PARTLY = [
    *(made_run(32, seed) for seed in range(3)),
    *(made_run(128, seed, reaches=seed > 0) for seed in range(3)),
    *(made_run(512, seed, reaches=False) for seed in range(3)),
]


def test_an_open_end_is_an_arrow_and_said() -> None:
    chart = time_to_target(find(PARTLY))
    (measured, missed, _) = chart.series
    assert [(x, way) for x, _, way in measured.open_ends] == [(128, 1)]
    assert "an arrow: the interval is open there" in chart.caption
    (arrow,) = [note for note in to_plotly(chart).layout.annotations if note.showarrow]
    assert (arrow.ax, arrow.ay, arrow.arrowside) == (0, -ARROW, "start"), "its head is above the mark"
    assert (10**arrow.x, 10**arrow.y) == pytest.approx((128, measured.y[1]))
    assert missed.open_ends == []
    assert "an arrow" not in time_to_target(find(PARTLY[:3])).caption


def test_the_time_to_the_target_shows_the_frontier_and_the_critical_batch() -> None:
    found = find([made_run(batch, seed) for batch in (32, 128, 512, 2048) for seed in range(2)])
    chart = time_to_target(found)
    (standing,) = [series for series in chart.series if series.draws == "marks"]
    assert 1 < len(standing.x) < 4
    assert {*standing.x} == {choice.global_batch_size for choice in found.cost_frontier}
    assert chart.marks == [(found.critical_batch.critical_batch_size, "critical batch")]
    assert 128 < chart.marks[0][0] < 2048


def test_an_open_lower_end_points_down(tmp_path: Path) -> None:
    chart = Chart("x", "x", "x", "y", [Series("s", [1.0, 2.0], [3.0, float("nan")], [None, None], [4.0, None])])
    assert chart.series[0].open_ends == [(1.0, 3.0, -1)]
    (arrow,) = to_plotly(chart).layout.annotations
    assert arrow.ay == ARROW
    write_png(chart, tmp_path / "p.png")


def test_batches_that_missed_stand_apart_above_everything_that_was_reached(tmp_path: Path) -> None:
    """A miss has no cost: where its runs ended is said in words alone."""
    found = find(PARTLY)
    for chart in [time_to_target(found), *steps_and_samples(found)]:
        (missed,) = [series for series in chart.series if series.symbol == "x"]
        reached = [cost for line in chart.series if line.symbol != "x" for ends in (line.y, line.high or ()) for cost in ends if cost is not None]
        assert chart.apart is not None
        assert list(missed.x) == [512]
        assert max(reached) < chart.apart[0] < missed.y[0]
        assert missed.notes is not None
        assert "batch 512: missed (0 of 3 reached), ended after" in missed.notes[0]
        view = view_of(chart)
        assert view is not None
        assert max(view.y.ticks) < chart.apart[0], "no number stands beside a miss"
        drawn = to_plotly(chart)
        assert drawn.data[1].marker.symbol == "x"
        assert "missed the target" in [note.text for note in drawn.layout.annotations]
        write_png(chart, tmp_path / "p.png")
    _, cost = frontiers(found)
    assert "missed the target: batch 512, so not shown" in cost.caption
    alone = time_to_target(find(PARTLY[:3]))
    assert all(series.symbol == "circle" for series in alone.series)
    assert alone.apart is None


@pytest.mark.parametrize("low", [0.0021, 0.97, 1.0, 3.1, 47.0, 900.0])
@pytest.mark.parametrize("times", [1.0001, 1.06, 1.9, 4.0, 60.0, 1e4, 1e13])
@pytest.mark.parametrize("is_log", [True, False])
def test_every_axis_has_three_numbers_and_not_many_more_than_nine(low: float, times: float, is_log: bool) -> None:
    high = low * times
    shown = ticks(low, high, is_log=is_log)
    assert 3 <= len(shown) <= 13, shown
    assert low <= min(shown) < max(shown) <= high
    assert len({f"{tick:,.10g}" for tick in shown}) == len(shown)


def test_two_batches_stand_on_their_axis_with_round_numbers_beside() -> None:
    view = view_of(time_to_target(find([made_run(batch, seed) for batch in (32, 64) for seed in range(2)])))
    assert view is not None
    assert {32, 64} < {*view.x.ticks}


class TestLabels:
    """Series are named beside their ends."""

    def test_none_covers_another_and_all_stand_inside(self) -> None:
        lines = [Series(f"line {number} with a longer name", [1.0, 2.0], [1.0, 5.0 + number / 100]) for number in range(5)]
        chart = Chart("x", "x", "x", "y", [*lines, Series("far", [1.0], [1.0], draws="marks")])
        labels = labels_of(chart, view_of(chart))
        assert sorted(" ".join(label.lines) for label in labels) == sorted(line.name for line in chart.series)
        spans = [(label.height - len(label.lines) * LINE / 2, label.height + len(label.lines) * LINE / 2) for label in labels]
        assert all(upper <= lower + 1e-9 for (_, upper), (lower, _) in itertools.pairwise(spans))
        assert min(spans)[0] >= -1e-9
        assert max(spans)[1] <= 1 + 1e-9
        drawn = to_plotly(chart)
        assert not drawn.layout.showlegend
        assert sum(note.name == "label" for note in drawn.layout.annotations) == 6

    def test_more_than_there_is_room_for_take_a_legend(self) -> None:
        chart = Chart("x", "x", "x", "y", [Series(f"run {number}", [1.0, 2.0], [1.0, 2.0]) for number in range(30)])
        assert labels_of(chart, view_of(chart)) == []
        assert to_plotly(chart).layout.showlegend

    def test_no_tag_covers_another(self) -> None:
        """Five choices at nearly one place, and one far off."""
        x, y = [1.0, 1.001, 1.002, 1.003, 1.004, 9.0], [1.0, 1.001, 1.002, 1.003, 1.004, 9.0]
        chart = Chart("c", "", "x", "y", [Series("choices", x, y, draws="marks", tags=["128", "256", "512", "1,024", "2,048", "4,096"])])
        (tags,) = tags_of(chart, view_of(chart))
        assert [tag.text for tag in tags] == ["128", "256", "512", "1,024", "", "4,096"], "where there is no room there is none"
        assert len({tag.side for tag in tags[:4]}) == 4

    def test_one_series_needs_no_name(self) -> None:
        chart = Chart("x", "x", "x", "y", [Series("alone", [1.0], [1.0])])
        assert labels_of(chart, view_of(chart)) == []
        assert not to_plotly(chart).layout.showlegend


def test_runs_that_end_at_the_target_show_their_stopping_rule() -> None:
    assert "5 of these 9 runs ended when they met their target" in score_of_batch(find(PARTLY)).caption
    assert "ended when" not in score_of_batch(find(PARTLY[-3:])).caption


def test_every_caption_states_seeds_device_and_clock() -> None:
    seeded = made_profile().model_copy(update={"seed": 4})
    captions = [chart.caption for chart in profile_charts(seeded)]
    captions.append(line_conditions("mlp on digits, cpu (test)", [4, 7], 1437))
    for caption in captions:
        assert "seed 4" in caption or "seeds 4 and 7" in caption
        assert "cpu (test)" in caption
        assert "clock" in caption


def test_one_batch_size_has_no_fit() -> None:
    one = made_profile().model_copy(update={"points": made_profile().points[1:2]})
    update, epoch = profile_charts(one)
    assert [series.name for series in update.series] == ["measured"]
    assert (update.marks, epoch.marks) == ([], [])


def test_runs_that_differ_in_more_than_what_is_compared_say_so() -> None:
    one, other = made_run(32), made_run(128)
    longer = replace(other, settings=(*other.settings, ("stop.epochs", "9.0")))
    assert on_unlike_footing([one, other]) == ""
    assert on_unlike_footing([one, longer]) == "on one footing but for stop.epochs (9.0, not set)"
    assert "on one footing but for stop.epochs" in score_curves([one, longer]).caption


def test_runs_that_would_be_called_alike_have_the_ends_of_their_names() -> None:
    runs = [replace(RESULTS[0], summary=summary(f"first-20261201-21{end}")) for end in ("0404-5b8e", "0700-9d0d")]
    names = [series.name for series in score_curves([*runs, RESULTS[1]]).series]
    assert names == [*(f"{label(runs[0])} ({run.summary.run_id})" for run in runs), label(RESULTS[1])]
    assert [series.name for series in score_curves(runs).series] == [f"{label(runs[0])} (…{end})" for end in ("210404-5b8e", "210700-9d0d")]


def test_many_runs_are_one_line_for_each_batch(tmp_path: Path) -> None:
    runs = [made_run(batch, seed) for batch in (32, 512) for seed in range(7)]
    chart = score_curves(runs)
    assert [series.name for series in chart.series] == ["batch 32, 7 runs", "batch 512, 7 runs"]
    points = [(x, y) for x, y in zip(chart.series[1].x, chart.series[1].y, strict=True) if x == x]
    assert points == [point for run in runs[7:] for point in run.curve]
    assert len(chart.series[1].x) == len(points) + 7, "broken between runs"
    write_png(chart, tmp_path / "many.png")  # a warning of a figure that is too small would be an error here
    write_page(chart, tmp_path / "many.html")
    assert "batch 512, 7 runs" in (tmp_path / "many.html").read_text()
    assert "NaN" not in (tmp_path / "many.html").read_text().partition("const figures = ")[2].partition("\n")[0]


def test_time_on_workers_names_what_limits_each_and_what_was_not_measured() -> None:
    workload = Workload(StepTimeModel(0.001, 1000.0), 1e6, Cluster(Link(1e9, 0.0)), largest_share=64)
    critical = fit_critical_batch([32, 128, 512], [20_000 * (1 + batch / 500) for batch in (32, 128, 512)])
    points = scale_out([1, 8, 64, 72], [64, 256, 4096], critical, workload, Measured(batches=(32, 128)))
    chart = time_on_workers(points, SAMPLES, "made")
    assert {series.name for series in chart.series} == {
        "perfect scaling", "predicted, each at its best batch", "beyond what was measured", *(f"limited by {point.limited_by}" for point in points)
    }  # fmt: skip
    drawn = {series.name: series for series in chart.series}
    assert list(drawn["beyond what was measured"].x) == [point.num_workers for point in points if point.beyond]
    assert drawn["perfect scaling"].y == pytest.approx([points[0].seconds / workers for workers in (1, 8, 64, 72)])
    limited = sorted(workers for name, series in drawn.items() if name.startswith("limited by") for workers in series.x)
    assert limited == [1, 8, 64, 72]
    assert chart.x_ticks == [1, 8, 64], "72 would be printed over 64"
