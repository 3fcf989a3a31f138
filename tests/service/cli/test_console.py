"""What is shown while training, on a terminal and in a pipe."""

import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_records
import pytest
from rich.console import Console

from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.run.records import StepRecord
from largebatch.jobs.spec.read import read_spec
from largebatch.service.cli.console import TrainingView
from largebatch.service.cli.tables import print_runs

PLAN = make_plan(read_spec("digits-lamb", ["batch.global_batch_size=100", "stop.epochs=10"]), Facts(1000, False, 100))


def step(number: int) -> StepRecord:
    """One of a hundred steps at two seconds each: 50 samples a second."""
    return made_records.step(number, 2.0 * number, 100, epoch=number / 10, loss=0.5, learning_rate=0.01)


START = made_records.start(num_train_samples=1000, num_test_samples=250, num_classes=10)
EVALUATION = made_records.evaluation(10, 20.0, 100, score=0.8125)


class Clock:
    """A clock to turn by hand."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def view(is_terminal: bool, width: int = 150, clock: Callable[[], float] = time.monotonic) -> tuple[TrainingView, io.StringIO]:
    text = io.StringIO()
    training = TrainingView(Console(file=text, force_terminal=is_terminal, width=width), clock)
    training.expect(PLAN.total_steps, PLAN.total_progress)
    return training, text


def test_a_pipe_gets_plain_lines() -> None:
    clock = Clock()
    training, text = view(is_terminal=False, clock=clock)
    with training.progress:
        training.started(Path("runs/[x]"))
        training.record(START)
        for number in range(1, 11):
            clock.now_s += 1.0
            training.record(step(number))
        training.record(EVALUATION)
    lines = text.getvalue().splitlines()
    assert lines[0] == "Run folder: runs/[x]"  # brackets are no markup
    assert lines[1] == "1,000 training samples, 250 test samples, 10 classes"
    assert lines[2] == "step 6/100  50 samples/s  loss 0.5000  lr 0.01"  # five seconds after the first
    assert lines[3] == "step 10  epoch 1.00  accuracy 0.8125  training 20.0 s"
    assert len(lines) == 4
    assert "\x1b" not in text.getvalue()


def test_a_terminal_gets_one_line_that_moves() -> None:
    clock = Clock()
    training, text = view(is_terminal=True, clock=clock)
    with training.progress:
        for number in range(1, 51):
            clock.now_s += 1.0
            training.record(step(number))
        training.record(EVALUATION)
        clock.now_s += 1.0
        training.record(step(51))
        task = training.progress.tasks[0]
        assert task.description == "step 51/100  50 samples/s  loss 0.5000  lr 0.01  accuracy 0.8125"
        assert task.fields["remaining_s"] == pytest.approx((10_000 - 5_100) / 50)
    assert "epoch 1.00" not in text.getvalue()


def test_a_terminals_line_says_at_what_a_run_is_where_no_step_comes() -> None:
    """Before the first one, and after the last, whose score is there at once."""
    training, text = view(is_terminal=True)
    with training.progress:
        training.record(START)
        training.record(step(1))
        training.record(EVALUATION)
    waiting, begun = view(is_terminal=True)
    with waiting.progress:
        waiting.record(START)
    told = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
    assert "step 1/100  0 samples/s  loss 0.5000  lr 0.01  accuracy 0.8125" in told
    assert "before the first step" in begun.getvalue()


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_gets_whole_numbers(width: int) -> None:
    training, text = view(is_terminal=True, width=width)
    with training.progress:
        training.record(EVALUATION)
        training.record(step(51))
        training.progress.refresh()
    line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
    assert all(part in line for part in ("step 51/100", "loss 0.5000", "--:-- left", "0:00:0"))
    assert ("accuracy 0.8125" in line) == (width == 80)
    assert "…" not in text.getvalue()


SUMMARY: dict[str, Any] = {
    "run_id": "digits-small-batch-20261130-054704-ab12cd34", "global_batch_size": 1024, "outcome": "completed", "steps": 12700, "epochs": 61.25,
    "training_seconds": 1234.25, "time_to_target_seconds": 1034.25, "score": 0.9917, "headline": {"name": "accuracy"}, "best_score": 0.9923,
    "samples_per_second": 123456.0, "gradient_noise_scale": 4321.0,
}  # fmt: skip
NUMBERS = ("1,024", "12,700", "61.25", "1234.25", "1034.25", "0.9917", "0.9923", "123,456", "4,321")


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("num_runs", [1, 2])
def test_a_runs_numbers_are_whole_at_every_width(
    num_runs: int, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("TTY_COMPATIBLE", "1"), ("TERM", "dumb"), ("COLUMNS", str(width)), ("LINES", "50")):
        monkeypatch.setenv(name, value)
    print_runs([SUMMARY] * num_runs)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    header, *rows = shown.splitlines()
    if num_runs == 1:
        assert all(number in shown for number in NUMBERS)
        assert SUMMARY["run_id"] in shown
        return
    num_shown = len(header.replace("test acc.", "acc").replace("training s", "s").replace("s to target", "s").replace("noise scale", "n").split())
    assert rows[0].split()[1:] == [*NUMBERS[:1], "completed", *NUMBERS[1 : num_shown - 2]], "whole, as far as there is room"
    assert ("Left out" in shown) == (width < 120)
    assert num_shown >= 4


@pytest.mark.parametrize("width", [60, 80, 200])
def test_names_that_are_cut_keep_what_tells_them_apart(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs of one recipe have names of one beginning; those of a sweep may be longer than there is room, and differ in their seeds."""
    for name, value in (("TTY_COMPATIBLE", "1"), ("TERM", "dumb"), ("COLUMNS", str(width)), ("LINES", "50")):
        monkeypatch.setenv(name, value)
    for names in (["ripple-net-20261201-210404-5b8e", "ripple-net-20261201-210700-9d0d"], [f"0001-batch-4096-half-life-{seed}" for seed in range(2)]):
        print_runs([{**SUMMARY, "run_id": name} for name in names])
        shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:3]]
        assert shown[0] != shown[1]
        assert all(name.endswith(each.removeprefix("…")) for name, each in zip(names, shown, strict=True))
        assert (shown == names) == (width == 200), "whole where there is room"


def test_the_noise_of_the_norms_alone_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_runs([{**SUMMARY, "gradient_noise_scale": None, "norms_noise_scale": 21.6}] * 2)
    assert capsys.readouterr().out.count("22 (norms)") == 2


def test_the_noise_in_the_optimizers_own_norm_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_runs([{**SUMMARY, "gradient_noise_scale": 300.0, "dual_noise_scale": 21.6}] * 2)
    assert capsys.readouterr().out.count("300 (dual 22)") == 2


def test_under_adascale_time_runs_with_the_schedules() -> None:
    """With a gain of 3 times the batch's share the schedules move 300 samples a step of 100."""
    clock = Clock()
    training, _ = view(is_terminal=True, clock=clock)
    with training.progress:
        for number in (1, 21):
            shown = step(number).model_copy(update={"schedule_samples": 300.0 * number, "gain": 3.0})
            clock.now_s += 1.0
            training.record(shown)
        # 6,300 of 10,000 are done, at 300 every two seconds.
        assert training.progress.tasks[0].fields["remaining_s"] == pytest.approx(3_700 / 150)


def test_the_first_step_has_no_rate_yet() -> None:
    training, _ = view(is_terminal=True)
    with training.progress:
        training.record(step(1))
        assert training.progress.tasks[0].fields["remaining_s"] is None


def test_short_clocks_and_small_losses_keep_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    """They were 0.00 s and 0.0000 both."""
    loss = {"name": "loss", "better": "lower", "is_fraction": False}
    rows = [
        {**SUMMARY, "headline": loss, "score": 10 * score, "best_score": score, "training_seconds": 2.0, "time_to_target_seconds": seconds}
        for score, seconds in ((1.6e-5, 0.0006), (1.28e-6, 0.0027))
    ]
    print_runs(rows)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert all(
        {"2.00", seconds, score, best} <= set(line)
        for line, seconds, score, best in zip(shown, ("0.0006", "0.0027"), ("0.00016", "1.28e-05"), ("1.6e-05", "1.28e-06"), strict=True)
    )
