"""A sweep that was killed at any place goes on with the very points that it would have drawn undisturbed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_runs import summary

from largebatch.jobs.run import run_folder
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.spec.read import read_spec
from largebatch.tuning.sweep.ledger import LEDGER, Ending, Ledger, Trial
from largebatch.tuning.sweep.search import Search
from largebatch.tuning.sweep.spec import SweepSpec

BASE = read_spec("digits-small-batch")
SPACE = {
    "learning_rate.base": {"low": 0.00123456789, "high": 1.0, "points": 3},
    "learning_rate.warmup.steps": {"low": 1, "high": 40, "whole": True, "scale": "linear", "points": 2},
    "optimizer.weight_decay": [0.0, 1e-4, 1e-3],
}


def sweep(method: str, trials: int) -> SweepSpec:
    search = {"method": method, "trials": trials, "space": SPACE}
    return SweepSpec.model_validate({"recipe": "digits-small-batch", "each": {"batch.global_batch_size": [32, 128]}, "search": search, "repeats": 2})


def leave_summary(ledger: Ledger, trial: Trial) -> None:
    """What a trial's process leaves; learning rate 0.1 is best, and rates above 0.7 diverge."""
    rate = trial.fields["learning_rate.base"]
    steps = int(1000 * (1 + abs(rate - 0.1)))
    made = summary(
        trial.run_id, global_batch_size=32, steps_to_accuracy=steps, time_to_accuracy_seconds=steps / 100, best_test_accuracy=0.9 - rate / 10,
        outcome=Outcome.DIVERGED if rate > 0.7 else Outcome.REACHED, samples_seen=steps * 32,
    )  # fmt: skip
    (ledger.folder / trial.run_id).mkdir(exist_ok=True)
    run_folder.write_text(ledger.folder / trial.run_id / run_folder.SUMMARY, made.model_dump_json())


def work(folder: Path, given: SweepSpec, at_once: int, most_events: int = 10**6) -> Search:
    """Begin runs and end them in the order in which they began; killed after so many events: begun, summary written, end taken in."""
    with Ledger(folder) as ledger:
        search, running, events = Search(given, BASE, ledger), list[Trial](), 0
        while events < most_events:
            found = search.next_trial() if len(running) < at_once else "wait"
            events += 1
            if isinstance(found, Trial):
                running.append(found)
                continue
            if not running:
                assert found == "over"
                break
            trial = running.pop(0)
            leave_summary(ledger, trial)
            events += 1
            if events <= most_events:
                search.ended(trial)
        return search


def points(folder: Path) -> list[dict[str, Any]]:
    return [trial.fields for trial in Ledger(folder).trials]


CASES = [(method, 6, 1, range(1, 42, 2)) for method in ("random", "quasi_random", "grid")]
# TPE draws its first ten at random, and NSGA-II its first fifty; what both learn shows beyond.
CASES += [("tpe", 13, 1, range(1, 84, 5)), ("tpe", 13, 2, range(2, 84, 8)), ("nsga2", 53, 1, range(290, 330, 6)), ("nsga2", 53, 2, (7, 311))]


@pytest.mark.parametrize(("method", "trials", "at_once", "kills"), CASES)
def test_the_points_are_those_of_the_undisturbed_sweep(tmp_path: Path, method: str, trials: int, at_once: int, kills: Any) -> None:
    given = sweep(method, trials)
    (tmp_path / "whole").mkdir()
    work(tmp_path / "whole", given, at_once)
    whole = points(tmp_path / "whole")
    assert len(whole) == 2 * (min(trials, 18) if method == "grid" else trials) + 2
    for events in kills:
        folder = tmp_path / f"killed-{events}"
        folder.mkdir()
        work(folder, given, at_once, events)
        assert work(folder, given, at_once).goes_on
        assert points(folder) == whole, f"killed after {events} events"


def test_killed_again_and_again(tmp_path: Path) -> None:
    given = sweep("tpe", 13)
    for name, events in (("whole", 10**6), ("often", 5)):
        (tmp_path / name).mkdir()
        while len(points(tmp_path / name)) < 28:
            work(tmp_path / name, given, 1, events)
    assert points(tmp_path / "often") == points(tmp_path / "whole")


def test_a_ledger_that_cannot_be_repeated_is_drawn_anew_and_never_alike(tmp_path: Path) -> None:
    """One of before: it has no word on what was learned when, and another Optuna's values, one beyond its range by its last digit."""
    given = sweep("tpe", 13)
    work(tmp_path, given, 1, 60)
    before = [json.loads(line) for line in (tmp_path / LEDGER).read_text().splitlines() if "aims" not in line]
    before[0]["fields"]["learning_rate.base"] = 0.00123456
    (tmp_path / LEDGER).write_text("".join(json.dumps(line) + "\n" for line in before))
    decided = points(tmp_path)
    assert not work(tmp_path, given, 1).goes_on
    rates = [fields["learning_rate.base"] for fields in points(tmp_path)[:26]]
    assert points(tmp_path)[: len(decided)] == decided
    assert len(set(rates)) == 26
    assert not re.search("nan", (tmp_path / LEDGER).read_text(), re.IGNORECASE)


def test_what_the_machine_failed_teaches_nothing_until_it_has_a_result(tmp_path: Path) -> None:
    given = sweep("tpe", 4)
    with Ledger(tmp_path) as ledger:
        search = Search(given, BASE, ledger)
        trial = search.next_trial()
        assert isinstance(trial, Trial)
        ledger.end(Ending(number=trial.number, how="faulted", why="StorageError: the disk is full."))
        search.ended(trial)
        assert ledger.history == [trial]
    work(tmp_path, given, 1)
    learned = [event.number for event in Ledger(tmp_path).history if not isinstance(event, Trial)]
    assert sorted(learned) == list(range(8)), "each search's run once"
