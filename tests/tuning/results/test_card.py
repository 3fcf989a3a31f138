"""The card: what it recommends, saves and doubts, the same in every metric and unit, and a recipe whose command plans."""

import json
import os
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import largebatch
from made_cards import BATCHES, card_of, line, run, runs
from made_runs import BASE, TARGET, made_folder, made_profile, sweep

from largebatch.jobs.device import USUAL_THREADS
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.spec.read import read_spec
from largebatch.jobs.tasks.metric import Metric
from largebatch.tuning.results.background import BegunFrom, begun_from
from largebatch.tuning.results.card import ready_recipe
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.study.options import begin_study
from largebatch.tuning.sweep.ledger import Ledger, Trial, begin_sweep
from largebatch.tuning.sweep.space import with_fields

OTHER_THREADS = 1 if USUAL_THREADS > 1 else 2
"""Not those that this process computes with."""


class TestRecommendation:
    def test_the_soonest_with_its_settings_its_interval_and_the_next_one(self) -> None:
        card = card_of(runs())
        soonest, later = sorted(BATCHES, key=lambda batch: run(batch).evaluations[-1].training_seconds)[:2]
        assert card.title == f"Batch {soonest:,} with sgd, learning rate 0.1 and momentum 0.9"
        assert card.choice is not None
        assert card.choice.seconds == pytest.approx(run(soonest, 1).evaluations[-1].training_seconds)
        low, high = (run(soonest, seed).evaluations[-1].training_seconds for seed in (0, 2))
        assert f"({low:.3g} ... {high:.3g} s, 3 seeds)" in line(card, "Time")
        assert f", of training alone, to test accuracy {TARGET}." in line(card, "Time")
        (next_one,) = card.runners_up
        assert (next_one.choice.global_batch_size, next_one.tied_by) == (later, None)
        assert line(card, "Runner-up").startswith(f"Batch {later:,} with sgd")
        assert card.verdict == "sure"

    @pytest.mark.parametrize("target", [TARGET, None])
    def test_lamb_against_sgd_gets_an_answer(self, target: float | None) -> None:
        """One run of each, at batches of their own, with a target or without."""
        pair = [run(32, optimizer="sgd"), run(512, optimizer="lamb")]
        card = card_of([replace(each, summary=each.summary.model_copy(update={"target": None})) for each in pair], target)
        assert card.choice is not None
        assert "with lamb" in card.title
        assert "with sgd" in (line(card, "Runner-up") + line(card, "As soon"))
        assert card.verdict == "unsure"
        assert "one seed" in line(card, "How sure")

    def test_what_is_as_soon_is_in_the_title(self) -> None:
        made = [run(batch, seed, 1 + 0.05 * seed) for batch in (32, 448, 512) for seed in range(3)]
        card = card_of(made)
        assert card.verdict == "tied"
        assert card.choice is not None
        (other,) = {448, 512} - {card.choice.global_batch_size}
        assert card.title.endswith(f", or as soon batch {other}")
        assert line(card, "As soon").endswith("the seeds do not tell them apart.")
        assert line(card, "How sure").startswith("A tie: ")
        assert line(card, "Runner-up") == ""

    def test_where_nothing_reached_the_target_it_says_how_near(self) -> None:
        card = card_of([run(batch, reaches=False) for batch in BATCHES])
        assert card.title == f"No answer yet: no choice reached test accuracy {TARGET} in more than half of its runs"
        assert (card.choice, card.recipe) == (None, None)
        assert "Accuracy 0.8000" in line(card, "Nearest")
        assert "`largebatch advise FOLDER --target 0.8`" in line(card, "What helps"), "of runs whose folder is not known"

    def test_an_easier_target_is_asked_by_a_command_that_works(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a sweep by its folder, of a study's by the study's."""
        monkeypatch.chdir(tmp_path)
        begin_study(Path("of all"), BASE, 60.0)
        for folder, named in ((Path("alone"), "alone"), (Path("of all", "sweep"), "of all")):
            begin_sweep(folder, sweep(), BASE)
            for batch in (32, 128):
                made_folder(folder, batch)
            card = json.loads(largebatch("advise", named, "--target", "0.999", "--json").stdout)["card"]
            (command,) = re.findall("`(.*)`", " ".join(told["text"] for told in card["lines"]))
            program, *words = shlex.split(command)
            assert (program, words[:2]) == ("largebatch", ["advise", named])
            assert json.loads(largebatch(*words, "--json").stdout)["card"]["choice"] is not None

    def test_runs_that_were_never_evaluated_are_no_answer(self) -> None:
        lost = [replace(each, summary=each.summary.model_copy(update={"best_score": None, "target": None}), evaluations=()) for each in runs(1)]
        card = card_of(lost, None)
        assert card.title == "No answer: no run was ever evaluated"
        assert "evaluation.every_epochs" in line(card, "What helps")

    def test_another_metric_that_is_better_lower_and_tokens(self) -> None:
        """Bits per byte fall; costs are told in tokens."""
        bits = Metric("bits_per_byte", "lower", is_fraction=False)

        def turned(each: RunResult) -> RunResult:
            headline = each.summary.headline.of(bits)
            told = {"headline": headline, "best_score": 10 - (each.summary.best_score or 0.0), "target": None, "tokens_per_sample": 64}
            points = tuple(at._replace(score=10 - at.score) for at in each.evaluations)
            return replace(each, summary=each.summary.model_copy(update=told), evaluations=points)

        card = card_of([turned(each) for each in runs()], 10 - TARGET)
        plain = card_of(runs())
        assert card.choice is not None
        assert plain.choice is not None
        assert card.choice.global_batch_size == plain.choice.global_batch_size
        assert card.title.startswith(f"Batch {card.choice.global_batch_size * 64:,} tokens ({card.choice.global_batch_size:,} sequences) with sgd")
        assert "to test bits_per_byte 9.1." in line(card, "Time")
        assert "samples" not in " ".join(each.text for each in card.lines if each.label != "How sure")


class TestSaving:
    def test_against_the_recipe_as_it_was(self) -> None:
        reference = run(16, factor=1.2)
        card = card_of(runs(), recipe=BegunFrom(BASE, reference))
        assert card.choice is not None
        assert card.saving is not None
        assert card.saving.times == pytest.approx(reference.evaluations[-1].training_seconds / card.choice.seconds)
        text = line(card, "It saves")
        assert text.startswith(f"{1 - 1 / card.saving.times:.0%} of the training time")
        assert "the recipe as it was (batch 16 with sgd" in text

    def test_nothing_where_the_recipe_is_as_soon(self) -> None:
        soonest = card_of(runs()).choice
        assert soonest is not None
        tied = line(card_of(runs(), recipe=BegunFrom(BASE, run(soonest.global_batch_size, factor=1.004))), "It saves")
        assert tied.startswith("Nothing that was measured: ")

    def test_clocks_of_equal_steps_save_nothing(self) -> None:
        """Where the recipe as it was has the choice's batch, optimizer and samples, a slower clock is the machine's."""
        searched = card_of(runs()).choice
        assert searched is not None
        same = run(searched.global_batch_size, 1)
        points = tuple(at._replace(training_seconds=3 * at.training_seconds) for at in same.evaluations)
        card = card_of(runs(), recipe=BegunFrom(BASE, replace(same, evaluations=points)))
        assert card.saving is not None
        assert (card.saving.cost, card.saving.times) == ("samples", 1.0)
        assert line(card, "It saves").startswith("Nothing that was measured: ")

    def test_a_recipe_that_missed(self) -> None:
        card = card_of(runs(), recipe=BegunFrom(BASE, run(16, reaches=False)))
        assert line(card, "It saves") == "The recipe as it was missed the target."

    def test_of_a_sweep_its_own_batch_tuned_as_well(self) -> None:
        card = card_of(runs(), recipe=BegunFrom(with_fields(BASE, {"batch.global_batch_size": 32})))
        assert card.saving is not None
        assert card.saving.is_tuned
        assert "the recipe's own batch and optimizer, tuned as well, (batch 32 with sgd" in line(card, "It saves")

    def test_runs_that_began_from_nothing_known_say_nothing(self) -> None:
        assert line(card_of(runs()), "It saves") == ""


class TestSureness:
    def test_one_seed_is_not_sure_and_says_what_helps(self) -> None:
        card = card_of(runs(1))
        assert card.verdict == "unsure"
        assert line(card, "Surer with").startswith("More seeds")

    def test_settings_chosen_by_the_runs_that_count(self) -> None:
        others = [replace(run(batch, seed, 1.3), settings=(("other", "x"),)) for batch in BATCHES for seed in range(3)]
        card = card_of([*runs(), *(replace(each, settings=(*each.settings, ("batch", str(each.summary.global_batch_size)))) for each in others)])
        assert card.verdict == "unsure"
        assert "too favourable" in line(card, "How sure")

    @pytest.mark.parametrize(("rate", "word"), [(0.05, "largest"), (0.5, "smallest"), (0.0, "")])
    def test_a_best_rate_at_the_end_of_those_tried(self, rate: float, word: str) -> None:
        losers = [replace(run(batch, 0, 2.0), settings=(("r", f"{rate} {batch}"),), learning_rate=rate) for batch in BATCHES] if rate else []
        sureness = card_of([*runs(), *losers]).sureness
        assert sureness is not None
        assert any(f"its rate is the {word} of the 2" in ground for ground in sureness.grounds) == bool(word)

    @pytest.mark.parametrize(("changed", "is_same"), [({}, True), ({"seed": 1}, False), ({"learning_rate": 0.2}, False)])
    def test_the_same_run_twice_says_what_its_clock_tells_apart(self, changed: dict[str, Any], is_same: bool) -> None:
        searched = card_of(runs(1)).choice
        assert searched is not None
        same = run(searched.global_batch_size)
        points = tuple(at._replace(training_seconds=at.training_seconds / 2) for at in same.evaluations)
        own = replace(same, evaluations=points, settings=(*same.settings, ("gradient.noise_every_steps", "6")), **changed)
        for card in (
            card_of(runs(1), recipe=BegunFrom(BASE, own)),
            card_of([run(batch, factor=2.0) for batch in (32, 128)] + [same], recipe=BegunFrom(BASE, own)),
        ):
            assert card.sureness is not None
            took = f"the same run took {searched.seconds / 2:.3g} s and {searched.seconds:.3g} s: nothing closer than that is told apart"
            assert (took in card.sureness.grounds) == is_same

    def test_a_seed_of_the_choice_that_missed(self) -> None:
        card = card_of([run(512, seed, reaches=seed < 2) for seed in range(3)])
        assert card.verdict == "unsure"
        assert "1 of its 3 seeds missed the target" in line(card, "How sure")

    def test_of_what_is_as_soon_what_always_reaches_comes_first(self) -> None:
        card = card_of([run(32), run(32, 1), *(run(512, seed, reaches=seed < 2) for seed in range(3))])
        assert card.title == "Batch 32 with sgd, learning rate 0.1 and momentum 0.9, or as soon batch 512"

    def test_diverged_runs_and_a_test_set_are_doubts(self) -> None:
        lost = run(4096, reaches=False)
        lost = replace(lost, summary=lost.summary.model_copy(update={"outcome": Outcome.DIVERGED}))
        sureness = card_of([*runs(), lost]).sureness
        assert sureness is not None
        assert "1 run diverged, and count as misses" in sureness.grounds
        assert "rates were chosen on the test set" in sureness.grounds, "the target was given"
        chosen = card_of([replace(each, summary=each.summary.model_copy(update={"target": None})) for each in runs()], None).sureness
        assert chosen is not None
        assert "rates and target were chosen on the test set" in chosen.grounds


class TestLargerMachines:
    def test_the_bound_of_the_critical_batch_and_a_model_of_workers(self) -> None:
        card = card_of(runs(), recipe=BegunFrom(BASE, run(16), made_profile()))
        larger = card.larger_machines
        assert larger is not None
        assert card.choice is not None
        assert larger.high is not None
        assert larger.fewer_steps == pytest.approx(1 + larger.high / card.choice.global_batch_size)
        assert larger.on_workers is not None
        assert larger.on_workers.misfit == pytest.approx(0.0, abs=1e-9)
        text = line(card, "Larger machines")
        assert text.startswith(f"At most {larger.fewer_steps:.2g} times fewer steps")
        assert "8 such workers at 10 Gbit/s would be " in text
        assert text.endswith("its step times are within 0% of those measured).")

    def test_how_far_the_model_is_off_the_profile(self) -> None:
        profile = made_profile()
        first, *others = profile.points
        slower = first.model_copy(update={"seconds_per_step": 2 * first.seconds_per_step})
        off = profile.model_copy(update={"points": [slower, *others]})
        card = card_of(runs(), recipe=BegunFrom(BASE, run(16), off))
        assert 0.2 < off.misfit < 0.5, "a point twice the others' model, all fitted in relative error"
        assert f"within {off.misfit:.0%} of those measured" in line(card, "Larger machines")

    def test_a_critical_batch_without_an_end_bounds_nothing(self) -> None:
        """Samples to the target that do not rise with the batch: the fit's one number is as good as any beyond."""
        falling = [run(batch, factor=factor) for batch, factor in ((32, 1.3), (64, 1.0), (128, 0.75))]
        card = card_of(falling, recipe=BegunFrom(BASE, run(16), made_profile()))
        assert card.larger_machines is not None
        assert (card.larger_machines.high, card.larger_machines.fewer_steps) == (None, None)
        assert line(card, "Larger machines").startswith("Not known: the critical batch")
        assert "workers" not in line(card, "Larger machines")

    def test_too_few_batches_are_said(self) -> None:
        card = card_of([run(batch) for batch in (32, 128)])
        assert "three batch sizes that reach the target, and 2 of 2 did" in line(card, "Larger machines")


class TestRecipe:
    def test_the_command_of_an_answer_plans_and_so_does_the_reports(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """From the folder that the command was given in."""
        monkeypatch.chdir(tmp_path)
        for batch in (32, 128, 512):
            made_folder(Path("runs"), batch)
        answer = json.loads(largebatch("advise", "runs", "--json").stdout)["card"]
        largebatch("report", "runs", "--output", "report")
        reported = json.loads(Path("report/report.json").read_text())["card"]
        assert reported["recipe"]["command"] == "largebatch train report/recipe.yaml"
        assert reported["recipe"]["text"] == Path("report/recipe.yaml").read_text() == answer["recipe"]["text"]
        for card in (answer, reported):
            program, command, *words = shlex.split(card["recipe"]["command"])
            assert (program, command) == ("largebatch", "train")
            plan = json.loads(largebatch("train", *words, "--dry-run", "--json").stdout)
            assert plan["global_batch_size"] == card["choice"]["global_batch_size"]

    def test_data_elsewhere_and_workers_are_in_the_command(self, tmp_path: Path) -> None:
        folder = made_folder(tmp_path / "of runs", 128)
        (folder / "environment.json").write_text(json.dumps({"device": "cpu (test)", "data_dir": "/data of mine"}))
        alone = replace(run(128), folder=folder)
        shared = replace(alone, summary=alone.summary.model_copy(update={"world_size": 4}))
        recipe = card_of([shared]).recipe
        assert recipe is not None
        assert shlex.split(recipe.command)[2:] == [os.fspath(folder / "spec.json"), "--data-dir", "/data of mine", "--workers", "4"]

    @pytest.mark.parametrize(
        ("device", "threads", "is_named"),
        [("cpu (test)", OTHER_THREADS, (os.cpu_count() or 1) >= OTHER_THREADS), ("cpu (test)", USUAL_THREADS, False), ("cpu (test)", 10**6, False),
         ("a GPU", OTHER_THREADS, False)],
    )  # fmt: skip
    def test_the_command_trains_with_the_threads_of_the_run(self, device: str, threads: int, is_named: bool, tmp_path: Path) -> None:
        """Where it is of a CPU, and this machine has so many."""
        begins = f"OMP_NUM_THREADS={threads} largebatch train " if is_named else "largebatch train "
        folder = made_folder(tmp_path, 128)
        (folder / "environment.json").write_text(json.dumps({"device": device, "torch_threads": threads}))
        recipe = card_of([replace(run(128, device=device), folder=folder)]).recipe
        assert recipe is not None
        assert recipe.command.startswith(f"{begins}{folder}")
        assert ready_recipe.for_anybody(recipe).command == f"{begins}recipe.yaml"

    def test_it_names_the_optimizer_with_every_option(self, tmp_path: Path) -> None:
        spec = with_fields(BASE, {"optimizer.name": "lamb", "optimizer.max_trust_ratio": 10.0, "learning_rate.base": 0.03})
        (tmp_path / "spec.json").write_text(spec.model_dump_json())
        recipe = card_of([run(128, 0, 2.0), replace(run(512, optimizer="lamb"), folder=tmp_path)]).recipe
        assert recipe is not None
        (tmp_path / "recipe.yaml").write_text(recipe.text)
        read = read_spec(str(tmp_path / "recipe.yaml"))
        assert read.model_copy(update={"description": spec.description}) == spec
        assert read.description.startswith("Batch 512 with lamb, learning rate 0.1")
        options = yaml.safe_load(recipe.text)["optimizer"]
        assert (options["name"], options["max_trust_ratio"], options["beta1"]) == ("lamb", 10.0, 0.9)

    def test_of_a_studys_run_it_is_what_the_person_wrote_and_the_choice(self, tmp_path: Path) -> None:
        """No limit, seed or way of looking that the study or its sweep added; the person's own limit and seed stay."""
        written = with_fields(BASE, {"stop.max_seconds": 500.0, "seed": 3, "batch.global_batch_size": 16})
        chosen = {"batch.global_batch_size": 128, "optimizer.momentum": 0.9, "learning_rate.base": 0.25}
        changed = {"learning_rate.scaling": "none", "checkpoint.best": False, "evaluation.every_epochs": 0.5}
        begin_study(tmp_path / "study", written, 60.0)
        place = tmp_path / "study" / "sweep"
        base = with_fields(written, changed)
        begin_sweep(place, sweep(set=changed), base)
        folder = made_folder(place, 128)
        trial = Trial(number=0, group=0, phase="repeat", fields={**chosen, "seed": 7}, run_id=folder.name)
        with Ledger(place) as ledger:
            ledger.add(trial)
        reference = made_folder(tmp_path / "study", 16).rename(tmp_path / "study" / "reference")
        added = with_fields(written, {"stop.max_seconds": 9.5, "gradient.noise_every_steps": 6})
        expected = with_fields(written, {"learning_rate.scaling": "none", **chosen})
        for run_dir, begun, own in ((folder, trial.spec(base), expected), (reference, added, written)):
            (run_dir / "spec.json").write_text(begun.model_dump_json())
            recipe = card_of([replace(run(128), folder=run_dir)]).recipe
            assert recipe is not None
            (tmp_path / "recipe.yaml").write_text(recipe.text)
            assert read_spec(str(tmp_path / "recipe.yaml")).model_copy(update={"description": own.description}) == own
            spec, *options = shlex.split(recipe.command)[2:]
            assert options[::2] == ["--set"] * (len(options) // 2)
            assert read_spec(spec, options[1::2]) == own, "the run's own spec, and what the command changes in it"

    def test_a_folder_that_cannot_be_read_has_none(self, tmp_path: Path) -> None:
        assert card_of([replace(run(128), folder=tmp_path)]).recipe is None


def test_a_study_is_begun_from_its_reference_run_and_a_sweep_from_its_base(tmp_path: Path) -> None:
    study = tmp_path / "study"
    place = study / "sweep"
    place.mkdir(parents=True)
    assert begun_from(study) is None
    (place / "base.json").write_text(BASE.model_dump_json())
    told = begun_from(place)
    assert told is not None
    assert (told.spec, told.run, told.profile) == (BASE, None, None)
    (study / "study.json").write_text("{}")
    made_folder(study, 16).rename(study / "reference")
    (study / "profile.json").write_text(made_profile().model_dump_json())
    for folder in (study, place):
        told = begun_from(folder)
        assert told is not None
        assert told.run is not None
        assert told.run.summary.global_batch_size == 16
        assert told.profile == made_profile()
