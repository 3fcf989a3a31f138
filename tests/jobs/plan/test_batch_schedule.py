"""Batches that grow: milestones in each unit, doublings, and batches that grow where the rate would fall.

The references walk from sample to sample in plain Python.
"""

import math
from typing import Any, NamedTuple

import pytest
from small_runs import document

from largebatch.jobs.errors import PlanError, SpecError
from largebatch.jobs.plan.describe import plan_facts, plan_lines
from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.plan.notices import never_met_in_words
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.spec.read import build_spec

NUM_SAMPLES, BATCH = 1000, 20
FEW = Facts(NUM_SAMPLES, has_batch_norm=False, micro_batch_size=1000)
DATA = Dataset("planned", range(NUM_SAMPLES), range(250), 10, (9,))


def planned(schedule: dict[str, Any], facts: Facts = FEW, batch: int = BATCH, last: str = "keep", **parts: Any) -> TrainPlan:
    whole = {"global_batch_size": batch, "micro_batch_size": facts.micro_batch_size, "last": last, "schedule": schedule}
    usual = {"batch": whole, "stop": {"epochs": 4.0}, "learning_rate": {"base": 0.5}}
    return make_plan(build_spec(document(**{**usual, **parts})), facts)


class Walked(NamedTuple):
    """A step as a reference or a plan has it."""

    begin: int
    size: int
    rate: float


def walked(plan: TrainPlan) -> list[Walked]:
    """The steps that the loop takes."""
    steps, position = list[Walked](), Position(0, 0)
    while position.schedule_samples < plan.total_progress - 1e-6:
        step = plan.step_at(position)
        steps.append(Walked(position.samples_seen, step.samples.size, step.learning_rate))
        position = step.end
    return steps


def sizes(plan: TrainPlan) -> list[int]:
    return [step.size for step in walked(plan)]


class TestMilestones:
    def test_samples_tokens_and_epochs_name_the_same_sample(self) -> None:
        tokens = FEW._replace(tokens_per_sample=16)
        language = {"task": {"name": "language-modelling"}}
        in_epochs = planned({"growth": [{"epoch": 0.46, "factor": 2.0}, {"epoch": 2.5, "factor": 5.0}]})
        in_samples = planned({"growth": [{"samples": 460, "factor": 2.0}, {"samples": 2500, "factor": 5.0}]})
        in_tokens = planned({"growth": [{"tokens": 460 * 16, "factor": 2.0}, {"tokens": 2500 * 16, "factor": 5.0}]}, tokens, **language)
        as_share = planned({"growth": [{"fraction": 0.115, "factor": 2.0}, {"fraction": 0.625, "factor": 5.0}]})
        # 23 steps of 20 to sample 460, then of 40: 13 and one of 20 to the epoch's end, 25, 12 and at 2480 one more, then of 100.
        assert sizes(in_epochs) == [20] * 23 + [40] * 13 + [20] + [40] * 25 + [40] * 13 + [100] * 4 + [80] + [100] * 10
        assert sizes(in_samples) == sizes(in_tokens) == sizes(as_share) == sizes(in_epochs)

    @pytest.mark.parametrize("samples", [1, 459, 461, 999, 1001, 3999])
    def test_the_first_step_at_or_after_the_sample_is_the_larger(self, samples: int) -> None:
        for step in walked(planned({"growth": [{"samples": samples, "factor": 3.0}]})):
            assert step.size == min(60 if step.begin >= samples else 20, 1000 - step.begin % 1000)

    def test_part_of_a_samples_tokens_is_its_whole(self) -> None:
        plan = planned({"growth": [{"tokens": 16 * 40 - 15, "factor": 2.0}]}, FEW._replace(tokens_per_sample=16), task={"name": "language-modelling"})
        assert sizes(plan)[:3] == [20, 20, 40]

    @pytest.mark.parametrize(
        ("schedule", "used"),
        [
            ({"growth": [{"epoch": 1, "factor": 2.0}]}, [900, 600, 600, 600, 600]),  # steps of 300, then of 600
            ({"warmup": {"start": 100, "epochs": 1.0}}, [993, 900, 900, 900, 900]),  # 100, 120, 144, 173, 207 and 249; 300
        ],
        ids=["grown", "warm-up"],
    )
    def test_what_is_told_in_epochs_is_there_where_dropped_batches_make_them_uneven(self, schedule: dict[str, Any], used: list[int]) -> None:
        def planned_with(**rate: Any) -> TrainPlan:
            parts = {"learning_rate": {"base": 0.5, **rate}, "stop": {"epochs": 5.0}, "evaluation": {"every_epochs": 1.0}}
            return planned(schedule, batch=300, last="drop", **parts)

        begins = [sum(used[:epoch]) for epoch in range(6)]
        falling = planned_with(decay="step", decay_milestones=[2, 4])
        for step in walked(falling):
            epoch = next(epoch for epoch in range(5) if begins[epoch] <= step.begin < begins[epoch + 1])
            assert step.rate == pytest.approx(0.5 * (1.0, 1.0, 0.1, 0.1, 0.01)[epoch], rel=1e-12)
        evaluated, position = list[int](), Position(0, 0)
        while position.samples_seen < begins[-1]:
            step_plan = falling.step_at(position)
            position = step_plan.end
            evaluated += [position.samples_seen] * step_plan.evaluates
        assert evaluated == begins[1:]
        straight = planned_with(warmup_epochs=2, decay="polynomial", decay_power=1, restart={"epoch": 4, "base": 0.2, "warmup_epochs": 0.5})
        places = [*begins[1:5], begins[4] + 250, begins[4] + 500]  # parts of an epoch are those of its order of 1,000
        assert [straight.learning_rate(place) for place in places] == pytest.approx([0.5 * used[0] / begins[2], 0.5, 0.25, 0.0, 0.1, 0.2], abs=1e-12)

    def test_a_rate_begins_again_where_the_batch_grows_at_the_same_place(self) -> None:
        """Of 1,090 samples 90 are dropped: the places of the batch are parts of all of them, so those of the rate are, too."""
        place = 2 + 900 / 1090
        rate = {"base": 0.5, "decay": "constant", "restart": {"epoch": place, "base": 0.2}}
        facts = FEW._replace(num_train_samples=1090)
        plan = planned({"growth": [{"epoch": place, "factor": 3}]}, facts, batch=100, last="drop", learning_rate=rate, stop={"epochs": 5.0})
        steps = list(walked(plan))
        assert {(step.size, step.rate) for step in steps} == {(100, 0.5), (300, 0.2)}
        assert sum(step.size == 100 for step in steps) == 29

    @pytest.mark.parametrize(
        ("stretch", "growth"),
        [
            ({"epoch": 0.7}, [{"epoch": 0.7}, {"epoch": 1.4}, {"epoch": 2.1}]),
            ({"epoch": 0.1}, [{"samples": 100}, {"samples": 200}, {"samples": 300}]),  # 3 x 0.1 is above 0.3 in floats
            ({"samples": 1020}, [{"samples": 1020}, {"samples": 2040}, {"samples": 3060}]),
            ({"fraction": 0.3}, [{"epoch": 1.2}, {"epoch": 2.4}, {"epoch": 3.6}]),
        ],
        ids=str,
    )
    def test_doubling_is_milestones_that_double(self, stretch: dict[str, Any], growth: list[dict[str, Any]]) -> None:
        written = [{**place, "factor": 2.0**number} for number, place in enumerate(growth, 1)]
        one, other = (planned(each | {"rate_follows": "sqrt"}) for each in ({"doubling": {**stretch, "times": 3}}, {"growth": written}))
        assert walked(one) == walked(other)
        assert max(sizes(one)) == 160

    def test_a_late_switch(self) -> None:
        assert sizes(planned({"growth": [{"fraction": 0.75, "factor": 10.0}]})) == [20] * 150 + [200] * 5


RATES: dict[str, tuple[dict[str, Any], Any]] = {
    "cosine": ({"decay": "cosine"}, lambda done: 0.5 + 0.5 * math.cos(math.pi * done)),
    "cosine to a tenth": ({"decay": "cosine", "final_fraction": 0.1}, lambda done: 0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi * done))),
    "line": ({"decay": "polynomial", "decay_power": 1.0}, lambda done: 1 - done),
}
RULES = {"sgd": 1.0, "lars": 1.0, "adamw": 0.5, "lamb": 0.5, "lion": 0.5, "muon": 0.5}


class TestFollowsRate:
    @pytest.mark.parametrize("case", RATES)
    @pytest.mark.parametrize("optimizer", RULES)
    @pytest.mark.parametrize(("by", "largest", "warmup"), [(2, 8, 0.0), (2, 6, 0.5), (3, 9, 1.0), (4, 2, 0.0)])
    def test_each_step_is_the_definitions(self, case: str, optimizer: str, by: int, largest: int, warmup: float) -> None:
        spec, decay = RATES[case]
        plan = planned(
            {"follows_rate": {"largest_factor": largest, "by": by}},
            optimizer={"name": optimizer},
            learning_rate={"base": 0.5, "warmup_epochs": warmup, **spec},
        )
        total, rise = 4 * NUM_SAMPLES, warmup * NUM_SAMPLES
        steps, seen = list[Walked](), 0
        while seen < total:
            left = decay((seen - rise) / (total - rise)) if seen >= rise else 1.0
            multiple = 1
            while multiple * by * left <= 1 + 1e-9 and multiple * by <= largest * by:
                multiple *= by
            if largest * left <= 1 + 1e-9 or multiple > largest:
                multiple = largest
            size = min(BATCH * multiple, NUM_SAMPLES - seen % NUM_SAMPLES)
            middle = seen + size / 2
            scheduled = 0.5 * (middle / rise if middle < rise else decay((middle - rise) / (total - rise)))
            steps.append(Walked(seen, size, scheduled * (max(size, BATCH) / BATCH) ** RULES[optimizer]))
            seen += size
        made = walked(plan)
        assert [(step.begin, step.size) for step in made] == [(step.begin, step.size) for step in steps]
        assert [step.rate for step in made] == pytest.approx([step.rate for step in steps], rel=1e-12)
        assert max(step.size for step in steps) >= BATCH * min(by, largest)
        assert plan.total_steps == len(steps)

    @pytest.mark.parametrize(("optimizer", "rates"), [("sgd", [0.5, 0.5, 0.5, 0.1]), ("adamw", [0.5, 0.25, 0.125, 0.5 / 64 * 20**0.5])])
    def test_steps_by_hand(self, optimizer: str, rates: list[float]) -> None:
        """The rate would fall to 1/4, 1/16 and 1/64 of its peak: batches of 4 and 16 times, and where 64 times are too many, of 20 times."""
        decay = {"base": 0.5, "decay": "step", "decay_factor": 0.25, "decay_milestones": [1.0, 2.0, 3.0]}
        schedule = {"follows_rate": {"largest_factor": 20}}
        steps = walked(planned(schedule, batch=10, optimizer={"name": optimizer}, learning_rate=decay))
        full = [next(step for step in steps if step.begin == begin) for begin in (0, 1000, 2000, 3000)]
        assert [step.size for step in full] == [10, 40, 160, 200]
        assert rates[-1] == pytest.approx(0.5 / 64 * 20 ** RULES[optimizer], rel=0.6)
        assert [step.rate for step in full[:3]] == pytest.approx(rates[:3], rel=1e-12)
        assert full[3].rate == pytest.approx(0.5 / 64 * 20 ** RULES[optimizer], rel=1e-12)

    def test_powers_of_a_tenth_are_whole(self) -> None:
        """0.1^2 is 0.010000000000000002: a hundred times all the same."""
        decay = {"base": 0.5, "decay": "step", "decay_factor": 0.1, "decay_milestones": [1.0, 2.0]}
        assert set(sizes(planned({"follows_rate": {"largest_factor": 500}}, batch=2, learning_rate=decay))) == {2, 20, 200}

    @pytest.mark.parametrize("optimizer", RULES)
    def test_rate_over_batch_to_the_rule_is_that_of_the_decaying_rate(self, optimizer: str) -> None:
        rate = {"base": 0.5, "warmup_epochs": 0.3, "decay": "cosine"}
        grown = planned({"follows_rate": {"largest_factor": 16}}, optimizer={"name": optimizer}, learning_rate=rate)
        constant = planned({}, optimizer={"name": optimizer}, learning_rate=rate)
        for step in walked(grown):
            if step.size >= BATCH:
                middle = step.begin + step.size / 2
                assert step.rate / step.size ** RULES[optimizer] == pytest.approx(
                    constant.learning_rate(middle) / BATCH ** RULES[optimizer], rel=1e-12
                )
        assert grown.total_progress == constant.total_progress
        # Of a cosine from 1 to 0 it is at one half, two thirds, 0.77 and 0.84 of its length that 1/2 ... 1/16 are left: 0.628 of the steps.
        assert grown.total_steps == pytest.approx(200 * (0.3 + 3.7 * 0.628) / 4, abs=4)

    def test_half_lives_and_time_scales_are_those_of_the_decaying_rate(self) -> None:
        """What an average forgets for each sample, and what the decay takes of a weight for each, stay: 0.5^(1/500), and a / (0.3 x 4000)."""
        optimizer = {"name": "adamw", "beta1_half_life_samples": 500, "beta2_half_life_samples": 5000, "weight_decay_time_scale": 0.3}
        plan = planned(FOLLOWS, optimizer=optimizer, learning_rate=COSINE)
        position = Position(0, 0)
        while position.schedule_samples < plan.total_progress - 1e-6:
            step = plan.step_at(position)
            size, middle = step.samples.size, position.samples_seen + step.samples.size / 2
            assert step.options["beta1"] == pytest.approx(0.5 ** (size / 500), rel=1e-12)
            left = 0.5 + 0.5 * math.cos(math.pi * middle / 4000)
            assert step.learning_rate * step.options["weight_decay"] == pytest.approx(left * size / (0.3 * 4000), rel=1e-9)
            position = step.end

    @pytest.mark.parametrize("span", [5, 20])
    def test_batches_are_whole_groups(self, span: int) -> None:
        facts = FEW._replace(has_batch_norm=True)
        plan = planned({"follows_rate": {"largest_factor": 8}}, facts, learning_rate={"base": 0.5, "decay": "cosine"}, batch_norm={"span": span})
        assert all(size % span == 0 for size in sizes(plan))

    def test_fractional_epochs_end_where_they_should(self) -> None:
        plan = planned({"follows_rate": {"largest_factor": 8}}, learning_rate={"base": 0.5, "decay": "cosine"}, stop={"epochs": 2.33})
        steps = walked(plan)
        assert steps[-1].begin < 2330 <= steps[-1].begin + steps[-1].size
        assert plan.total_progress == sum(step.size for step in steps)
        assert {step.size for step in steps} >= {20, 40, 80, 160}


COSINE = {"base": 0.5, "decay": "cosine"}
FOLLOWS = {"follows_rate": {"largest_factor": 8}}


@pytest.mark.parametrize(
    ("schedule", "parts", "field", "said"),
    [
        (FOLLOWS, {"learning_rate": {"base": 0.5}}, "batch.schedule.follows_rate", "nothing to follow: decay constant leaves 1 of the peak"),
        (FOLLOWS, {"learning_rate": {**COSINE, "final_fraction": 0.6}}, "batch.schedule.follows_rate", "leaves 0.6 of the peak"),
        (FOLLOWS, {"learning_rate": {"base": 0.5, "decay": "step", "decay_milestones": [9.0]}}, "batch.schedule.follows_rate", "leaves 1 of"),
        (FOLLOWS, {"optimizer": {"name": "schedule-free-adamw"}}, "batch.schedule.follows_rate", "schedule-free-adamw an average takes the place"),
        (FOLLOWS, {"optimizer": {"entry_point": "torch.optim:NAdam"}}, "batch.schedule.follows_rate", "an optimizer of your own"),
        (FOLLOWS, {"optimizer": {"name": "muon", "other": {"name": "sgd"}}}, "batch.schedule.follows_rate", "muon beside sgd"),
        (FOLLOWS, {"optimizer": {"name": "sgd", "momentum_half_life_samples": 200}}, "batch.schedule.follows_rate", "sgd with a half-life"),
        (FOLLOWS, {"learning_rate": {**COSINE, "restart": {"epoch": 2.0, "base": 0.1}}}, "batch.schedule.follows_rate", "begins again"),
        (FOLLOWS, {"last": "drop"}, "batch.schedule.follows_rate", "batch.last=drop"),
        (FOLLOWS, {"stop": {"steps": 100}}, "batch.schedule.follows_rate", "stop.steps"),
        (FOLLOWS, {"stop": {"epochs": 4.0, "steps": 100}}, "batch.schedule.follows_rate", "stop.steps"),
        (FOLLOWS, {"facts": FEW._replace(couples_samples=True)}, "batch.schedule.follows_rate", "another loss"),
        (FOLLOWS, {"learning_rate": {**COSINE, "scaling": "adascale", "base_global_batch_size": 10}}, "batch.schedule.follows_rate", "AdaScale"),
        ({"follows_rate": {"largest_factor": 51}}, {}, "batch.schedule.follows_rate.largest_factor", "1020, more than the 1000"),
        (
            {"follows_rate": {"largest_factor": 4, "by": 2}},
            {"learning_rate": {"base": 0.5, "decay": "step", "decay_milestones": [1.0]}},
            "batch.schedule.follows_rate.by",
            "at its own milestones",
        ),
        ({"doubling": {"epoch": 0.5, "times": 6}}, {}, "batch.schedule.doubling", "grow to 1280"),
        ({"growth": [{"tokens": 4000, "factor": 2.0}]}, {}, "batch.schedule.growth", "do not count in tokens"),
        ({"growth": [{"fraction": 0.5, "factor": 2.0}]}, {"stop": {"steps": 100}}, "batch.schedule.growth", "a share of stop.epochs"),
        (
            {"doubling": {"samples": 500, "times": 2}},
            {"learning_rate": {**COSINE, "scaling": "adascale", "base_global_batch_size": 10}},
            "batch.schedule",
            "AdaScale",
        ),
        (
            {"doubling": {"samples": 500, "times": 2}, "rate_follows": "sqrt"},
            {"learning_rate": {**COSINE, "restart": {"epoch": 2.0, "base": 0.1}}},
            "batch.schedule.rate_follows",
            "count the batch twice",
        ),
        ({"growth": [{"samples": 500, "factor": 1.3}]}, {"facts": FEW._replace(has_batch_norm=True)}, "batch.schedule.growth", "whole number"),
    ],
)
def test_what_cannot_be_kept_is_refused(schedule: dict[str, Any], parts: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(PlanError, match=said.replace("(", r"\(")) as refused:
        planned(schedule, **{"learning_rate": COSINE, **parts})
    assert refused.value.field == field
    assert refused.value.hint


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({"growth": [{"factor": 2.0}]}, "exactly one of epoch, samples, tokens, fraction"),
        ({"growth": [{"epoch": 1.0, "samples": 5, "factor": 2.0}]}, "exactly one of epoch, samples, tokens, fraction"),
        ({"growth": [{"epoch": 1.0, "factor": 2.0}, {"samples": 5000, "factor": 2.0}]}, "in the same unit"),
        ({"growth": [{"samples": 10, "factor": 2.0}, {"samples": 10, "factor": 4.0}]}, "rising order of samples"),
        ({"growth": [{"samples": 0, "factor": 2.0}]}, "above 0"),
        ({"doubling": {"epoch": 0.0, "times": 2}}, "for ever"),
        ({"doubling": {"fraction": 0.5, "times": 2}}, "longer than the run"),
        ({**FOLLOWS, "doubling": {"epoch": 1.0, "times": 2}}, "doubling and follows_rate each say when"),
        ({**FOLLOWS, "warmup": {"start": 5, "epochs": 1.0}}, "leave warmup out"),
        ({**FOLLOWS, "rate_follows": "sqrt"}, "leave rate_follows out"),
        ({"follows_rate": {}}, "largest_factor: is missing"),
        ({"follows_rate": {"largest_factor": 1}}, "at least 2"),
        ({"rate_follows": "sqrt"}, "give warmup, growth or doubling"),
    ],
)
def test_what_says_nothing_is_refused(schedule: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        planned(schedule)


class TestWords:
    def test_phases_add_up(self) -> None:
        plan = planned({"follows_rate": {"largest_factor": 4}}, FEW._replace(micro_batch_size=30), learning_rate=COSINE)
        facts, steps = plan_facts(plan)["batch_schedule"], walked(plan)
        assert [phase["global_batch_size"] for phase in facts["phases"]] == [20, 40, 80]
        assert [phase["num_micro_batches"] for phase in facts["phases"]] == [1, 2, 3]
        assert sum(phase["num_steps"] for phase in facts["phases"]) == facts["num_steps"] == len(steps)
        assert sum(phase["num_samples"] for phase in facts["phases"]) == 4000
        assert facts["num_constant_steps"] == 200
        firsts = [next(step for step in steps if step.size == size) for size in (20, 40, 80)]
        assert [phase["first_learning_rate"] for phase in facts["phases"]] == [step.rate for step in firsts]
        assert [phase["epoch"] for phase in facts["phases"]] == [step.begin / 1000 for step in firsts]
        assert facts["phases"][-1]["last_learning_rate"] == steps[-1].rate
        assert steps[-1].size < 80, "the epoch's end cuts it short, and its rate with it"
        assert plan_facts(planned({}))["batch_schedule"] is None

    def test_they_are_told(self) -> None:
        from torch import nn

        plan = planned({"warmup": {"start": 10, "epochs": 0.5}, "growth": [{"samples": 2000, "factor": 4.0}], "rate_follows": "linear"})
        lines = plan_lines(plan, nn.Linear(9, 10), DATA, 1000)
        begin = [name for name, _ in lines].index("batch schedule")
        total = len(walked(plan))
        saved = f"{total} steps in place of 200 at 20 throughout, {1 - total / 200:.0%} fewer"
        assert lines[begin][1] == f"10 -> 20 -> 80; the rate follows linearly; {saved}"
        assert lines[begin + 1][1].startswith("from epoch 0: batch 10 to 20, ")
        assert lines[begin + 3][1] == "from epoch 2: batch 80, 26 steps, rate 2 to 1 (its last step has 40 samples), 1 micro-batch a step"
        assert " at the largest batch, 80: " in dict(lines)["memory"]

    @pytest.mark.parametrize(
        ("schedule", "never_met"),
        [
            # 200 steps of 20 samples: the last begins at sample 3,980, with a larger batch at 3,960 or 3,900.
            ({"growth": [{"samples": 3980, "factor": 2.0}]}, None),
            ({"growth": [{"samples": 3981, "factor": 2.0}]}, "sample 3,981 (x 2); the run's last step begins at sample 3,980, epoch 3.98"),
            ({"growth": [{"epoch": 1, "factor": 5.0}, {"epoch": 99, "factor": 9.0}]}, "epoch 99 (x 9); the run's last step begins at sample 3,900"),
            ({"doubling": {"samples": 3000, "times": 2}}, "sample 6,000 (x 4); the run's last step begins at sample 3,960"),
            ({"doubling": {"fraction": 0.3, "times": 3}}, None),
        ],
        ids=str,
    )
    def test_growth_that_no_step_comes_to_is_told(self, schedule: dict[str, Any], never_met: str | None) -> None:
        from torch import nn

        plan = planned(schedule)
        told = [how for _, how in plan_lines(plan, nn.Linear(9, 10), DATA, 1000) if "never met" in how]
        notice = never_met_in_words(plan)
        if never_met is None:
            assert (told, notice) == ([], None)
        else:
            assert told[0].startswith(f"never met: {never_met}")
            assert notice == f"Batch schedule: {told[0]}."

    def test_a_batch_that_never_grows_saves_nothing(self) -> None:
        from torch import nn

        lines = plan_lines(planned({"growth": [{"epoch": 99, "factor": 2.0}]}), nn.Linear(9, 10), DATA, 1000)
        assert dict(lines)["batch schedule"] == "20; the rate as it is; 200 steps, as many as at 20 throughout"

    def test_of_a_batch_that_grows_a_micro_batch_may_be_as_large_as_the_largest(self) -> None:
        assert planned({"growth": [{"samples": 2000, "factor": 4.0}]}).micro_batch_size == 80
        assert planned({"growth": [{"samples": 2000, "factor": 4.0}]}, FEW._replace(world_size=3)).micro_batch_size == 27
        assert planned({}).micro_batch_size == 20
