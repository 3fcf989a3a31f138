"""From runs to the answer: planted curves come back, misses stay misses, what cannot be compared is not."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_runs import CRITICAL, MIN_SAMPLES, RATE, STEP_S, TARGET, fine, made_profile, made_run

from largebatch.jobs.errors import InputError
from largebatch.jobs.run.records import Outcome
from largebatch.tuning.report.batch_figures import momentum_maps
from largebatch.tuning.report.contents import Extras, charts_of
from largebatch.tuning.results.analysis.configurations import best_of_each_batch, configurations
from largebatch.tuning.results.analysis.prediction import compare, misses_in_words, predict, profile_beside_runs, refuse_other_reference
from largebatch.tuning.results.findings import Findings, find
from largebatch.tuning.results.phrases import seconds_in_words
from largebatch.tuning.results.run_result import Evaluation, RunResult, differences_in_words
from largebatch.tuning.results.wording import answer_of

BATCHES = [32, 128, 512, 2048]


def ended(run: RunResult, **fields: Any) -> RunResult:
    """The run with another summary."""
    return replace(run, summary=run.summary.model_copy(update=fields))


RUNS = [made_run(batch, seed, factor) for batch in BATCHES for seed, factor in ((0, 1.0), (1, 1.0), (2, 1.0), (0, 1.7))]


def test_the_planted_answer_comes_back() -> None:
    found = find(RUNS)
    assert found.target == TARGET
    assert [one.global_batch_size for one in found.best] == BATCHES
    assert all(one.first.learning_rate == 0.1 for one in found.best), "the better rate, which has three seeds"
    assert all(one.seconds.num_runs == 3 for one in found.best)
    assert found.critical_batch.critical_batch_size == pytest.approx(CRITICAL, rel=0.05)
    assert found.critical_batch.min_samples == pytest.approx(MIN_SAMPLES, rel=0.05)
    seconds = {batch: MIN_SAMPLES * (1 + batch / CRITICAL) / batch * (STEP_S + batch / RATE) for batch in BATCHES}
    answers = {answer.question: answer.choice for answer in found.advice}
    assert answers["soonest"].global_batch_size == min(seconds, key=lambda batch: seconds[batch])
    assert answers["cheapest"].global_batch_size == 32
    assert found.noise_scale == 400.0
    words = " ".join(answer_of(found).words)
    assert "Soonest: batch" in words
    assert "Critical batch size" in words
    json.dumps(answer_of(found).numbers(), allow_nan=False)


def test_a_lucky_single_run_does_not_beat_three_seeds() -> None:
    runs = [*(made_run(128, seed, 1.0) for seed in range(3)), made_run(128, 0, 0.5)]
    (best,) = best_of_each_batch(configurations(runs, TARGET))
    assert len(best.runs) == 3
    (map_of_them,) = momentum_maps(find([*runs, made_run(128, momentum=0.0)]))
    assert map_of_them.heat.values[1] == [best.seconds.median], "nor in its cell of the map"


@pytest.mark.parametrize(("optimizer", "name"), [("adamw", "beta1"), ("lamb", "beta1"), ("sgd", "momentum")])
def test_the_map_is_named_after_what_the_optimizer_calls_its_momentum(optimizer: str, name: str) -> None:
    tried = ((0.8, 1.5), (0.95, 1.0))
    found = find([made_run(batch, 0, factor, momentum=value, optimizer=optimizer) for batch in (32, 128) for value, factor in tried])
    (chart,) = momentum_maps(found)
    assert (chart.y_title, chart.heat.y) == (name, ["0.8", "0.95"])
    assert f"over batch and {name}," in chart.title
    slow, fast = chart.heat.values[0][0], chart.heat.values[1][0]
    assert slow > fast
    assert answer_of(found).rows[0][name] == "0.95"
    assert any(f"with {optimizer}, learning rate 0.1 and {name} 0.95" in line for line in answer_of(found).words)


def test_half_lives_have_a_map_of_their_own() -> None:
    """At two batches a half-life is two momenta and one row; runs with a number stand in the other map."""

    def told_by(half_life: float, batch: int, factor: float) -> RunResult:
        settings = (("batch", str(batch)), ("half-life", str(half_life)))
        return made_run(batch, 0, factor, momentum=0.5 ** (batch / half_life), momentum_half_life_samples=half_life, settings=settings)

    by_half_life = [told_by(half_life, batch, factor) for batch in (32, 128) for half_life, factor in ((256.0, 1.5), (1024.0, 1.0))]
    (chart,) = momentum_maps(find(by_half_life))
    assert (chart.name, chart.y_title, chart.heat.y) == ("half-life-map", "half-life of momentum (samples)", ["256", "1,024"])
    assert all(seconds is not None for row in chart.heat.values for seconds in row)
    slow, fast = chart.heat.values[0][0], chart.heat.values[1][0]
    assert slow > fast
    answer = answer_of(find(by_half_life))
    assert answer.rows[0]["momentum"] == "0.979 (half-life 1,024 samples)"
    assert any("momentum 0.979 (half-life 1,024 samples)" in line or "momentum 0.917 (half-life 1,024 samples)" in line for line in answer.words)
    assert {batch.momentum_half_life_samples for batch in answer.batches} == {1024.0}

    by_number = [made_run(batch, 0, 2.0, momentum=value) for batch in (32, 128) for value in (0.0, 0.9)]
    assert [(each.name, each.heat.y) for each in momentum_maps(find([*by_half_life, *by_number]))] == [
        ("momentum-map", ["0", "0.9"]),
        ("half-life-map", ["256", "1,024"]),
    ]


def test_a_map_holds_like_beside_like() -> None:
    """Where the search chose among momenta, further seeds are of one cell alone: the map shows the search's own runs."""
    momenta = {0.5: 1.2, 0.9: 1.1}
    searched = [made_run(batch, 0, factor, momentum=value, chose=True) for batch in (32, 128) for value, factor in momenta.items()]
    chosen = {run.summary.global_batch_size: run.settings for run in searched if run.momentum == 0.9}
    repeats = [made_run(batch, seed, 1.5, momentum=0.9, settings=chosen[batch]) for batch in (32, 128) for seed in (1, 2)]
    of_all, of_search = momentum_maps(find([*searched, *repeats]))[0], momentum_maps(find(searched))[0]
    assert of_all.heat.values == of_search.heat.values
    assert "the search's own run of each cell" in of_all.caption
    assert of_all.heat.values[1][0] < of_all.heat.values[0][0], "by 0.9, which was chosen"


def test_one_beta1_makes_no_map() -> None:
    assert momentum_maps(find([made_run(batch, 0, momentum=0.9, optimizer="adamw") for batch in (32, 128)])) == []


def test_misses_are_misses() -> None:
    runs = [made_run(32, seed) for seed in range(3)] + [made_run(512, seed, reaches=seed == 0) for seed in range(3)]
    found = find(runs)
    assert [choice.global_batch_size for choice in found.choices] == [32]
    row = next(row for row in answer_of(found).rows if row["batch"] == "512")
    assert row["s to target"] == "missed (1 of 3 reached)"
    assert any("at least three batch sizes" in line for line in answer_of(found).words)


def test_nothing_reached_is_a_result() -> None:
    found = find([made_run(batch, reaches=False) for batch in BATCHES])
    assert (found.choices, found.critical_batch) == ([], None)
    assert any("No batch size reached the target" in line for line in answer_of(found).words)


def test_other_models_and_devices_are_named_and_left_out() -> None:
    found = find([*RUNS, made_run(64, device="H200"), made_run(64, model="lenet"), made_run(64, device="H200", seed=1)])
    assert len(found.runs) == len(RUNS)
    assert sum(found.other_settings.values()) == 3
    assert any("Left out: 2 runs of mlp on made, H200" in line for line in answer_of(found).words)


def test_no_target_given_is_what_every_batch_reached() -> None:
    found = find([ended(made_run(batch), target=None) for batch in BATCHES])
    assert found.target == pytest.approx(0.91)
    assert found.target_is_chosen
    assert "none was given" in answer_of(found).words[0]


class TestChosenTarget:
    """Where none was given it is what every choice that is compared reached, in more than half of its runs."""

    @staticmethod
    def scored(score: float, seed: int = 0, optimizer: str = "sgd", **settings: str) -> RunResult:
        """A run at batch 512 that came to a score at its last evaluation."""
        made = made_run(512, seed, optimizer=optimizer, settings=tuple({"optimizer.name": optimizer, **settings}.items()))
        return replace(
            ended(made, target=None, best_score=score, score=score), evaluations=(made.evaluations[0], made.evaluations[1]._replace(score=score))
        )

    def test_of_every_optimizer(self) -> None:
        found = find([self.scored(0.8972, optimizer="lamb"), self.scored(0.8889, optimizer="soap")])
        assert found.target == pytest.approx(0.888)
        assert found.missed == []
        assert "(what every batch size under every optimizer reached; none was given)" in answer_of(found).words[0]

    def test_of_a_run_whose_batch_grows_beside_a_constant_one(self) -> None:
        grown = {"batch.schedule.growth": "[{'epoch': 1.0, 'factor': 2.0}]"}
        found = find([self.scored(0.95), self.scored(0.93, **grown)])
        assert found.target == pytest.approx(0.93)
        assert all(tried.seconds.median is not None for tried in found.configurations)
        assert "(what every batch size with every batch schedule reached; none was given)" in answer_of(found).words[0]

    @pytest.mark.parametrize(("scores", "target"), [([0.9, 0.8], 0.8), ([0.9, 0.8, 0.7], 0.8), ([0.9, 0.8, 0.7, 0.6], 0.7)], ids=str)
    def test_by_more_than_half_of_the_seeds(self, scores: list[float], target: float) -> None:
        found = find([self.scored(score, seed) for seed, score in enumerate(scores)])
        assert (found.target, found.missed) == (pytest.approx(target), [])

    def test_a_choice_that_was_never_evaluated_sets_none(self) -> None:
        lost = replace(ended(self.scored(0.5, optimizer="lamb"), best_score=None, score=None), evaluations=())
        found = find([self.scored(0.95), lost])
        assert found.target == pytest.approx(0.95)
        assert [best.first.optimizer for best in found.missed] == ["lamb"]
        assert "The target leaves out batch 512 with lamb: half of the runs or more were never evaluated." in answer_of(found).words
        assert not any("leaves out" in line for line in answer_of(find([self.scored(0.95)])).words)

    def test_by_settings_that_have_most_seeds(self) -> None:
        """A lucky single run of other settings is not the best of its batch, so it sets no target either."""
        lucky = self.scored(0.99, **{"learning_rate.base": "2"})
        found = find([lucky, *(self.scored(0.8, seed, **{"learning_rate.base": "1"}) for seed in range(2))])
        assert (found.target, found.missed) == (pytest.approx(0.8), [])


def test_runs_that_were_ended_early_are_said_and_left_out() -> None:
    early = ended(made_run(64), outcome=Outcome.STOPPED)
    found = find([*RUNS, early])
    assert [one.global_batch_size for one in found.best] == BATCHES
    assert any("1 run that was ended early" in line for line in answer_of(found).words)
    with pytest.raises(InputError, match="no run that has ended"):
        find([early])


def test_no_runs() -> None:
    with pytest.raises(InputError, match="no run that has ended"):
        find([])


def test_a_prediction_from_one_run_is_exact_where_the_noise_scale_is_the_critical_batch() -> None:
    run = made_run(128)
    last = run.evaluations[-1]
    just_before = Evaluation(last.step * 98 // 100, last.samples * 98 // 100, last.training_seconds * 0.98, 2 * TARGET - last.score)
    run = replace(ended(run, gradient_noise_scale=CRITICAL), evaluations=(just_before, last))
    predicted = predict(run, made_profile(), TARGET, BATCHES)
    measured = {one.global_batch_size: one.seconds.median for one in find(RUNS).best if one.seconds.median is not None}
    misses = compare(predicted, measured)
    assert [miss.global_batch_size for miss in misses] == BATCHES
    # Steps are whole, which a batch of 2,048 with 49 of them feels.
    assert all(abs(miss.error) < 0.02 for miss in misses)
    assert [one.learning_rate for one in predicted] == pytest.approx([0.1 / 4, 0.1, 0.1 * CRITICAL / 128, 0.1 * CRITICAL / 128])


def test_a_prediction_goes_at_the_pace_of_its_run() -> None:
    run = made_run(128)
    slower = replace(run, evaluations=tuple(at._replace(training_seconds=1.5 * at.training_seconds) for at in run.evaluations))
    as_profiled, at_pace = (predict(one, made_profile(), TARGET, BATCHES) for one in (run, slower))
    assert [one.seconds for one in at_pace] == pytest.approx([1.5 * one.seconds for one in as_profiled])


def test_a_run_that_reached_nothing_predicts_nothing() -> None:
    with pytest.raises(InputError, match=r"did not reach 0\.9"):
        predict(made_run(128, reaches=False), made_profile(), TARGET, BATCHES)


def test_the_reference_runs_own_batch_is_no_prediction() -> None:
    predicted = predict(made_run(128), made_profile(), TARGET, BATCHES)
    assert [one.global_batch_size for one in predicted if one.is_reference] == [128]
    misses = compare(predicted, {128: predicted[1].seconds, 512: 10 * predicted[2].seconds})
    assert "within 30 % at 0 of 1 batch sizes (the reference run's own left aside)" in misses_in_words(misses)
    assert [one.row()["batch"] for one in misses] == ["128 (the reference run's own)", "512"]
    assert "cannot be said" in misses_in_words(misses[:1])


def test_a_profile_of_one_batch_size_predicts_nothing() -> None:
    one = made_profile().model_copy(update={"points": made_profile().points[:1]})
    assert not one.has_model
    with pytest.raises(InputError, match="holds one batch size, 1: "):
        predict(made_run(128), one, TARGET, BATCHES)


def with_settings(run: RunResult, **settings: str) -> RunResult:
    return replace(
        run, settings=tuple(sorted({**dict(run.settings), **{name.replace("__", "."): value for name, value in settings.items()}}.items()))
    )


def test_other_arguments_of_the_data_are_other_data_and_those_of_the_model_are_said() -> None:
    runs = [*RUNS, *(made_run(64, seed, dataset="made (num_train 2000)") for seed in range(2))]
    found = find(runs)
    assert found.other_settings == {found.setting.model_copy(update={"dataset": "made (num_train 2000)"}): 2}
    wide = [with_settings(run, model__arguments__depth="2", model__arguments__width="128") for run in RUNS[:8]]
    slim = [with_settings(run, model__arguments__depth="2", model__arguments__width="64", stop__epochs="9.0") for run in RUNS[8:]]
    found = find([*wide, *slim])
    assert found.other_settings == {}
    assert str(found.setting) == "mlp (depth 2) on made, cpu (test)", "what all of them share"
    differing = "model.arguments.width (64, 128) and stop.epochs (9.0, not set)"
    assert f"The runs differ in more than what is compared: {differing}." in answer_of(found).words
    assert all(f"differing in {differing}" in chart.caption for chart in charts_of(found, Extras()) if chart.name.endswith("-to-target"))


def test_what_is_compared_is_no_difference_and_another_optimizer_has_other_options() -> None:
    assert differences_in_words(find(RUNS).runs) == ""
    lars = [with_settings(made_run(64, optimizer="lars"), optimizer__name="lars", optimizer__trust_coefficient="0.001")]
    assert differences_in_words(find([*RUNS, *lars]).runs) == ""
    many = [with_settings(made_run(64), **{f"loss__part_{n}": str(seed) for n in range(7)}, seed="0") for seed in range(6)]
    assert "loss.part_0 (0, 1, 2, ..., 5)" in differences_in_words(find(many).runs)
    assert differences_in_words(find(many).runs).endswith(" and 3 more")


@pytest.mark.parametrize(
    ("growth", "words"),
    [
        ([{"epoch": 1.0, "samples": None, "factor": 2.0}, {"epoch": 2.5, "factor": 4.0}], "16 growing to 32 at epoch 1, 64 at epoch 2.5"),
        ("[{'epoch': None, 'samples': 64000, 'tokens': None, 'fraction': None, 'factor': 1.5}]", "16 growing to 24 after 64,000 samples"),
        ([{"fraction": 0.8, "factor": 4.0}], "16 growing to 64 at 0.8 of the run"),
        ("[{'epoch': 1.0, cut", "[{'epoch': 1.0, cut"),
        ([], None),
    ],
)
def test_a_batch_schedule_is_told_in_words(growth: Any, words: str | None) -> None:
    """As a run's folder has it, and as text, as MLflow has it."""
    fields = {"name": "made", "seed": 0, "optimizer.name": "sgd", "dataset.name": "made", "model.name": "mlp", "learning_rate.base": 0.1}
    summary = made_run(16).summary
    grown, constant = (
        RunResult.of({**fields, "batch.schedule.growth": value}, summary, made_run(16).evaluations, "cpu (test)", None) for value in (growth, [])
    )
    assert dict(grown.settings).get("batch.schedule.growth") == words
    assert differences_in_words([grown, constant]) == (f"batch.schedule.growth ({words}, not set)" if words else "")


def test_the_fit_says_what_it_stands_on_and_leaves_out_batches_that_missed() -> None:
    runs = [*(made_run(batch, seed) for batch in BATCHES for seed in range(3)), *(made_run(8192, seed, reaches=seed == 0) for seed in range(3))]
    runs[0] = made_run(32, 0, reaches=False)
    found = find(runs)
    assert found.critical_batch.num_points == 11
    (words,) = (line for line in answer_of(found).words if line.startswith("Critical batch size"))
    assert "stands on 11 runs at 4 batch sizes" in words
    assert "1 run of these that missed is left out" in words
    assert "half of them or more missed: batch 8,192" in words
    assert "evaluations up to" in words, "two evaluations a run are coarse"


def test_fine_evaluations_need_no_word() -> None:
    runs = [fine(made_run(batch, seed)) for batch in BATCHES for seed in range(2)]
    (words,) = (line for line in answer_of(find(runs)).words if line.startswith("Critical batch size"))
    assert "evaluations" not in words


def test_too_few_batches_that_reached_are_said() -> None:
    runs = [made_run(batch, reaches=batch < 500) for batch in BATCHES]
    words = answer_of(find(runs)).words
    assert any("at least three batch sizes must reach the target in half of their runs; 2 of 4 did." in line for line in words)


def test_the_noise_scale_is_a_true_median() -> None:
    runs = [ended(made_run(batch), gradient_noise_scale=scale) for batch, scale in ((32, 100.0), (128, 300.0))]
    assert find(runs).noise_scale == 200.0


def test_a_limit_that_no_batch_keeps_is_answered_with_the_most_accurate_by_then() -> None:
    runs = [fine(made_run(batch, seed)) for batch in BATCHES for seed in range(3)]
    found = find(runs, limits={"seconds": 1.0, "samples": 15_000})
    answers = {one.question: one for one in found.advice}
    by_deadline = answers["within 1 s"]
    top = {batch: max((at.score for at in fine(made_run(batch)).evaluations if at.training_seconds <= 1.0), default=0.0) for batch in BATCHES}
    assert by_deadline.choice.global_batch_size == max(top, key=lambda batch: top[batch])
    assert f"the most accurate by then with {max(top.values()):.4f}, the median of 3 seeds. The target is not met" in by_deadline.reason
    assert "the nearest is" in by_deadline.reason
    assert by_deadline.choice.seconds <= 1.0
    by_samples = answers["within 15,000 samples"]
    assert by_samples.choice.global_batch_size == 32
    nothing = {one.question: one for one in find(runs, limits={"seconds": 1e-6}).advice}["within 1e-06 s"]
    assert nothing.choice is None
    assert nothing.reason.startswith("nothing was evaluated by then; none of 4 batches keeps it")


def test_a_limit_is_answered_where_no_batch_reached_the_target_too() -> None:
    found = find([made_run(batch, seed, reaches=False) for batch in BATCHES for seed in range(2)], limits={"seconds": 1000.0})
    (answer,) = found.advice
    assert answer.choice is not None
    assert "no batch reaches the target at all" in answer.reason
    assert any(line.startswith("Within 1000 s: batch ") for line in answer_of(found).words)


def test_a_run_that_was_never_evaluated_ranks_below_the_others() -> None:
    lost = replace(ended(made_run(64, 2), best_score=None), evaluations=())
    runs = [made_run(64, 0), made_run(64, 1, reaches=False), lost]
    found = find(runs).best[0].best_score
    assert (found.low, found.median, found.high) == (None, TARGET - 0.1, TARGET + 0.01)
    assert "missed ..." in found.text


def test_a_run_of_another_kind_is_no_reference_and_another_models_profile_none_either() -> None:
    setting = find(RUNS).setting
    refuse_other_reference(RUNS[0], setting.model_copy(update={"model": "mlp (width 64)"}))
    with pytest.raises(InputError, match=r"--reference: .* is of mlp on made, H200, and the runs are of mlp on made, cpu \(test\)"):
        refuse_other_reference(made_run(128, device="H200"), setting)
    assert profile_beside_runs(made_profile(), setting, ["sgd"]) == ""
    named = made_profile().model_copy(update={"model_in_words": "mlp (width 64)", "dataset_in_words": "made", "device": "H200"})
    assert "The profile is of mlp (width 64) on made, H200, the runs are of mlp on made, cpu (test)" in profile_beside_runs(named, setting, ["sgd"])
    with pytest.raises(InputError, match="was measured with lenet, and the runs trained mlp"):
        profile_beside_runs(named.model_copy(update={"model_in_words": "lenet"}), setting, ["sgd"])
    with pytest.raises(InputError, match="was measured with sgd, and the runs that it is for trained with lamb"):
        profile_beside_runs(made_profile(), setting, ["lamb"])
    assert profile_beside_runs(made_profile().model_copy(update={"optimizer": "lamb"}), setting, ["sgd", "lamb"]) == ""
    assert "does not say which optimizer's" in profile_beside_runs(made_profile().model_copy(update={"optimizer": None}), setting, ["lamb"])


def test_a_disturbed_clock_is_said() -> None:
    runs = [made_run(batch, seed) for batch in (64, 256, 1024) for seed in range(2)]
    assert not any("disturbed" in sentence for sentence in answer_of(find(runs, TARGET)).words)
    waits = [0.62, 0.3, 0.02, 0.0, None, 0.09]
    shared = [ended(run, core_wait_fraction=wait) for run, wait in zip(runs, waits, strict=True)]
    said = [sentence for sentence in answer_of(find(shared, TARGET)).words if "disturbed" in sentence]
    assert len(said) == 1
    assert "the clock of 2 of 6 runs: they waited for a core up to 62% of the time" in said[0]


def test_runs_that_stood_still_are_said() -> None:
    """A tenth of a run's seconds and more."""
    runs = [made_run(batch, seed) for batch in (64, 256, 1024) for seed in range(2)]
    shares = [3.0, 0.5, 0.01, 0.0, 0.09, 0.0]
    stopped = [
        ended(run, stopped_seconds=share * (run.summary.training_seconds + run.summary.evaluation_seconds))
        for run, share in zip(runs, shares, strict=True)
    ]
    answer = answer_of(find(stopped, TARGET))
    most = seconds_in_words(max(run.summary.stopped_seconds or 0.0 for run in stopped))
    assert [sentence for sentence in answer.words if "stood still" in sentence] == [
        f"2 of 6 runs stood still, stopped or frozen, for up to {most}, which their seconds may count; steps and samples are not touched."
    ]


class TestTokens:
    """What counts in tokens is told in them; the numbers for programs stay in samples."""

    PER_SAMPLE = 128

    def found(self) -> Findings:
        runs = [made_run(batch, seed, 1 + 0.05 * seed) for batch in (32, 128, 512, 2048) for seed in range(3)]
        return find(
            [ended(run, tokens_per_sample=self.PER_SAMPLE) for run in [*runs, made_run(4096, reaches=False)]], TARGET, limits={"samples": 1e4}
        )

    def test_sentences_and_rows(self) -> None:
        found = self.found()
        answer = answer_of(found)
        critical, words = found.critical_batch, " ".join(answer.words)
        assert critical is not None
        assert answer.tokens_per_sample == self.PER_SAMPLE
        assert f"Critical batch size: {critical.critical_batch_size * 128:,.0f} tokens (95 % interval {critical.low * 128:,.0f}" in words
        assert "noise scale that the runs measured is 51,200." in words
        assert "batch 4,096 tokens (32 sequences)" in words
        assert "Within 1,280,000 tokens:" in words
        assert not re.search(r"\bsamples\b", words.replace("steps and samples", ""))
        row = answer.rows[1]
        best = found.best[1].samples.median
        assert best is not None
        assert (row["batch"], row["batch in tokens"], row["tokens"], row["noise scale"]) == ("128", "16,384", f"{best * 128:,.0f}", "51,200")
        assert "samples" not in row

    def test_figures(self) -> None:
        found = self.found()
        plain = find([ended(run, tokens_per_sample=None) for run in found.runs], TARGET)
        for told, in_samples in zip(charts_of(found, Extras(made_profile())), charts_of(plain, Extras(made_profile())), strict=True):
            by_batch = told.x_title == "global batch size in tokens"
            assert by_batch == (in_samples.x_title == "global batch size")
            of = 128 if told.name in {"samples-to-target", "cost-frontier"} else 1
            assert "samples" not in told.title + told.y_title + told.meaning
            for line, before in zip(told.series, in_samples.series, strict=True):
                assert list(line.x) == pytest.approx([x * (128 if by_batch else 1) for x in before.x], nan_ok=True)
                assert list(line.y) == pytest.approx([y * of for y in before.y], nan_ok=True)
            assert [mark for mark, _ in told.marks] == [mark * (128 if by_batch else 1) for mark, _ in in_samples.marks]

    def test_runs_that_count_otherwise_are_told_in_samples(self) -> None:
        runs = [ended(made_run(batch), tokens_per_sample=tokens) for batch, tokens in ((32, 128), (128, 256), (512, None))]
        assert answer_of(find(runs, TARGET)).tokens_per_sample is None


GOLDEN = json.loads((Path(__file__).parent / "golden" / "sweep-findings.json").read_text())
TOLD = {
    "reached": [*(made_run(batch, seed, 1 + 0.05 * seed) for batch in (32, 128, 512, 2048) for seed in range(3)), made_run(64, device="H200")],
    "missed": [made_run(batch, reaches=False) for batch in (32, 128)],
}


def rounded(text: str) -> Any:
    """Numbers to six digits: the last ones are the platform's."""
    return json.loads(text, parse_float=lambda number: float(f"{float(number):.6g}"))


@pytest.mark.parametrize("name", TOLD)
def test_the_body_is_the_one_of_before(name: str) -> None:
    answer = answer_of(find(TOLD[name]))
    assert rounded(answer.model_dump_json()) == GOLDEN[name]
    numbers = {field: value for field, value in GOLDEN[name].items() if field not in {"rows", "figures"}}
    assert rounded(json.dumps(answer.numbers())) == numbers
