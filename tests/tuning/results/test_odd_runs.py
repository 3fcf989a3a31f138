"""Answers about odd runs: targets met before training or at once, scores near zero or below it, single seeds beside several."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import largebatch
from made_runs import BASE, MIN_SAMPLES, TARGET, fine, made_folder, made_profile, made_run, sweep

from largebatch.jobs.errors import InputError
from largebatch.jobs.run.records import Headline
from largebatch.jobs.tasks.metric import ACCURACY, LOSS, Metric
from largebatch.jobs.whole_files import write_text
from largebatch.tuning.results.analysis.prediction import predict
from largebatch.tuning.results.findings import find
from largebatch.tuning.results.run_result import Evaluation, RunResult
from largebatch.tuning.results.whole_answer import SweepFindings
from largebatch.tuning.results.wording import answer_of
from largebatch.tuning.sweep.ledger import begin_sweep

LIKELIHOOD = Metric("log_likelihood", "higher")


def scored(batch: int, scores: list[float], metric: Metric, seed: int = 0) -> RunResult:
    """A run with these scores, evenly apart on its way, that was given no target."""
    run = made_run(batch, seed, learning_rate=0.1, settings=(("batch", str(batch)),))
    last, num = run.evaluations[-1], len(scores)
    points = tuple(
        Evaluation(max(last.step * n // num, 1), last.samples * n // num, last.training_seconds * n / num, score)
        for n, score in enumerate(scores, start=1)
    )
    told = {"headline": Headline.of(metric), "target": None, "best_score": metric.best(scores), "score": scores[-1]}
    return replace(run, evaluations=points, summary=run.summary.model_copy(update=told))


def told_by_card(answer: SweepFindings, label: str) -> str:
    assert answer.card is not None
    return next((line.text for line in answer.card.lines if line.label == label), "")


class TestTargets:
    @pytest.mark.parametrize("size", [3.1234e-10, 3.1234e-14, 1.0, 3.1234e12])
    def test_the_chosen_target_is_reached_by_all_however_small_the_loss(self, size: float) -> None:
        found = find([scored(batch, [10 * size, size * (1 + batch / 1e4)], LOSS) for batch in (32, 64, 128, 256)])
        assert len(found.reached) == 4
        assert found.target == pytest.approx(size * 1.0256, rel=1e-3)

    def test_the_chosen_target_of_a_small_fraction_is_not_zero(self) -> None:
        assert find([scored(batch, [1e-5, 4.5678e-4], ACCURACY) for batch in (32, 64)]).target == 4.567e-4

    @pytest.mark.parametrize(
        ("metric", "best"),
        [(ACCURACY, [0.97777]), (ACCURACY, [0.95, 0.85]), (LOSS, [0.123449]), (LOSS, [3.3e-12, 3.4e-12]), (LIKELIHOOD, [-123.456])],
    )
    def test_the_easier_target_is_reached(self, metric: Metric, best: list[float]) -> None:
        """By more than half of the runs of a choice: the median of two runs is between them, and rounded to the nearest a score is missed."""
        runs = [scored(batch, [metric.goodness(-1e3), score], metric, seed) for batch in (32, 64) for seed, score in enumerate(best)]
        helps = told_by_card(answer_of(find(runs, metric.goodness(1e3))), "What helps")
        (target,) = re.findall("--target ([^`]*)`", helps)
        assert len(find(runs, float(target)).reached) == 2

    def test_a_target_at_or_below_zero_can_be_asked_about(self, tmp_path: Path) -> None:
        folder = tmp_path / "all"
        begin_sweep(folder, sweep(), BASE)
        for batch in (32, 128):
            made_folder(folder, batch)
        for target in ("0", "-126.7"):
            assert json.loads(largebatch("advise", str(folder), "--target", target, "--json").stdout)["target"] == float(target)


class TestBeforeTraining:
    @staticmethod
    def begun(score: float) -> list[RunResult]:
        """Runs that were evaluated before their first step too."""
        runs = [fine(made_run(batch)) for batch in (32, 128, 512)]
        return [replace(run, evaluations=(Evaluation(0, 0, 0.0, score), *run.evaluations)) for run in runs]

    def test_a_target_that_needs_no_training_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"--target: accuracy 0.9 was met before the first step by 3 of 3 runs: .* Give a harder one"):
            find(self.begun(0.95), TARGET)

    def test_no_prediction_is_made_from_it(self) -> None:
        with pytest.raises(InputError, match=r"met 0\.9 before its first step"):
            predict(self.begun(0.95)[0], made_profile(), TARGET, [32])

    def test_another_is_answered_as_without_that_evaluation(self) -> None:
        assert find(self.begun(0.1), TARGET).advice == find([fine(made_run(batch)) for batch in (32, 128, 512)], TARGET).advice


class TestClocksThatStand:
    @pytest.mark.parametrize(("seconds", "num"), [(0.0, 1), (0.0, 3), (-1.0, 1)])
    def test_a_target_that_took_no_time_is_refused(self, seconds: float, num: int) -> None:
        """Of another program's runs whose seconds nobody counted."""
        runs = [fine(made_run(batch)) for batch in (32, 128, 512)]
        standing = [replace(run, evaluations=tuple(at._replace(training_seconds=seconds) for at in run.evaluations)) for run in runs[:num]]
        with pytest.raises(InputError, match=rf"runs: {num} of 3 runs met the target after 0 s or less by their clock, .*`seconds` of --mapping"):
            find([*standing, *runs[num:]], TARGET)


class TestAtTheFirstEvaluation:
    """Where a run met the target at its first evaluation, it is not known where it crossed it, so no curve goes through there."""

    @staticmethod
    def at_once(batches: tuple[int, ...], at_first: tuple[int, ...]) -> SweepFindings:
        runs = [fine(made_run(batch)) for batch in batches]
        met = [replace(run, evaluations=run.evaluations[-1:]) if run.summary.global_batch_size in at_first else run for run in runs]
        return answer_of(find(met, TARGET))

    def test_all_of_them_give_no_critical_batch(self) -> None:
        answer = self.at_once((32, 128, 512, 2048), (32, 128, 512, 2048))
        assert answer.critical_batch is None
        (few,) = (line for line in answer.words if line.startswith("For a critical batch size"))
        assert "in half of their runs after their first evaluation; 0 of 4 did. At batch 32, 128, 512 and 2,048 the first evaluation met" in few
        assert "that reach the target after their first evaluation, and 0 of 4 did" in told_by_card(answer, "Larger machines")

    def test_one_of_them_is_left_out_of_the_fit(self) -> None:
        answer = self.at_once((16, 32, 128, 512, 2048), (16,))
        assert answer.critical_batch is not None
        assert answer.critical_batch.num_points == 4
        assert answer.critical_batch.min_samples == pytest.approx(MIN_SAMPLES, rel=0.1)
        assert any("At batch 16 the first evaluation met the target already" in line for line in answer.words)


class TestBoundless:
    """A fit whose one number is where the search for it ended is told by what bounds it."""

    def test_samples_that_do_not_rise_with_the_batch(self) -> None:
        runs = [scored(batch, [0.5, 0.8, 0.95], ACCURACY) for batch in (1, 2, 4)]
        same = [replace(run, evaluations=tuple(at._replace(samples=10_000 * n) for n, at in enumerate(run.evaluations, 1))) for run in runs]
        answer = answer_of(find(same, TARGET))
        (said,) = (line for line in answer.words if line.startswith("Critical batch size"))
        assert re.match(r"Critical batch size: above \d+ samples, and how far above, the runs do not say; far below it", said)
        assert "beyond the largest batch" not in said
        assert answer.card is not None
        assert answer.card.larger_machines is not None
        for told in (answer.critical_batch, answer.by_optimizer[0].critical_batch, answer.card.larger_machines):
            assert told is not None
            assert (told.is_boundless, told.high) == (True, None), "programs are told, too"

    def test_more_workers_are_told_by_what_bounds_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("made_runs.CRITICAL", 1e12)
        for batch in (32, 128, 512):
            made_folder(tmp_path / "runs", batch)
        write_text(tmp_path / "profile.json", made_profile().model_dump_json())
        said = largebatch("scale", str(tmp_path / "runs"), "--profile", str(tmp_path / "profile.json"), "--workers", "1,8").stdout
        assert re.search(r"critical batch above [\d,]+ samples, and how far above, the runs do not say, gradient", " ".join(said.split()))
        assert "do not rise with the batch, so nothing here says from where on larger batches take longer." in " ".join(said.split())

    def test_steps_that_do_not_fall_with_the_batch(self) -> None:
        runs = [scored(batch, [0.5, 0.8, 0.95], ACCURACY) for batch in (32, 64, 128)]
        in_steps = [
            replace(run, evaluations=tuple(at._replace(samples=100 * n * run.summary.global_batch_size) for n, at in enumerate(run.evaluations, 1)))
            for run in runs
        ]
        answer = answer_of(find(in_steps, TARGET))
        assert answer.critical_batch is not None
        assert not answer.critical_batch.is_boundless, "that is bounded from above"
        assert any(line.startswith("Critical batch size: less than 1 sample (95 % interval 0 ... ") for line in answer.words)
        assert "is less than 1 sample" in told_by_card(answer, "Larger machines")


class TestOneSeedBesideSeveral:
    @pytest.mark.parametrize(("factor", "ties"), [(1.1, [(512, "seeds")]), (2.0, [])])
    def test_a_single_run_within_the_others_range_is_a_tie(self, factor: float, ties: list[tuple[int, str]]) -> None:
        several = [fine(made_run(448, seed, 1 + 0.2 * seed, learning_rate=0.1, settings=(("batch", "448"),)), 200) for seed in range(3)]
        answer = answer_of(find([*several, fine(made_run(512, 0, 1.2 * factor), 200)], TARGET))
        assert [(tie.global_batch_size, tie.by) for tie in answer.advice[0].ties] == ties
        assert answer.card is not None
        assert answer.card.verdict == ("tied" if ties else "unsure")
        chance = "by chance alone the ranges of 3 and of 1 other seed lie apart in 50 % of cases"
        assert (chance in told_by_card(answer, "How sure")) is not bool(ties)

    @pytest.mark.parametrize(("num_seeds", "others", "share"), [(2, 2, 33), (2, 3, 20), (3, 2, 20), (3, 3, None), (6, 2, None)])
    def test_it_is_not_sure_of_what_chance_gives_more_often_than_in_one_of_ten(self, num_seeds: int, others: int, share: int | None) -> None:
        """Of n and m runs of one distribution all of one lie before all of the other in 2 orders of (n + m)! / n! m!."""
        sizes = [(64, seed, 1.0) for seed in range(num_seeds)] + [(512, seed, 3.0) for seed in range(others)]
        runs = [fine(made_run(b, s, f + 0.01 * s, learning_rate=0.1, settings=(("batch", str(b)),)), 200) for b, s, f in sizes]
        answer = answer_of(find(runs, TARGET))
        assert answer.card is not None
        assert (answer.advice[0].ties, answer.card.verdict) == ([], "unsure" if share else "sure")
        chance = f"by chance alone the ranges of {answer.card.choice.num_seeds} and of {answer.card.runners_up[0].choice.num_seeds} other seeds"
        assert (f"{chance} lie apart in {share} % of cases" in told_by_card(answer, "How sure")) is (share is not None)

    def test_what_the_range_of_a_few_seeds_holds_is_said(self) -> None:
        for num_seeds, share in ((2, 50), (3, 75), (5, 94)):
            runs = [fine(made_run(64, seed, 1 + 0.01 * seed, learning_rate=0.1, settings=())) for seed in range(num_seeds)]
            assert f"that of {num_seeds} is their range, which holds at {share} %" in told_by_card(answer_of(find(runs, TARGET)), "Surer with")


def test_runs_that_are_there_twice_count_once() -> None:
    """A folder that was copied, or a run that was repeated with its seed: they were counted in words and in `num_runs`, and in no cost."""
    runs = [made_run(batch, seed) for batch in (32, 64) for seed in (0, 1)]
    again = replace(made_run(64, 1), evaluations=tuple(at._replace(training_seconds=9.0) for at in made_run(64, 1).evaluations))
    found = find([*runs, runs[0], again])
    answer = answer_of(found)
    assert (answer.num_runs, len(found.runs)) == (4, 4)
    assert again in found.runs
    assert "Left out: 2 runs whose settings and seeds are those of a later one, which counts." in answer.words
    assert "Left out: 1 run whose settings and seed are those of a later one, which counts." in answer_of(find([*runs, runs[0]])).words
    assert find([*runs, made_run(32, 0, device="H200")]).other_settings, "another device is no repetition"
