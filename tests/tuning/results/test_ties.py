"""What the measurements do not tell apart is called as soon, as cheap, as good: by seeds, by evaluations, within limits."""

import pytest
from made_runs import TARGET, fine, made_profile, made_run

from largebatch.tuning.report.batch_figures import momentum_maps
from largebatch.tuning.results.analysis.advice import advise
from largebatch.tuning.results.analysis.prediction import predict
from largebatch.tuning.results.answers import Choice
from largebatch.tuning.results.findings import find
from largebatch.tuning.results.wording import answer_of

BATCHES = [32, 128, 512, 2048]


class TestTies:
    """What the seeds cannot tell apart is not called the soonest alone."""

    def test_batches_whose_intervals_overlap(self) -> None:
        """At 448 and 512 samples a step the curve's seconds are 2 % apart, and the seeds 10 %."""
        runs = [
            fine(made_run(batch, seed, 1 + 0.05 * seed, learning_rate=0.1, settings=(("batch.global_batch_size", str(batch)),)))
            for batch in (32, 448, 512)
            for seed in range(3)
        ]
        answer = answer_of(find(runs, TARGET))
        soonest, cheapest = answer.advice[:2]
        assert soonest.choice is not None
        assert soonest.choice.seconds_interval is not None
        tied = {448, 512} - {soonest.choice.global_batch_size}
        assert [(tie.global_batch_size, tie.by) for tie in soonest.ties] == [(*tied, "seeds")]
        assert soonest.reason.startswith(f"as soon as batch {tied.pop()}: the seeds do not tell them apart; it takes"), soonest.reason
        assert cheapest.reason.startswith("no other batch compared here reaches the target with fewer samples")
        assert cheapest.ties == []

    def test_a_batch_that_sometimes_misses_may_be_as_late_as_any(self) -> None:
        """Two of three seeds of 512 reach, soonest of all: its interval is open."""
        sometimes = [made_run(512, seed, reaches=seed < 2) for seed in range(3)]
        soonest = answer_of(find([*(made_run(32, seed) for seed in range(3)), *sometimes], TARGET)).advice[0]
        assert soonest.choice is not None
        assert soonest.choice.seconds_interval == (soonest.choice.seconds, None)
        assert "as soon as batch 32: the seeds do not tell them apart" in soonest.reason

    def test_single_seeds_tell_nothing_of_ties(self) -> None:
        soonest = answer_of(find([fine(made_run(batch)) for batch in (32, 128, 2048)], TARGET)).advice[0]
        assert soonest.choice is not None
        assert soonest.choice.seconds_interval is None
        assert soonest.reason.startswith("no other batch compared here reaches the target sooner")

    def test_optimizers_that_are_as_soon(self) -> None:
        """Two optimizers with the same curve: in the headline and in the sentence of each."""
        runs = [
            fine(
                made_run(batch, seed, 1 + 0.05 * seed, optimizer=name, learning_rate=0.1, settings=(("optimizer.name", name), ("batch", str(batch))))
            )
            for name in ("sgd", "lamb")
            for batch in (32, 448)
            for seed in range(3)
        ]
        answer = answer_of(find(runs, TARGET))
        soonest = answer.advice[0]
        assert soonest.choice is not None
        other = {"sgd": "lamb", "lamb": "sgd"}[soonest.choice.optimizer]
        assert (soonest.choice.global_batch_size, other) in {(tie.global_batch_size, tie.optimizer) for tie in soonest.ties}
        assert f"as soon as batch 448 with {other}" in answer.words[1]
        assert [side.advice[0].ties for side in answer.by_optimizer] == [[], []], "within each, 448 is sooner"


class TestSingleSeeds:
    """A choice that stands on one seed is said to, right after the choices."""

    @staticmethod
    def told(num_seeds: dict[int, int], optimizers: tuple[str, ...] = ("sgd",)) -> list[str]:
        """Sentences about seeds. Args: num_seeds: by batch."""
        runs = [
            made_run(batch, seed, optimizer=name, settings=(("batch", str(batch)), ("optimizer.name", name)))
            for name in optimizers
            for batch, num in num_seeds.items()
            for seed in range(num)
        ]
        words = answer_of(find(runs, TARGET)).words
        assert words[2].startswith("Cheapest")
        assert not any(" one seed" in line.lower() for line in [*words[:3], *words[4:]])
        return [line for line in words if " one seed" in line.lower()]

    def test_each_of_them(self) -> None:
        assert self.told({32: 1, 512: 1}) == ["Each choice stands on one seed, and another seed may turn the answer."]
        assert self.told({32: 1}) == ["It stands on one seed, and another seed may turn the answer."]

    def test_some_of_them_are_named(self) -> None:
        assert self.told({32: 3, 512: 1}) == ["On one seed stands batch 512, and another seed may turn the answer."]
        assert self.told({32: 1, 128: 2, 512: 1}, ("sgd", "lamb")) == [
            "On one seed stand batch 32 under sgd, batch 512 under sgd, batch 32 under lamb and batch 512 under lamb, and another seed may turn the "
            "answer."
        ]

    def test_none_of_them(self) -> None:
        assert self.told({32: 3, 512: 2}) == []


class TestEvaluations:
    """A difference below what evaluations resolve is none."""

    @pytest.mark.parametrize(("num", "ties"), [(5, [(512, "evaluations")]), (200, [])])
    def test_choices_closer_than_their_evaluations_are_as_soon(self, num: int, ties: list[tuple[int, str]]) -> None:
        """448 and 512 differ by 2 %: of five evaluations a fifth of the cost lies between two, of two hundred half a per cent."""
        soonest = answer_of(find([fine(made_run(batch), num) for batch in (16, 448, 512)], TARGET)).advice[0]
        assert soonest.choice is not None
        other = {448: 512, 512: 448}[soonest.choice.global_batch_size]
        assert [(tie.global_batch_size, tie.by) for tie in soonest.ties] == [(other, by) for _, by in ties]
        assert soonest.choice.seconds_between_evaluations == pytest.approx(soonest.choice.seconds / num)
        said = f"as soon as batch {other}: they differ by no more than the way between two evaluations"
        assert soonest.reason.startswith(said if ties else "no other batch compared here reaches the target sooner")

    @pytest.mark.parametrize(("samples", "is_tied"), [(2100, True), (2101, False)])
    def test_costs_one_evaluation_apart_may_be_the_same(self, samples: int, is_tied: bool) -> None:
        """Evaluated every 300 samples, a run that met the target at 2,100 may have come to it at 1,801 already, next to one that met it at 1,800."""
        first, later = (
            Choice(
                global_batch_size=batch, seconds=0.1 * at, samples=at, learning_rate=0.1, momentum=None, optimizer="sgd", num_seeds=1,
                seconds_between_evaluations=0.1 * 300, samples_between_evaluations=300,
            )
            for batch, at in ((64, 1800), (128, samples))
        )  # fmt: skip
        soonest, cheapest, _ = advise([first, later])
        ties = [(128, "evaluations")] if is_tied else []
        assert [[(tie.global_batch_size, tie.by) for tie in answer.ties] for answer in (soonest, cheapest)] == [ties, ties]

    def test_what_is_predicted_has_no_evaluations(self) -> None:
        predicted = predict(made_run(128), made_profile(), TARGET, BATCHES)
        choices = [
            Choice(global_batch_size=of.global_batch_size, seconds=of.seconds, samples=of.samples, learning_rate=0.1, momentum=None, optimizer="sgd",
                   num_seeds=0) for of in predicted
        ]  # fmt: skip
        assert all(advice.ties == [] for advice in advise(choices))


class TestLimits:
    """Ties and doubts within a limit."""

    def test_a_limit_that_not_every_seed_keeps_is_said(self) -> None:
        runs = [
            fine(made_run(batch, seed, 1 + 0.2 * seed, learning_rate=0.1, settings=(("batch", str(batch)),)))
            for batch in (32, 512)
            for seed in range(3)
        ]
        slowest = made_run(32, 2, 1.4).evaluations[-1].training_seconds
        for most, is_said in ((0.95 * slowest, True), (1.05 * slowest, False)):
            within = find(runs, TARGET, limits={"seconds": most}).advice[-1]
            assert within.choice is not None
            assert within.choice.global_batch_size == 32
            assert ("Not each of its seeds keeps it." in within.reason) == is_said

    def test_batches_as_good_by_then_are_ties(self) -> None:
        """At half of their ways both have the same scores."""
        runs = [fine(made_run(batch, seed, 1.0, settings=(("batch", str(batch)),))) for batch in (448, 512) for seed in range(3)]
        within = find(runs, TARGET, limits={"seconds": 0.54 * runs[0].evaluations[-1].training_seconds}).advice[-1]
        assert within.choice is not None
        assert [tie.by for tie in within.ties] == ["seeds"]
        assert "as good as batch" in within.reason


@pytest.mark.parametrize(("slower", "text"), [(1.02, "≈ "), (1.5, "")])
def test_momenta_that_the_seeds_do_not_tell_apart_are_marked(slower: float, text: str) -> None:
    runs = [
        made_run(128, seed, factor + 0.05 * seed, momentum=momentum, settings=(("momentum", str(momentum)),))
        for momentum, factor in ((0.9, 1.0), (0.5, slower))
        for seed in range(3)
    ]
    (chart,) = momentum_maps(find(runs, TARGET))
    assert chart.heat is not None
    (soonest,), (other,) = chart.heat.texts[1], chart.heat.texts[0]
    assert other.startswith("≈ ") == bool(text)
    assert not soonest.startswith("≈")
    assert ("the seeds do not tell it from its batch's soonest" in chart.caption) == bool(text)
