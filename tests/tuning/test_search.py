"""Which runs a sweep decides on: equal care, one fixed order, and going on where a kill left it."""

from pathlib import Path
from typing import Any

import pytest
from made_runs import summary

from largebatch.jobs.errors import InputError, SpecError
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.records import Outcome, RunSummary
from largebatch.jobs.spec.read import build_spec, read_spec
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.service.cli.commands.sweep import _no_result
from largebatch.tuning.sweep.ledger import Ending, Ledger, Trial
from largebatch.tuning.sweep.search import Search, score
from largebatch.tuning.sweep.space import base_spec, groups, read_sweep, refuse_impossible, with_fields
from largebatch.tuning.sweep.spec import SweepSpec
from largebatch.tuning.sweep.sweep import SweepProgress, _share_out, resume_command
from largebatch.tuning.sweep.trial import TrialOptions, train_trial

BASE = read_spec("digits-small-batch")


def sweep(**given: Any) -> SweepSpec:
    document = {
        "name": "s",
        "recipe": "digits-small-batch",
        "each": {"batch.global_batch_size": [32, 128, 512]},
        "search": {"method": "random", "trials": 4, "space": {"learning_rate.base": {"low": 0.01, "high": 1.0}}},
        **given,
    }
    return SweepSpec.model_validate(document)


def finish(ledger: Ledger, trial: Trial, samples: int | None = 1000, accuracy: float = 0.9) -> RunSummary:
    """A trial's end, as its process leaves it."""
    batch = trial.fields["batch.global_batch_size"]
    steps = None if samples is None else samples // batch
    made = summary(
        trial.run_id, global_batch_size=batch, steps_to_accuracy=steps, time_to_accuracy_seconds=None if steps is None else 1.0,
        best_test_accuracy=accuracy, outcome=Outcome.MISSED if steps is None else Outcome.REACHED, samples_seen=1000,
    )  # fmt: skip
    (ledger.folder / trial.run_id).mkdir(exist_ok=True)
    run_folder.write_text(ledger.folder / trial.run_id / run_folder.SUMMARY, made.model_dump_json())
    return made


def run_all(folder: Path, given: SweepSpec, base: TrainSpec = BASE, most: int = 1000, at_once: int = 2) -> list[Trial]:
    """A sweep whose runs end in the order in which they began; learning rate 0.1 is best."""
    with Ledger(folder) as ledger:
        search, running, begun = Search(given, base, ledger), [], []
        while len(begun) < most:
            found = search.next_trial()
            if isinstance(found, Trial):
                running.append(found)
                begun.append(found)
            elif found == "over" and not running:
                return begun
            elif not running:
                raise AssertionError("it waits for nothing")
            if len(running) == at_once or not isinstance(found, Trial):
                trial = running.pop(0)
                finish(ledger, trial, int(1e5 * (1 + abs(trial.fields.get("learning_rate.base", 0.1) - 0.1))))
                search.ended(trial)
        return begun


@pytest.mark.parametrize("method", ["random", "quasi_random", "tpe", "nsga2"])
def test_every_batch_gets_the_same_care(tmp_path: Path, method: str) -> None:
    given = sweep(search={"method": method, "trials": 5, "space": {"learning_rate.base": {"low": 0.01, "high": 1.0}}}, repeats=3)
    trials = run_all(tmp_path, given)
    for group in groups(given):
        mine = [trial for trial in trials if trial.group == group.number]
        searched = [trial for trial in mine if trial.phase == "search"]
        repeated = [trial for trial in mine if trial.phase == "repeat"]
        assert (len(searched), len(repeated)) == (5, 2)
        assert all(0.01 <= trial.fields["learning_rate.base"] <= 1.0 for trial in mine)
        best = min(searched, key=lambda trial: abs(trial.fields["learning_rate.base"] - 0.1))
        assert {trial.fields["learning_rate.base"] for trial in repeated} == {best.fields["learning_rate.base"]}
        assert [trial.fields["seed"] for trial in repeated] == [BASE.seed + 1, BASE.seed + 2]
        assert {trial.fields["seed"] for trial in searched} == {BASE.seed}
    order = [trial.group for trial in trials[:6]]
    assert order == [0, 1, 2, 0, 1, 2], "groups take turns"
    assert len({trial.run_id for trial in trials}) == len(trials)


def test_drawn_values_are_the_same_in_every_group_and_every_time(tmp_path: Path) -> None:
    values: list[list[list[float]]] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        trials = run_all(tmp_path / name, sweep())
        values.append([[t.fields["learning_rate.base"] for t in trials if t.group == number] for number in range(3)])
    assert values[0] == values[1]
    assert values[0][0] == values[0][1] == values[0][2]


def test_ranges_move_with_the_batch_and_the_momentum(tmp_path: Path) -> None:
    given = sweep(
        each={"batch.global_batch_size": [32, 128], "optimizer.momentum": [0.0, 0.9]},
        search={"method": "grid", "space": {"learning_rate.base": {"low": 0.1, "high": 10.0, "points": 3, "times_batch": 0.5, "is_effective": True}}},
    )
    found = {(g.fields["batch.global_batch_size"], g.fields["optimizer.momentum"]): g.space["learning_rate.base"].grid() for g in groups(given)}  # type: ignore[union-attr]
    assert found[32, 0.0] == pytest.approx([0.1, 1.0, 10.0])
    assert found[128, 0.0] == pytest.approx([0.2, 2.0, 20.0])
    assert found[32, 0.9] == pytest.approx([0.01, 0.1, 1.0])
    assert len(run_all(tmp_path, given)) == 12


@pytest.mark.parametrize("method", ["random", "tpe", "grid"])
@pytest.mark.parametrize("after", range(0, 18, 5))
def test_a_kill_at_any_place_loses_and_doubles_nothing(tmp_path: Path, method: str, after: int) -> None:
    space = {"learning_rate.base": {"low": 0.01, "high": 1.0, "points": 4}}
    given = sweep(search={"method": method, "trials": 4, "space": space}, repeats=2)
    run_all(tmp_path, given, most=after)
    before = Ledger(tmp_path)
    unfinished = [trial.run_id for trial in before.trials if not before.is_over(trial)]
    with (tmp_path / "trials.jsonl").open("a") as file:
        file.write('{"number": 99, "gro')  # a line that the kill cut short
    again = run_all(tmp_path, given)
    assert [trial.run_id for trial in again[: len(unfinished)]] == unfinished, "what was under way goes on first"
    whole = Ledger(tmp_path)
    assert [trial.number for trial in whole.trials] == list(range(15))
    assert all(whole.is_over(trial) for trial in whole.trials)
    if method != "tpe":
        (tmp_path / "fresh").mkdir()
        assert [t.fields for t in whole.trials[:12]] == [t.fields for t in run_all(tmp_path / "fresh", given)[:12]]


def test_no_run_begins_beyond_the_samples(tmp_path: Path) -> None:
    assert len(run_all(tmp_path, sweep(budget={"samples": 5000}), at_once=1)) == 5


def test_a_group_that_diverged_everywhere_is_not_repeated(tmp_path: Path) -> None:
    given = sweep(each={"batch.global_batch_size": [32]}, repeats=3)
    with Ledger(tmp_path) as ledger:
        search = Search(given, BASE, ledger)
        for _ in range(4):
            trial = search.next_trial()
            assert isinstance(trial, Trial)
            ledger.end(Ending(number=trial.number, how="failed", why="no"))
            search.ended(trial)
        assert search.next_trial() == "over"


def test_misses_rank_after_hits_and_divergences_last() -> None:
    hit = summary("a", steps_to_accuracy=10**9, global_batch_size=64)
    near, far = summary("b", best_test_accuracy=0.89), summary("c", best_test_accuracy=0.2)
    lost = summary("d", outcome=Outcome.DIVERGED, best_test_accuracy=0.95)
    pruned = Ending(number=1, how="pruned", test_accuracy=0.5)
    scores = [score(hit), score(near), score(None, pruned), score(far), score(lost)]
    assert scores == sorted(scores)
    assert len(set(scores)) == 5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"each": {"batch.global_batch_size": []}}, "empty list"),
        ({"each": {"seed": [1, 2]}}, "seed is neither"),
        ({"each": {"learning_rate.base": [0.1]}, "search": {"trials": 1, "space": {"learning_rate.base": [0.1]}}}, "compared or searched"),
        ({"search": {"method": "random", "space": {"learning_rate.base": {"low": 0.1, "high": 1.0}}}}, "needs trials"),
        ({"search": {"trials": 2, "space": {"learning_rate.base": {"low": 2.0, "high": 1.0}}}}, "not below high"),
        ({"search": {"trials": 2, "space": {"learning_rate.base": {"low": 0.0, "high": 1.0}}}}, "no logarithm"),
        ({"search": {"trials": 2, "space": {"learning_rate.base": {"low": 0.1, "high": 1.0, "is_effective": True}}}}, "in each"),
    ],
)
def test_what_no_sweep_can_be(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        read_sweep(written(tmp_path, given))


def written(folder: Path, given: dict[str, Any]) -> Path:
    import json

    path = folder / "sweep.json"
    path.write_text(json.dumps({"recipe": "digits-small-batch", **given}))
    return path


def test_an_unknown_key_is_answered_with_the_near_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="Did you mean repeats"):
        read_sweep(written(tmp_path, {"repeat": 3}))
    with pytest.raises(SpecError, match=r"search\.space\.learning_rate\.base.*Did you mean"):
        read_sweep(written(tmp_path, {"search": {"space": {"learning_rate.base": {"lo": 1, "high": 2}}}}))


def test_a_combination_that_is_no_spec_is_refused_before_anything_runs() -> None:
    for each, words in (({"optimizer.momentun": [0.9]}, "Did you mean momentum"), ({"optimizer.momentum": [1.5]}, "below 1")):
        with pytest.raises(SpecError, match=words):
            refuse_impossible(sweep(each=each), with_fields(BASE, {"optimizer.name": "sgd"}))
    below = sweep(search={"trials": 2, "space": {"learning_rate.base": {"low": -1.0, "high": 1.0, "scale": "linear"}}})
    with pytest.raises(SpecError, match=r"learning_rate\.base"):
        refuse_impossible(below, BASE)


def test_a_budget_that_cannot_hold_it_is_refused_with_numbers() -> None:
    with pytest.raises(SpecError, match="3 groups with 4 searched and 2 repeated runs each are 18") as refused:
        refuse_impossible(sweep(repeats=3, budget={"trials": 17}), BASE)
    assert "Allow 18" in refused.value.hint
    assert refuse_impossible(sweep(repeats=3, budget={"trials": 18}), BASE) == 18


def test_fields_are_replaced_whole_and_checked() -> None:
    changed = with_fields(BASE, {"batch.global_batch_size": 77, "optimizer.name": "lars", "ema.decay": 0.9})
    assert changed.batch.global_batch_size == 77
    assert changed.optimizer.name == "lars"
    assert changed.ema is not None
    with pytest.raises(SpecError, match="holds a value"):
        with_fields(BASE, {"seed.more": 1})
    assert with_fields(build_spec(BASE.model_dump(mode="json")), {}) == BASE


def test_every_sweep_that_comes_with_the_package_can_be_run() -> None:
    found = sorted((Path(__file__).parents[2] / "recipes" / "sweeps").glob("*.yaml"))
    assert found
    for path in found:
        given = read_sweep(path)
        assert refuse_impossible(given, base_spec(given, path.parent)) > 1


def test_a_spent_budget_ends_the_sweep_with_what_it_has(tmp_path: Path) -> None:
    given = sweep(budget={"samples": 3500}, repeats=3)
    assert len(run_all(tmp_path, given, at_once=1)) == 4, "the fourth run of 1,000 goes beyond it; no fifth begins"
    ledger = Ledger(tmp_path)
    assert ledger.spent_budget(given.budget) == "The budget of 3,500 samples is spent; 4 runs ended."
    assert ledger.spent_budget(sweep(budget={"samples": 4001}).budget) is None


def test_no_run_begins_when_the_time_is_up(tmp_path: Path) -> None:
    given = sweep(repeats=3)
    has_time = True
    with Ledger(tmp_path) as ledger:
        search = Search(given, BASE, ledger, lambda: has_time)
        first = search.next_trial()
        assert isinstance(first, Trial)
        has_time = False
        assert search.next_trial() == "over", "not `wait`, which nobody would ever answer"
    again = Ledger(tmp_path)
    assert 0 <= again.spent_s < 60
    again.spent_s = 31.0
    assert again.spent_budget(sweep(budget={"seconds": 30.0}).budget) == "The budget of 30 s is spent; 0 runs ended."


def test_seconds_of_work_are_added_up_over_commands(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger._began_s -= 10
    with Ledger(tmp_path) as ledger:
        assert 10 <= ledger.spent_s < 20
        ledger._began_s -= 10
    assert 20 <= Ledger(tmp_path).spent_s < 40


def test_what_the_machine_failed_is_tried_again(tmp_path: Path) -> None:
    given = sweep(each={"batch.global_batch_size": [32]}, search={}, repeats=2)
    with Ledger(tmp_path) as ledger:
        search = Search(given, BASE, ledger)
        trial = search.next_trial()
        assert isinstance(trial, Trial)
        ledger.end(Ending(number=0, how="faulted", why="StorageError: the disk is full."))
        search.ended(trial)
        assert search.next_trial() == "over", "not again in the same command"
        assert [(failed.number, ending.why) for failed, ending in ledger.failures()] == [(0, "StorageError: the disk is full.")]
    with Ledger(tmp_path) as ledger:
        search = Search(given, BASE, ledger)
        again = search.next_trial()
        assert again == trial
        finish(ledger, trial)
        search.ended(trial)
        assert isinstance(search.next_trial(), Trial), "its repeat"
        assert ledger.failures() == []
    assert Ledger(tmp_path).is_over(trial)


def test_a_pruned_run_counts_as_it_was_told_before_and_after_a_kill(tmp_path: Path) -> None:
    """Its summary may come later, with a short time that would look like a good one."""
    given = sweep(search={"method": "nsga2", "trials": 2, "space": {"learning_rate.base": {"low": 0.01, "high": 1.0}}})
    with Ledger(tmp_path) as ledger:
        search = Search(given, BASE, ledger)
        trial = search.next_trial()
        assert isinstance(trial, Trial)
        ending = Ending(number=0, how="pruned", test_accuracy=0.4, samples_seen=700)
        ledger.end(ending)
        search.ended(trial)
        assert ledger.samples_of(trial) == 700
        made = finish(ledger, trial, None, 0.4)
        assert search._searches[0]._aims(made, ending) == search._searches[0]._aims(None, ending)
        assert score(made, ending) == score(None, ending)
    assert Ledger(tmp_path).samples() == 700


def test_the_optimizer_is_set_before_its_options() -> None:
    given = sweep(each={"optimizer.momentum": [0.0, 0.5], "optimizer.name": ["sgd", "lars"], "batch.global_batch_size": [32]})
    specs = [with_fields(BASE, group.fields) for group in groups(given)]
    assert [(spec.optimizer.name, spec.optimizer.momentum) for spec in specs] == [("sgd", 0.0), ("lars", 0.0), ("sgd", 0.5), ("lars", 0.5)]
    recipe = with_fields(BASE, {"optimizer.momentum": 0.7})
    assert with_fields(recipe, {"optimizer.name": "sgd"}).optimizer.momentum == 0.7, "the same optimizer keeps its options"


def test_ranges_that_move_with_the_batch_need_its_number() -> None:
    space = {"learning_rate.base": {"low": 0.01, "high": 1.0, "times_batch": 0.5}}
    given = sweep(each={"batch.global_batch_size": [32, "full"]}, search={"method": "random", "trials": 2, "space": space})
    with pytest.raises(SpecError, match="holds `full`, and"):
        groups(given)


@pytest.mark.parametrize(("workers", "gpus", "is_refused"), [(1, 0.5, False), (2, 0.5, True), (2, 1.0, False), (2, None, False)])
def test_workers_of_one_run_have_whole_gpus(workers: int, gpus: float | None, is_refused: bool) -> None:
    resources = {"workers": workers, "gpus_per_worker": gpus}
    if is_refused:
        with pytest.raises(ValueError, match="NCCL joins whole GPUs only"):
            sweep(resources=resources)
    else:
        assert sweep(resources=resources).resources.gpus_per_worker == gpus


class Machines:
    """A Ray of some machines."""

    def __init__(self, *machines: dict[str, float]) -> None:
        self._machines = machines

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": machine} for machine in self._machines] + [{"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]


FOUR_OF_FOUR = [{"CPU": 4.0}] * 4
WITH_GPUS = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}]


@pytest.mark.parametrize(
    ("machines", "resources", "device", "at_once", "gpus", "place"),
    [
        (FOUR_OF_FOUR, {"cpus_per_worker": 4.0}, "auto", 4, 0.0, "cpu"),
        (FOUR_OF_FOUR, {"cpus_per_worker": 3.0, "workers": 2}, "cpu", 2, 0.0, "cpu"),
        (FOUR_OF_FOUR, {"cpus_per_worker": 0.5, "max_concurrent": 3}, "auto", 3, 0.0, "cpu"),
        (WITH_GPUS, {}, "auto", 3, 1.0, "auto"),
        (WITH_GPUS, {}, "cpu", 16, 0.0, "cpu"),
        (WITH_GPUS, {"gpus_per_worker": 0.5}, "cuda", 6, 0.5, "cuda"),
        (WITH_GPUS, {"gpus_per_worker": 0.0}, "auto", 16, 0.0, "cpu"),
        (WITH_GPUS, {"workers": 3}, "auto", 1, 1.0, "auto"),
    ],
)
def test_runs_at_a_time_are_what_machines_can_hold(
    tmp_path: Path, machines: list[dict[str, float]], resources: dict[str, Any], device: str, at_once: int, gpus: float, place: str
) -> None:
    options, concurrent = _share_out(Machines(*machines), sweep(resources=resources), tmp_path, tmp_path, device, 0.0)
    assert (concurrent, options.gpus_per_worker, options.device) == (at_once, gpus, place)


@pytest.mark.parametrize(
    ("machines", "resources", "device", "words"),
    [
        (FOUR_OF_FOUR, {"cpus_per_worker": 8.0}, "auto", "a run needs 8 CPUs and 0 GPUs, a worker's on one machine, and there are 4 CPUs"),
        (FOUR_OF_FOUR, {}, "cuda", "each run gets no GPU of the 0"),
        (WITH_GPUS, {"gpus_per_worker": 2.0, "workers": 2}, "auto", "4 GPUs"),
    ],
)
def test_a_run_that_no_machine_can_hold_is_refused(
    tmp_path: Path, machines: list[dict[str, float]], resources: dict[str, Any], device: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        _share_out(Machines(*machines), sweep(resources=resources), tmp_path, tmp_path, device, 0.0)


def test_the_command_to_go_on_with_is_whole() -> None:
    assert resume_command("sweep", Path("runs/a b"), Path("data"), "auto") == "largebatch sweep --resume 'runs/a b'"
    words = resume_command("study", Path("s"), Path("/mnt/data"), "cpu", "10.0.0.1:6379")
    assert words == "largebatch study --resume s --data-dir /mnt/data --device cpu --address 10.0.0.1:6379"


def test_a_model_that_raises_fails_its_run_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_model.py").write_text("def build(num_classes):\n    raise KeyError('no such weights')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.tune.report", reports.append)
    spec = with_fields(BASE, {"model": {"entry_point": "broken_model:build"}})
    options = TrialOptions(tmp_path, tmp_path, "cpu", 1, 1.0, 0.0, None)
    train_trial({"spec": spec.model_dump(mode="json"), "run_id": "0000", "options": options})
    (report,) = reports
    assert report["is_over"]
    assert "no such weights" in report["error"]
    assert not report["is_fault"]


@pytest.mark.parametrize(
    ("failures", "is_faulted", "code", "words"),
    [
        (["0000: KeyError: 'no such weights'"], False, 2, "no run has a result; the first to fail was 0000: KeyError: 'no such weights' Mend"),
        (["0000: StorageError: full"], True, 1, "the first to fail was 0000: StorageError: full Try again: largebatch sweep --resume x"),
        ([], False, 2, "no run has a result. The budget of 3 s is spent; 0 runs ended. Allow more."),
    ],
)
def test_a_sweep_without_a_result_says_why(failures: list[str], is_faulted: bool, code: int, words: str) -> None:
    progress = SweepProgress(0, failures, is_faulted, None if failures else "The budget of 3 s is spent; 0 runs ended.")
    error = _no_result(progress, "largebatch sweep --resume x")
    assert error.exit_code == code
    assert words in str(error)
