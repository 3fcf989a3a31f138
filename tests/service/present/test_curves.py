"""A run's curves, thinned, against the journal read by plain means."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from made_records import evaluation, start, step

from largebatch.jobs.run.journal import Journal
from largebatch.jobs.run.records import NoticeRecord
from largebatch.jobs.run.run_folder import JOURNAL
from largebatch.service.present.curves import Thinned, read_series


@pytest.mark.parametrize("most", [2, 3, 10, 1000])
def test_what_is_kept_follows_from_the_number_alone(most: int) -> None:
    series: Thinned[int] = Thinned(most)
    for count in range(1, 5 * most + 7):
        series.add(count - 1)
        stride = next(2**n for n in range(40) if count - 1 <= 2**n * (most - 1))
        assert series.kept == sorted({*range(0, count, stride), count - 1})
        assert len(series.kept) <= most
    assert series.count == 5 * most + 6


def write_broken_run(folder: Path, draw: random.Random) -> list[tuple[int, float]]:
    """A run that is killed and resumed at random. Returns (workers, seconds) of each step that stands: what it took."""
    standing: list[tuple[int, float]] = []
    with Journal(folder) as journal:
        for _ in range(6):
            resumed = draw.randint(max(0, len(standing) - 30), len(standing))
            del standing[resumed:]
            workers, now = draw.randint(1, 4), sum(seconds for _, seconds in standing)
            journal.write(start(resumed, now, world_size=workers))
            for _ in range(draw.randint(5, 80)):
                standing.append((workers, draw.choice([0.25, 0.5, 0.75])))  # sums of these are exact
                now += standing[-1][1]
                number = len(standing)
                rate = draw.random()
                noise = {"covariance_trace": draw.random(), "gradient_norm_squared": draw.random() - 0.2} if number % 3 == 0 else {}
                journal.write(step(number, now, 32, learning_rate=rate, loss=1 / number, **noise))
                if number % 7 == 0:
                    journal.write(evaluation(number, now, 32))
                    journal.write(NoticeRecord(step=number, text=f"at {number}"))
    with (folder / JOURNAL).open("ab") as file:
        file.write(b'{"kind":"step","step":')  # cut short by a kill
    return standing


def test_the_noise_of_the_norms_alone_is_drawn_where_that_is_measured(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.write(start())
        for number, norm in ((1, 2.0), (2, -1.0), (3, 3.0)):
            journal.write(step(number, norms_covariance_trace=8.0, norms_gradient_norm_squared=norm))
    assert [record["gradient_noise_scale"] for record in read_series(tmp_path, 10).noise] == [4.0, 16.0, 6.0]


def test_the_noise_in_the_optimizers_own_norm_is_a_curve_of_its_own(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.write(start())
        for number, norm in ((1, 2.0), (2, -1.0), (3, 3.0)):
            journal.write(step(number, covariance_trace=1.0, gradient_norm_squared=1.0, dual_variance=8.0, dual_norm_squared=norm))
        journal.write(step(4, covariance_trace=1.0, gradient_norm_squared=1.0))
    series = read_series(tmp_path, 10)
    assert [record["dual_noise_scale"] for record in series.dual_noise] == [4.0, 16.0, 6.0]
    assert [record["gradient_noise_scale"] for record in series.noise] == [1.0] * 4
    assert (series.num_dual_noise, series.num_noise) == (3, 4)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("points", [2, 40, 1000])
def test_a_run_that_was_resumed(tmp_path: Path, seed: int, points: int) -> None:
    standing = write_broken_run(tmp_path, random.Random(seed))
    series = read_series(tmp_path, points)
    lines: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines()[:-1]]
    newest = {record["step"]: record for record in lines if record["kind"] == "step" and record["step"] <= len(standing)}

    assert series.num_steps == len(newest) == len(standing)
    assert len(series.steps) <= points
    assert [series.steps[0]["step"], series.steps[-1]["step"]] == [1, len(standing)]
    for record in (*series.steps, *series.evaluations):
        done = standing[: record["step"]]
        assert record["device_seconds"] == sum(workers * seconds for workers, seconds in done)
        assert record["training_seconds"] == sum(seconds for _, seconds in done)
    for record in series.steps:
        assert {name: record[name] for name in newest[record["step"]] if name != "kind"}.items() <= newest[record["step"]].items()
    assert [record["step"] for record in series.evaluations] == list(range(7, len(standing) + 1, 7))
    assert [record["step"] for record in series.notices] == list(range(7, len(standing) + 1, 7))
    assert len(series.happened) == sum(record["kind"] in {"start", "notice"} for record in lines)

    measured = [newest[number] for number in range(3, len(standing) + 1, 3)]
    assert series.num_noise == len(measured)
    for record in series.noise:
        until = [one for one in measured if one["step"] <= record["step"]]
        traces, norms = (sum(one[name] for one in until) for name in ("covariance_trace", "gradient_norm_squared"))
        assert record["gradient_noise_scale"] == (pytest.approx(traces / norms) if norms > 0 else None)
    assert series.next_after == (tmp_path / JOURNAL).read_bytes().rindex(b"\n") + 1


def test_lines_that_are_none_of_ours_are_told_last(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.write(start())
    for odd, told in ((b"[" * 100_000, "1 line of the journal is left out"), (b'\xff{"kind":"step"}\n\n{}', "3 lines of the journal are left out")):
        with (tmp_path / JOURNAL).open("ab") as file:
            file.write(odd + b"\n")
        assert [happening.text.partition(":")[0] for happening in read_series(tmp_path, 10).happened] == ["Began on cpu", told]


def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    series = read_series(tmp_path, 400)
    assert (series.steps, series.evaluations, series.start, series.next_after) == ([], [], None, 0)
