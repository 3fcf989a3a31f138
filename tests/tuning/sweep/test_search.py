"""Which runs a sweep decides on: equal care, one fixed order, and its budget."""

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from made_records import evaluation, summary
from made_runs import BASE, RATES, begin, finish, sweep, work

from largebatch.jobs.run.journal import Journal
from largebatch.jobs.run.records import Outcome
from largebatch.tuning.sweep.ledger import Ending, Learned, Ledger, Trial
from largebatch.tuning.sweep.search import Search, score
from largebatch.tuning.sweep.space import groups

ONE_BATCH = {"batch.global_batch_size": [32]}


@pytest.mark.parametrize("method", ["random", "quasi_random", "tpe", "nsga2"])
def test_every_batch_gets_the_same_care(tmp_path: Path, method: str) -> None:
    spec = sweep(search={"method": method, "trials": 5, "space": RATES}, repeats=3)
    work(tmp_path, spec)
    trials = Ledger(tmp_path).trials
    for group in groups(spec):
        searched, repeated = ([t for t in trials if t.group == group.number and t.phase == phase] for phase in ("search", "repeat"))
        assert (len(searched), len(repeated)) == (5, 3)
        rates = [trial.fields["learning_rate.base"] for trial in searched]
        assert all(0.01 <= rate <= 1.0 for rate in rates)
        assert {trial.fields["learning_rate.base"] for trial in repeated} == {min(rates, key=lambda rate: abs(rate - 0.1))}
        assert [trial.fields["seed"] for trial in repeated] == [BASE.seed + 1, BASE.seed + 2, BASE.seed + 3]
        assert {trial.fields["seed"] for trial in searched} == {BASE.seed}
    assert [trial.group for trial in trials[:6]] == [0, 1, 2, 0, 1, 2], "groups take turns"
    assert len({trial.run_id for trial in trials}) == len(trials)


def test_drawn_values_are_the_same_in_every_group_and_every_time(tmp_path: Path) -> None:
    rates: list[list[float]] = []
    for name in ("one", "two"):
        work(tmp_path / name, sweep())
        rates += [[t.fields["learning_rate.base"] for t in Ledger(tmp_path / name).trials if t.group == group] for group in range(3)]
    assert len(rates[0]) == 4
    assert all(others == rates[0] for others in rates)


def test_quasi_random_values_begin_in_the_middle_and_are_evenly_spread(tmp_path: Path) -> None:
    """One value alone is the one that a range was laid around; sixteen lie in all eighths of it."""
    work(tmp_path, sweep(each=ONE_BATCH, search={"method": "quasi_random", "trials": 16, "space": RATES}))
    rates = [trial.fields["learning_rate.base"] for trial in Ledger(tmp_path).trials if trial.phase == "search"]
    assert rates[0] == pytest.approx(0.1, rel=1e-5)  # of 0.01 ... 1.0 on a logarithmic scale
    places = [math.log10(rate / 0.01) / 2 for rate in rates]
    assert places[1:3] == pytest.approx([0.75, 0.25]), "a second value is not at the end of the range"
    counts = Counter(int(8 * place) for place in places)
    assert len(counts) == 8
    assert max(counts.values()) <= 3  # 2 in each, and one more where the shift cuts a part in two


def test_a_group_that_diverged_everywhere_is_not_repeated(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        search = Search(sweep(each=ONE_BATCH, repeats=3), BASE, ledger)
        for _ in range(4):
            trial = begin(search)
            ledger.add(Ending(number=trial.number, how="failed", why="no"))
            search.ended(trial)
        assert search.next_trial() == "over"


def test_of_runs_that_met_the_target_at_one_evaluation_the_best_is_repeated(tmp_path: Path) -> None:
    """Evaluations are so far apart that many meet it at the same one."""
    with Ledger(tmp_path) as ledger:
        search = Search(sweep(each=ONE_BATCH, repeats=1), BASE, ledger)
        for best_score in (0.91, 0.95, 0.93, 0.94):
            trial = begin(search)
            finish(ledger, trial, steps_to_target=100, best_score=best_score)
            search.ended(trial)
        repeated = begin(search)
    assert (repeated.phase, repeated.fields["learning_rate.base"]) == ("repeat", ledger.trials[1].fields["learning_rate.base"])


def test_of_schedules_that_are_searched_the_one_with_the_fewest_samples_is_repeated(tmp_path: Path) -> None:
    """By steps times the nominal batch the fastest growth won, however many samples its steps were of."""
    samples, steps = {1: 30_000, 2: 20_000, 3: 40_000}, {1: 900, 2: 500, 3: 300}
    field = "batch.schedule.doubling"
    space = {field: [{"epoch": 2.0, "times": times} for times in samples]}
    with Ledger(tmp_path) as ledger:
        search = Search(sweep(each=ONE_BATCH, search={"method": "grid", "space": space}, repeats=1), BASE, ledger)
        while (trial := begin(search)).phase == "search":
            times = trial.fields[field]["times"]
            finish(ledger, trial, steps_to_target=steps[times])
            with Journal(tmp_path / trial.run_id) as journal:
                for number, seen in ((steps[times] // 2, samples[times] // 3), (steps[times], samples[times]), (1000, 60_000)):
                    journal.write(evaluation(number, samples_seen=seen))
            search.ended(trial)
        assert trial.fields[field]["times"] == 2
        assert [each.aims for each in ledger.history if isinstance(each, Learned)] == [[30_000], [20_000], [40_000]]


def test_misses_rank_after_hits_and_divergences_last() -> None:
    hit = summary("a", steps_to_target=10**9, global_batch_size=64)
    near, far = summary("b", best_score=0.89), summary("c", best_score=0.2)
    diverged = summary("d", outcome=Outcome.DIVERGED, best_score=0.95)
    pruned = Ending(number=1, how="pruned", score=0.5)
    scores = [score(hit), score(near), score(None, pruned), score(far), score(diverged)]
    assert all(better < worse for better, worse in itertools.pairwise(scores))


def test_a_spent_budget_of_samples_ends_the_sweep_with_what_it_has(tmp_path: Path) -> None:
    spec = sweep(budget={"samples": 3500}, repeats=3)
    work(tmp_path, spec, at_once=1)
    ledger = Ledger(tmp_path)
    assert len(ledger.trials) == 4, "the fourth run of 1,000 goes beyond it; no fifth begins"
    assert ledger.spent_budget(spec.budget) == "The budget of 3,500 samples is spent; 4 runs ended."
    assert ledger.spent_budget(sweep(budget={"samples": 4001}).budget) is None


def test_no_run_begins_when_the_time_is_up(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        search = Search(sweep(repeats=3), BASE, ledger, ends_at_s=0.0)
        assert search.next_trial() == "over", "not `wait`, which nobody would ever answer"


def test_seconds_of_work_are_added_up_over_commands(tmp_path: Path) -> None:
    for expected_s in (10.0, 20.0):
        now_s = iter([100.0, 110.0])
        with Ledger(tmp_path, clock=lambda now_s=now_s: next(now_s)):  # type: ignore[misc]
            pass
        assert Ledger(tmp_path).spent_s == expected_s
    ledger = Ledger(tmp_path)
    assert ledger.spent_budget(sweep(budget={"seconds": 20.0}).budget) == "The budget of 20 s is spent; 0 runs ended."
    assert ledger.spent_budget(sweep(budget={"seconds": 20.1}).budget) is None


@pytest.mark.parametrize(
    ("seconds", "searched", "seeds"),
    [(42.0, 4, 3), (41.0, 4, 2), (30.0, 4, 1), (29.0, 3, 1), (24.0, 3, 1), (23.0, 2, 1), (1.0, 2, 1)],
)
def test_rounds_come_as_there_is_time_and_all_groups_have_as_many(tmp_path: Path, seconds: float, searched: int, seeds: int) -> None:
    """Two groups; every run takes 3 s of work, so a round takes 6 s, and the search leaves a round for a seed. Every run in a command of its own, and
    all in one, come to the same.
    """
    spec = sweep(each={"batch.global_batch_size": [32, 128]}, search={"method": "random", "trials": 4, "space": RATES}, repeats=3,
                 budget={"rounds_seconds": seconds})  # fmt: skip
    for folder, most in ((tmp_path / "at once", 100), (tmp_path / "resumed", 1)):
        folder.mkdir()
        now_s, trial = 0.0, None
        while trial != "over":
            with Ledger(folder, clock=lambda: now_s) as ledger:  # noqa: B023 called within the loop alone
                search = Search(spec, BASE, ledger)
                for _ in range(most):
                    if not isinstance(trial := search.next_trial(), Trial):
                        break
                    now_s += 3.0
                    finish(ledger, trial, wall_seconds=3.0, outcome=Outcome.REACHED)
                    ledger.spend()
                    search.ended(trial)
        assert Counter((trial.group, trial.phase) for trial in ledger.trials) == {
            **{(group, "search"): searched for group in (0, 1)}, **{(group, "repeat"): seeds for group in (0, 1)},
        }  # fmt: skip


def test_what_the_machine_failed_teaches_nothing_and_is_tried_again(tmp_path: Path) -> None:
    spec = sweep(each=ONE_BATCH, search={"method": "tpe", "trials": 1, "space": RATES}, repeats=2)
    with Ledger(tmp_path) as ledger:
        search = Search(spec, BASE, ledger)
        trial = begin(search)
        ledger.add(Ending(number=0, how="faulted", why="StorageError: the disk is full."))
        search.ended(trial)
        assert search.next_trial() == "over", "not again in the same command"
        assert [(failed.number, ending.why) for failed, ending in ledger.failures()] == [(0, "StorageError: the disk is full.")]
        assert ledger.history == [trial]
    with Ledger(tmp_path) as ledger:
        search = Search(spec, BASE, ledger)
        assert begin(search) == trial
        finish(ledger, trial)
        search.ended(trial)
        assert begin(search).phase == "repeat"
        assert ledger.failures() == []
    assert Ledger(tmp_path).is_over(trial)
    assert [event.number for event in Ledger(tmp_path).history if isinstance(event, Learned)] == [0]


@pytest.mark.parametrize(("method", "aims"), [("nsga2", [1e18, 0.6]), ("random", [1.6e18])])
def test_a_pruned_run_counts_as_it_was_told_before_and_after_a_kill(tmp_path: Path, method: str, aims: Any) -> None:
    """Its summary may come later, with a short time that would look like a good one."""
    spec = sweep(search={"method": method, "trials": 2, "space": RATES})
    ending = Ending(number=0, how="pruned", score=0.4, samples_seen=700)
    for name, ends_with_summary in (("before", False), ("after", True)):
        (tmp_path / name).mkdir()
        with Ledger(tmp_path / name) as ledger:
            search = Search(spec, BASE, ledger)
            trial = begin(search)
            ledger.add(ending)
            if ends_with_summary:
                finish(ledger, trial, outcome=Outcome.MISSED, steps_to_target=None, time_to_target_seconds=None, best_score=0.4)
            search.ended(trial)
        ledger = Ledger(tmp_path / name)
        assert [event.aims for event in ledger.history if isinstance(event, Learned)] == [aims]
        assert ledger.samples() == 700
