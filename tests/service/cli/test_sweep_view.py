"""What the live view of a sweep says, in the width of an ordinary terminal."""

import io
import itertools
from pathlib import Path

import pytest
from made_records import summary
from made_runs import BASE, begin, sweep
from rich.console import Console

from largebatch.service.cli.sweep_view import SweepView
from largebatch.tuning.sweep.ledger import Ending, Ledger
from largebatch.tuning.sweep.search import Search
from largebatch.tuning.sweep.space import base_spec, count_runs, groups
from largebatch.tuning.sweep.spec import SweepSpec

SECONDS = {(0, "search"): [1.0, 3.0], (0, "repeat"): [2.0, 9.0, 4.0], (1, "search"): [6.0, 5.0], (1, "repeat"): [None, 7.0, None]}
"""To the target, by group and phase."""


def test_the_table_fits_a_terminal_and_its_best_is_the_answers(tmp_path: Path) -> None:
    spec = SweepSpec.model_validate({
        "recipe": "digits-small-batch", "each": {"batch.global_batch_size": [64, 1024], "optimizer.momentum": [0.9, 0.95]}, "repeats": 3,
        "search": {"trials": 2, "space": {"learning_rate.base": {"low": 0.1, "high": 1.0}}},
    })  # fmt: skip
    base, taken = base_spec(spec, tmp_path), {place: iter(seconds) for place, seconds in SECONDS.items()}
    with Ledger(tmp_path) as ledger:
        search = Search(spec, base, ledger)
        while not isinstance(trial := search.next_trial(), str):
            if trial.group > 1:
                ledger.add(Ending(number=trial.number, how="failed", why="out of memory"))
            else:
                (tmp_path / trial.run_id).mkdir()
                seconds = next(taken[trial.group, trial.phase])
                made = summary(trial.run_id, time_to_target_seconds=seconds, steps_to_target=seconds and int(seconds), best_score=0.97)
                (tmp_path / trial.run_id / "summary.json").write_text(made.model_dump_json())
            search.ended(trial)
    screen = io.StringIO()
    with SweepView(Console(file=screen, force_terminal=True, width=80), groups(spec), count_runs(spec), Ledger(tmp_path)).live:
        pass
    assert "…" not in screen.getvalue()
    assert "by the median of the seeds that did not choose it" in screen.getvalue()
    lines = screen.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines if "\x1b" not in line)
    rows = [(line.split(), after.strip()) for line, after in itertools.pairwise(lines) if line.startswith("batch")]
    best = {f"{' '.join(row[:2])} {momentum}": row[2:] for row, momentum in rows}
    assert best["batch 64, momentum 0.9"][2:] == ["4.00", "0.9700", "3"], "the repeats' median, not the run that chose them"
    assert best["batch 64, momentum 0.95"][2:] == ["-", "0.9700", "3"], "most of them missed"
    assert best["batch 1024, momentum 0.9"] == ["2", "2"], "runs, and failed ones"


@pytest.mark.parametrize(
    ("rounds_s", "after_s", "told"),
    [(None, 0.0, "about 9:50 left"), (60.0, 0.0, "about 0:50 left"), (5.0, 0.0, "about 0:10 left"), (60.0, 90.0, "about 2:20 left of all")],
)
def test_the_time_left_keeps_within_that_of_the_rounds(tmp_path: Path, rounds_s: float | None, after_s: float, told: str) -> None:
    """One run of sixty is over after ten seconds; of a study's sweep, what comes after it is left, too."""
    spec, now_s = sweep(), 100.0
    screen = io.StringIO()
    console = Console(file=screen, width=200)
    with Ledger(tmp_path) as ledger:
        view = SweepView(console, groups(spec), 60, ledger, rounds_s, after_s, clock=lambda: now_s)
        trial = begin(Search(spec, BASE, ledger))
        view.listener().on_begin(trial)
        now_s += 10.0
        view.listener().on_end(trial, "reached")
    assert screen.getvalue().strip().endswith(told)
