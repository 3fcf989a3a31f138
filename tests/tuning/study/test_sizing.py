"""Which sweep a budget holds: more time, more care; the same care at every batch."""

from dataclasses import replace

import pytest
from made_runs import TARGET, fine, made_run

from largebatch.jobs.errors import InputError
from largebatch.jobs.spec.read import read_spec
from largebatch.tuning.results.analysis.step_time import Profile, ProfilePoint
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.study.bounds import most_left
from largebatch.tuning.study.expected import FINE, Expected, candidates, evaluates_every
from largebatch.tuning.study.sizing import SweepTime, batches_of, size_sweep, what_was_chosen, what_was_left_out
from largebatch.tuning.sweep.space import count_runs, groups, with_fields
from largebatch.tuning.sweep.spec import BATCH, MOMENTUM, RangeSpec, ResourcesSpec, SweepSpec

SPEC = read_spec("digits-small-batch", [f"stop.target_accuracy={TARGET}", "stop.epochs=20"])


def profile(num_samples: int = 40_000) -> Profile:
    points = [
        ProfilePoint(
            global_batch_size=2**n, micro_batch_size=1, seconds_per_step=0.002 + 2**n / 20_000, seconds_per_epoch=1.0, samples_per_second=1.0,
            peak_memory_bytes=1, num_steps=2,
        )
        for n in range(16)
    ]  # fmt: skip
    return Profile(recipe="made", device="cpu", num_train_samples=num_samples, gradient_bytes=1, points=points, left_out={})


def test_more_time_never_compares_or_searches_less() -> None:
    sizes = []
    for budget_s in (600.0, 1200.0, 3600.0, 36_000.0, 360_000.0):
        sweep = size_sweep(SPEC, profile(), made_run(256), budget_s, ResourcesSpec())
        sizes.append((len(sweep.each[BATCH]) * len(sweep.each[MOMENTUM]), sweep.num_trials))
        assert 0 <= sweep.repeats <= 3
        assert sweep.repeats or sweep.num_trials == 2
    assert [groups for groups, _ in sizes] == sorted(groups for groups, _ in sizes)
    assert sizes[-1] == (12, 12)
    last = size_sweep(SPEC, profile(), made_run(256), 360_000.0, ResourcesSpec())
    assert last.each[BATCH] == [16, 64, 256, 1024, 4096, 16_384], "half the set is too near the last"


def test_a_budget_that_holds_nothing_says_what_would() -> None:
    with pytest.raises(InputError, match="hold no sweep") as refused:
        size_sweep(SPEC, profile(), made_run(256), 10.0, ResourcesSpec())
    minutes = int(refused.value.hint.rpartition(" ")[2].rstrip("m."))
    assert size_sweep(SPEC, profile(), made_run(256), minutes * 60.0, ResourcesSpec()).num_trials >= 1


def test_a_recipe_of_steps_is_compared_in_epochs() -> None:
    steps = with_fields(SPEC, {"stop.epochs": None, "stop.steps": 100})
    sweep = size_sweep(steps, profile(), made_run(256), 3600.0, ResourcesSpec())
    spec = with_fields(steps, sweep.set)
    assert spec.stop.steps is None
    assert spec.stop.epochs == pytest.approx(made_run(256).summary.samples_seen / 40_000)


def test_a_small_budget_leaves_the_costliest_ends_out() -> None:
    """Where runs end at the target the smallest batches cost most by their steps, the largest by their samples."""
    to_target = with_fields(SPEC, {"stop.at_target": True})
    sizes = []
    for budget_s in (80.0, 600.0, 3600.0):
        sweep = size_sweep(to_target, profile(), made_run(256), budget_s, ResourcesSpec())
        sizes.append([batch for batch in sweep.each[BATCH] if isinstance(batch, int)])
    assert sizes[0] == [64, 256, 1024], "the soonest by what is known before, and its neighbours"
    assert sizes[1] == [16, 64, 256, 1024, 4096]
    assert len(sizes[2]) == 6


def test_a_recipe_with_a_half_life_is_compared_with_a_shorter_one() -> None:
    spec = with_fields(SPEC, {"optimizer.momentum_half_life_samples": 4096.0})
    sweep = size_sweep(spec, profile(), made_run(256), 36_000.0, ResourcesSpec())
    assert sweep.each["optimizer.momentum_half_life_samples"] == [1024.0, 4096.0]
    assert "optimizer.momentum" not in sweep.each
    assert "half-lives of momentum (samples) 1024 and 4096" in what_was_chosen(sweep)
    rate = sweep.search.space["learning_rate.base"]
    assert isinstance(rate, RangeSpec)
    assert rate.is_effective
    # The middle is the recipe's effective rate at its own batch of 256, moved to the smallest batch by the root.
    middle = 0.1 / (1 - 0.5 ** (256 / 4096)) * (min(sweep.each["batch.global_batch_size"]) / 256) ** 0.5
    assert (rate.low * rate.high) ** 0.5 == pytest.approx(middle)


def test_a_rate_follows_the_momentum_only_where_momentum_adds_steps_up() -> None:
    """SGD moves by rate / (1 - momentum) in the long run; what muon makes of its mean is as long at any momentum."""
    ranges = {}
    for name in ("sgd", "muon"):
        spec = with_fields(SPEC, {"optimizer": {"name": name, "momentum": 0.9}})
        sweep = size_sweep(spec, profile(), made_run(256), 3600.0, ResourcesSpec())
        assert sweep.each[MOMENTUM] == [0.0, 0.9]
        ranges[name] = sweep.search.space["learning_rate.base"]
    assert isinstance(ranges["sgd"], RangeSpec)
    assert isinstance(ranges["muon"], RangeSpec)
    assert (ranges["sgd"].is_effective, ranges["muon"].is_effective) == (True, False)
    assert ranges["sgd"].low == pytest.approx(10 * ranges["muon"].low)


def test_half_of_an_odd_number_leaves_no_single_sample_over() -> None:
    own = profile(num_samples=1437)
    assert candidates(own) == [16, 64, 256, 719]
    assert candidates(profile(num_samples=1438)) == [16, 64, 256, 719]


class TestFewData:
    """Sizes lie twice apart where that makes no more than six."""

    OWN = profile(num_samples=1437)
    TO_TARGET = with_fields(SPEC, {"stop.at_target": True})

    def sized(self, budget_s: float, at_once: int | None = None) -> SweepSpec:
        return size_sweep(self.TO_TARGET, self.OWN, made_run(256), budget_s, ResourcesSpec(max_searching=at_once))

    def test_six_sizes_where_the_budget_holds_three_runs_at_each(self) -> None:
        assert candidates(self.OWN, FINE) == [16, 32, 64, 128, 256, 719]
        by_budget = {budget_s: self.sized(budget_s) for budget_s in (75.0, 180.0, 600.0, 3600.0)}
        assert [by_budget[budget_s].each[BATCH] for budget_s in (75.0, 3600.0)] == [[16, 64, 256, 719], [16, 32, 64, 128, 256, 719]]
        groups = [len(sweep.each[BATCH]) * len(sweep.each[MOMENTUM]) for sweep in by_budget.values()]
        trials = [sweep.num_trials for sweep in by_budget.values()]
        assert (groups, trials) == (sorted(groups), sorted(trials)), "more time never compares or searches less"

    def test_more_data_keep_four_between_sizes(self) -> None:
        assert size_sweep(self.TO_TARGET, profile(), made_run(256), 36_000.0, ResourcesSpec()).each[BATCH] == [16, 64, 256, 1024, 4096, 16_384]

    def test_a_search_side_by_side_holds_more(self) -> None:
        alone, together = self.sized(300.0), self.sized(300.0, at_once=4)
        assert together.num_trials * len(together.each[BATCH]) > alone.num_trials * len(alone.each[BATCH])
        assert "Searched 4 at a time, reported alone." in what_was_chosen(together)

    def test_runs_that_search_and_report_go_alone(self) -> None:
        least = next(sweep for budget_s in range(20, 400, 5) if (sweep := self.or_none(float(budget_s))) is not None)
        assert (least.num_repeated, least.resources.max_searching, least.budget.rounds_seconds) == (0, None, None)

    def or_none(self, budget_s: float) -> SweepSpec | None:
        try:
            return self.sized(budget_s, at_once=4)
        except InputError:
            return None


class TestTheRecipesOwnBatch:
    """The size nearest to it stays where its run has reached the target: small batches cost most, and large ones alone may all miss."""

    def test_it_stays_beside_the_largest_and_sizes_between_go(self) -> None:
        by_budget = {budget_s: batches_of(size_sweep(SPEC, profile(), made_run(32), budget_s, ResourcesSpec())) for budget_s in (1200.0, 1500.0)}
        assert by_budget == {1200.0: [64, 1024, 16_384], 1500.0: [64, 1024, 4096, 16_384]}
        to_target = with_fields(SPEC, {"stop.at_target": True})
        assert batches_of(size_sweep(to_target, profile(), made_run(16), 130.0, ResourcesSpec())) == [16, 64, 1024]
        assert batches_of(size_sweep(to_target, profile(), made_run(16_384), 250.0, ResourcesSpec())) == [256, 1024, 16_384]

    @pytest.mark.parametrize("own_batch", [32, 256, 8192])
    def test_it_is_left_out_only_where_three_runs_at_each_of_three_sizes_are_too_much(self, own_batch: int) -> None:
        own, run, near, num_kept, num_left_out = profile(), made_run(own_batch), {32: 64, 256: 256, 8192: 16_384}[own_batch], 0, 0
        smallest = {32: [64, 1024, 16_384], 256: [256, 1024, 16_384], 8192: [1024, 4096, 16_384]}[own_batch]
        for budget_s in range(750, 3000, 50):
            sweep = size_sweep(SPEC, own, run, float(budget_s), ResourcesSpec())
            time = SweepTime([Expected(SPEC, own, run)], budget_s, (1 - 0.08) * budget_s - run.summary.wall_seconds)
            num_kept += (is_kept := near in batches_of(sweep))
            num_left_out += not is_kept
            assert is_kept or time.of_each(smallest, 2, 1) > time.for_the_sweep(smallest), budget_s
            assert not is_kept or sweep.num_in_group >= 3
        assert num_kept
        assert num_left_out or own_batch != 32

    def test_of_a_run_that_missed_nothing_is_known_to_work(self) -> None:
        missed = size_sweep(SPEC, profile(), made_run(32, reaches=False), 1200.0, ResourcesSpec())
        assert batches_of(missed) == [1024, 4096, 16_384]

    def test_the_digits_keep_the_largest_batch_whatever_the_budget(self) -> None:
        """At half the training set the demo has LAMB reach what SGD misses; 64 is as near to its batch of 32 as 16, and costs less."""
        own, to_target = profile(num_samples=1437), with_fields(SPEC, {"stop.at_target": True})
        for compared in (None, {"sgd": own, "lamb": profile(num_samples=1437)}):
            chosen = [
                batches_of(size_sweep(to_target, own, made_run(32), float(budget_s), ResourcesSpec(), compared)) for budget_s in range(90, 1200, 10)
            ]
            assert {719, 64} <= set(chosen[0]).intersection(*chosen)

    @pytest.mark.parametrize("optimizers", [(), ("sgd", "lamb")])
    def test_a_person_is_told_which_are_left_out_and_which_budget_holds_them(self, optimizers: tuple[str, ...]) -> None:
        own, run = profile(), made_run(32)
        compared = dict.fromkeys(optimizers, own) or None

        def sized(budget_s: float) -> tuple[SweepSpec, str]:
            sweep = size_sweep(SPEC, own, run, budget_s, ResourcesSpec(), compared)
            return sweep, what_was_left_out(sweep, own, SweepTime([Expected(SPEC, own, run)] * max(len(optimizers), 1), budget_s, budget_s), run)

        _, told = sized(3000.0 if optimizers else 1200.0)
        assert told.startswith("Left out, for the budget: 16, 256" if not optimizers else "Left out, for the budget: 16, ")
        minutes = int(told.partition("--budget ")[2].partition("m ")[0])
        assert told.endswith(f"A new study with --budget {minutes}m compares all 6.")
        sweep, told = sized(60.0 * minutes)
        assert (batches_of(sweep), told) == ([16, 64, 256, 1024, 4096, 16_384], "")

    @pytest.mark.parametrize("left", [0.9, 0.5, 0.2])
    def test_the_budget_that_holds_them_is_a_larger_one(self, left: float) -> None:
        """A start that was slow had used up what a quick one leaves: 1m was said to hold what 60 s did not."""
        own, run = profile(), made_run(32)
        sweep = size_sweep(SPEC, own, run, 1200.0, ResourcesSpec())
        for budget_s in (1200.0, 3000.0, 6000.0):
            told = what_was_left_out(sweep, own, SweepTime([Expected(SPEC, own, run)], budget_s, left * budget_s), run)
            assert 60.0 * int(told.partition("--budget ")[2].partition("m ")[0]) > budget_s

    def test_nothing_is_left_out_of_sizes_twice_apart(self) -> None:
        own, run = profile(num_samples=1437), made_run(256)
        to_target = with_fields(SPEC, {"stop.at_target": True})
        sweep = size_sweep(to_target, own, run, 3600.0, ResourcesSpec())
        assert what_was_left_out(sweep, own, SweepTime([Expected(to_target, own, run)], 3600.0, 3600.0), run) == ""


class TestTimeLeft:
    """What a person is told of the time left, held against what planted runs take."""

    TO_TARGET = with_fields(SPEC, {"stop.at_target": True})

    def test_once_the_sweep_is_sized_it_is_what_its_runs_and_the_rest_take(self) -> None:
        own, reference, budget_s = profile(num_samples=1437), made_run(256), 600.0
        resources = ResourcesSpec(max_searching=2)
        sweep = size_sweep(self.TO_TARGET, own, reference, budget_s, resources, left_s=550.0)
        time = SweepTime([Expected(self.TO_TARGET, own, reference)], budget_s, 550.0, 2)
        batches = [batch for batch in sweep.each[BATCH] if isinstance(batch, int)]
        run_s = [time.one_at(batch) * len(sweep.each[MOMENTUM]) for batch in batches]
        search_s = sweep.num_trials * sum(run_s) / 2
        seeds_s = next(number * sum(run_s) for number in (3, 2, 1) if search_s + number * sum(run_s) <= (sweep.budget.rounds_seconds or 0.0))
        assert time.left_with(sweep) == pytest.approx(search_s + seeds_s + time.after(batches), rel=0.3)
        assert time.left_with(sweep) <= 550.0

    def test_before_anything_trains_it_is_the_budgets_or_that_of_the_longest_search(self) -> None:
        own = profile(num_samples=1437)
        assert most_left(self.TO_TARGET, own, 55.0, 2, 2) == 55.0
        # At half of 20 epochs a run, and 0.3 s beside it; twelve runs two at a time and three seeds of two groups at each size; each once to the end.
        epoch_s = {batch: 1437 * own.seconds_per_step(batch) / batch for batch in (16, 64, 256, 719)}
        runs_s = sum(2 * (12 / 2 + 3) * (10 * seconds + 0.3) + 20 * seconds + 0.3 for seconds in epoch_s.values())
        own_s = 10 * 1437 * own.seconds_per_step(32) / 32 + 0.3
        assert most_left(self.TO_TARGET, own, 36_000.0, 2, 2) == pytest.approx(own_s + runs_s + 6.0)


class TestOptimizers:
    """Compared beside each other within one budget."""

    def test_every_pair_of_optimizer_and_batch_has_as_many_runs_in_ranges_as_wide(self) -> None:
        own = profile()
        sweep = size_sweep(SPEC, own, made_run(256), 7200.0, ResourcesSpec(), {"sgd": own, "lamb": profile()})
        assert (sweep.optimizers, MOMENTUM in sweep.each) == (["sgd", "lamb"], False)
        found = {group.fields["optimizer.name"]: group.space["learning_rate.base"] for group in groups(sweep) if group.fields[BATCH] == 16}
        assert isinstance(found["sgd"], RangeSpec)
        assert isinstance(found["lamb"], RangeSpec)
        of_recipe, usual = made_run(256).learning_rate * (16 / 256) ** 0.5, 0.02 * (16 / 256) ** 0.5
        assert (found["sgd"].low * 6, found["sgd"].high / 6) == pytest.approx((of_recipe, of_recipe))
        assert (found["lamb"].low * 6, found["lamb"].high / 6) == pytest.approx((usual, usual))
        assert count_runs(sweep) == 2 * len(sweep.each[BATCH]) * sweep.num_in_group

    def test_a_budget_is_kept_whatever_the_number(self) -> None:
        """By the expected seconds of its runs, also where one optimizer's steps take three times as long."""
        own = profile()
        slow = own.model_copy(update={"points": [point.model_copy(update={"seconds_per_step": 3 * point.seconds_per_step}) for point in own.points]})
        reference = made_run(256)
        for compared in ({"sgd": own}, {"sgd": own, "lamb": slow}, {"sgd": own, "lamb": slow, "muon": slow}):
            for budget_s in (2400.0, 7200.0, 36_000.0):
                sweep = size_sweep(SPEC, own, reference, budget_s, ResourcesSpec(), compared)
                num_runs = sweep.num_trials + min(sweep.num_repeated, 1)  # the other seeds come as there is time
                batches = [batch for batch in sweep.each[BATCH] if isinstance(batch, int)]
                seconds = sum(Expected(SPEC, own, reference, of).of_a_search(batch) for of in compared.values() for batch in batches) * num_runs
                assert seconds <= 0.65 * budget_s, (list(compared), budget_s)
                assert (sweep.budget.rounds_seconds or 0.0) <= 0.65 * budget_s

    def test_twice_the_budget_holds_for_two_what_the_budget_holds_for_one(self) -> None:
        own = profile()
        one, two = (size_sweep(SPEC, own, made_run(256), budget_s, ResourcesSpec(), dict.fromkeys(names, own))
                    for budget_s, names in ((3600.0, ["sgd"]), (7300.0, ["sgd", "lamb"])))  # fmt: skip
        assert len(two.each[BATCH]) >= len(one.each[BATCH])
        assert two.num_trials >= one.num_trials

    def test_what_was_chosen_names_them(self) -> None:
        own = profile()
        sweep = size_sweep(SPEC, own, made_run(256), 3600.0, ResourcesSpec(), {"sgd": own, "lamb": own})
        assert ", under sgd and lamb: " in what_was_chosen(sweep)
        assert "Momentum is not varied beside optimizers" in what_was_chosen(sweep)

    def test_a_budget_that_holds_too_little_names_how_many(self) -> None:
        own = profile()
        with pytest.raises(InputError, match="under each of 2 optimizers needs about"):
            size_sweep(SPEC, own, made_run(256), 20.0, ResourcesSpec(), {"sgd": own, "lamb": own})


class TestEvaluations:
    """How often a study's runs are evaluated: so that times are told apart, where its cost allows."""

    TRAINED = with_fields(SPEC, {"stop.at_target": True})

    def reference(self, evaluation_s: float) -> RunResult:
        """At batch 256, evaluated ten times on its way."""
        run = fine(made_run(256))
        return replace(run, summary=run.summary.model_copy(update={"evaluation_seconds": 10 * evaluation_s, "training_seconds": 20.0}))

    def test_a_cheap_evaluation_comes_every_twentieth_of_the_way(self) -> None:
        sweep = size_sweep(self.TRAINED, profile(), self.reference(1e-6), 3600.0, ResourcesSpec())
        every = sweep.set["evaluation.every_epochs"]
        assert isinstance(every, float)
        # The run's way at batch 256, made that of the smallest batch by its noise scale of 400.
        crossed = fine(made_run(256)).evaluations
        before, last = crossed[-2], crossed[-1]
        met = before.samples + (TARGET - before.score) / (last.score - before.score) * (last.samples - before.samples)
        assert every * 40_000 == pytest.approx(0.05 * met * (1 + 16 / 400) / (1 + 256 / 400), rel=0.01)
        assert sweep.set["checkpoint.best"] is False, "or every other evaluation would write one"
        assert with_fields(self.TRAINED, sweep.set).evaluation.every_epochs == every
        assert f"Evaluated every {every:g} epochs" in what_was_chosen(sweep)

    def test_a_dear_one_takes_a_fifth_of_the_training_at_most(self) -> None:
        own, reference = profile(), self.reference(0.2)
        every = evaluates_every(self.TRAINED, own, reference)
        assert every is not None
        pace = 20.0 / (reference.summary.steps * own.seconds_per_step(256))
        seconds_per_epoch = pace * 40_000 * min(own.seconds_per_step(batch) / batch for batch in candidates(own))
        assert 0.2 / (every * seconds_per_epoch) == pytest.approx(0.2, rel=0.01)

    def test_what_it_costs_is_in_the_budget(self) -> None:
        own, dear = profile(), self.reference(0.05)
        every = evaluates_every(self.TRAINED, own, dear)
        assert every is not None
        cheap = Expected(self.TRAINED, own, self.reference(0.0))
        more = Expected(self.TRAINED, own, dear).to_the_end(256) - cheap.to_the_end(256)
        reference = dear.summary
        assert more == pytest.approx(20 * 40_000 * reference.evaluation_seconds / reference.samples_seen / every)

    @pytest.mark.parametrize("fields", [{"evaluation.every_epochs": 0.001}, {"stop.patience": 3}])
    def test_the_recipes_own_stays_where_it_is_closer_or_counted(self, fields: dict[str, float]) -> None:
        spec = with_fields(self.TRAINED, fields)
        assert evaluates_every(spec, profile(), self.reference(1e-6)) is None
        assert "evaluation.every_epochs" not in size_sweep(spec, profile(), self.reference(1e-6), 3600.0, ResourcesSpec()).set

    def test_without_a_reference_that_reached_nothing_is_known(self) -> None:
        assert evaluates_every(self.TRAINED, profile(), made_run(256, reaches=False)) is None


def test_sharpness_takes_as_long_under_an_optimizer_of_dear_steps() -> None:
    points = [point.model_copy(update={"seconds_per_step": 3 * point.seconds_per_step}) for point in profile().points]
    dear = profile().model_copy(update={"points": points})
    times = [Expected(SPEC, profile(), made_run(256), own).of_sharpness(10_000.0) for own in (profile(), dear)]
    assert times[0] == times[1] > 0
