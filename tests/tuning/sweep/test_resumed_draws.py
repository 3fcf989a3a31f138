"""A sweep that was killed at any place goes on with the very points that it would have drawn undisturbed, and loses and doubles nothing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_runs import sweep, work

from largebatch.tuning.sweep.ledger import LEDGER, Ledger
from largebatch.tuning.sweep.spec import SweepSpec

SPACE = {
    "learning_rate.base": {"low": 0.00123456789, "high": 1.0, "points": 3},
    "learning_rate.warmup.steps": {"low": 1, "high": 40, "whole": True, "scale": "linear", "points": 2},
    "optimizer.weight_decay": [0.0, 1e-4, 1e-3],
}


def two_batches(method: str, trials: int) -> SweepSpec:
    return sweep(each={"batch.global_batch_size": [32, 128]}, search={"method": method, "trials": trials, "space": SPACE}, repeats=2)


def points(folder: Path) -> list[dict[str, Any]]:
    return [trial.fields for trial in Ledger(folder).trials]


CASES = [(method, 6, 1, range(1, 42, 2)) for method in ("random", "quasi_random", "grid")]
# TPE draws its first ten at random, and NSGA-II its first fifty; what both learn shows beyond.
CASES += [("tpe", 13, 2, range(2, 84, 8)), ("nsga2", 53, 2, (7, 311))]
SELDOM = [("tpe", 13, 1, range(1, 84, 5)), ("nsga2", 53, 1, range(290, 330, 6))]


@pytest.mark.parametrize(("method", "trials", "at_once", "kills"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SELDOM)])
def test_the_points_are_those_of_the_undisturbed_sweep(tmp_path: Path, method: str, trials: int, at_once: int, kills: Any) -> None:
    spec = two_batches(method, trials)
    work(tmp_path / "whole", spec, at_once)
    whole = points(tmp_path / "whole")
    assert len(whole) == 2 * trials + 4
    for num_events in kills:
        folder = tmp_path / f"killed-{num_events}"
        work(folder, spec, at_once, num_events)
        with (folder / LEDGER).open("a") as file:
            file.write('{"number": 99, "gro')  # a line that the kill cut short
        assert work(folder, spec, at_once).goes_on
        ledger = Ledger(folder)
        assert points(folder) == whole, f"killed after {num_events} events"
        assert [trial.number for trial in ledger.trials] == list(range(len(whole)))
        assert all(ledger.is_over(trial) for trial in ledger.trials)


def test_killed_again_and_again(tmp_path: Path) -> None:
    spec = two_batches("tpe", 13)
    for name, num_events in (("whole", 10**6), ("often", 5)):
        while len(points(tmp_path / name)) < 30:
            work(tmp_path / name, spec, 1, num_events)
    assert points(tmp_path / "often") == points(tmp_path / "whole")


def test_what_was_under_way_goes_on_first(tmp_path: Path) -> None:
    work(tmp_path, sweep(), at_once=3, most_events=7)
    before = Ledger(tmp_path)
    unfinished = [trial for trial in before.trials if not before.is_over(trial)]
    search = work(tmp_path, sweep(), most_events=0)
    assert len(unfinished) == 2
    assert [search.next_trial() for _ in unfinished] == unfinished


def test_a_ledger_that_cannot_be_repeated_is_drawn_anew_and_never_alike(tmp_path: Path) -> None:
    """One of before: it has no word on what was learned when, and another Optuna's values, one beyond its range by its last digit."""
    spec = two_batches("tpe", 13)
    work(tmp_path, spec, 1, 60)
    before = [json.loads(line) for line in (tmp_path / LEDGER).read_text().splitlines() if "aims" not in line]
    before[0]["fields"]["learning_rate.base"] = 0.00123456
    (tmp_path / LEDGER).write_text("".join(json.dumps(line) + "\n" for line in before))
    decided = points(tmp_path)
    assert not work(tmp_path, spec, 1).goes_on
    rates = [fields["learning_rate.base"] for fields in points(tmp_path)[:26]]
    assert points(tmp_path)[: len(decided)] == decided
    assert len(set(rates)) == 26
    assert not re.search("nan", (tmp_path / LEDGER).read_text(), re.IGNORECASE)
