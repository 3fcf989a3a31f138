"""The plan: which samples feed which step, how a step is cut, when things happen, and what is refused.

References walk over samples one at a time; the plan works with closed forms and slices.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
from small_runs import document

from largebatch.jobs.errors import PlanError, SpecError
from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.plan.step_plan import Position, StepPlan
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.spec.read import build_spec


def plan(
    num_samples: int, batch: int | str, micro: int | str = 1000, found_micro: int = 1000, norm: bool = False, world_size: int = 1, **parts: Any
) -> TrainPlan:
    """A plan for `num_samples` samples; dotted keys with __ set single values, as in batch__last="drop"."""
    given = document(batch={"global_batch_size": batch, "micro_batch_size": micro}, stop={"epochs": 2.0})
    for path, value in parts.items():
        section, _, field = path.partition("__")
        if field:
            given.setdefault(section, {})[field] = value
        else:
            given[section] = value
    return make_plan(build_spec(given), Facts(num_samples, norm, found_micro if micro == "auto" else int(micro), world_size))


def steps_of(made: TrainPlan) -> Iterator[StepPlan]:
    """The steps of the whole budget, as the loop takes them."""
    position = Position(0, 0)
    while position.schedule_samples < made.total_progress - 1e-6:
        step = made.step_at(position)
        yield step
        position = step.end


def by_epoch(batches: list[Slice]) -> dict[int, list[int]]:
    """Every visited place, in order, for each epoch."""
    visited: dict[int, list[int]] = {}
    for batch in batches:
        visited.setdefault(batch.epoch, []).extend(range(batch.start, batch.stop))
    return visited


# ---- batches in tokens ------------------------------------------------------------------------------------------------


def in_tokens(batch: dict[str, Any], tokens_per_sample: int | None = 128, **rate: Any) -> TrainPlan:
    """A plan for a thousand sequences."""
    given = document(batch=batch, stop={"epochs": 2.0}, learning_rate={"base": 0.1, **rate})
    return make_plan(build_spec(given), Facts(1000, has_batch_norm=False, micro_batch_size=8, tokens_per_sample=tokens_per_sample))


class TestTokens:
    def test_they_are_whole_sequences(self) -> None:
        made, plain = in_tokens({"global_batch_tokens": 64 * 128}), in_tokens({"global_batch_size": 64})
        assert made.global_batch_size == 64
        assert list(made.batches()) == list(plain.batches())
        assert made.in_tokens(10) == 1280
        assert in_tokens({"global_batch_size": 64}, None).in_tokens(10) is None

    @pytest.mark.parametrize("scaling", ["linear", "sqrt", "legw", "adascale"])
    def test_the_base_batch_may_be_said_in_them(self, scaling: str) -> None:
        made = in_tokens({"global_batch_tokens": 64 * 128}, base_global_batch_tokens=16 * 128, scaling=scaling, warmup_epochs=0.1)
        plain = in_tokens({"global_batch_size": 64}, base_global_batch_size=16, scaling=scaling, warmup_epochs=0.1)
        assert (made.scaled_rate, made.total_steps, made.total_progress) == (plain.scaled_rate, plain.total_steps, plain.total_progress)
        assert [made.learning_rate(at) for at in range(0, 2000, 50)] == [plain.learning_rate(at) for at in range(0, 2000, 50)]

    @pytest.mark.parametrize(
        ("batch", "rate", "tokens_per_sample", "words"),
        [
            ({"global_batch_tokens": 1000}, {}, 128, "batch.global_batch_tokens: 1000 tokens are no whole number .* Nearest: 896 or 1024"),
            ({"global_batch_tokens": 100}, {}, 128, "Nearest: 128[.]"),
            ({"global_batch_tokens": 128 * 1001}, {}, 128, "128128 tokens are 1001 sequences, which is more than the 1000 .* 128000"),
            ({"global_batch_tokens": 1000}, {}, None, "do not count in tokens. Give batch.global_batch_size, in samples"),
            ({"global_batch_size": 8}, {"base_global_batch_tokens": 100}, 128, "learning_rate.base_global_batch_tokens: 100 tokens are no whole"),
        ],
    )
    def test_others_are_refused(self, batch: dict[str, Any], rate: dict[str, Any], tokens_per_sample: int | None, words: str) -> None:
        with pytest.raises(PlanError, match=words):
            in_tokens(batch, tokens_per_sample, **rate)

    @pytest.mark.parametrize(
        ("batch", "rate", "words"),
        [
            ({}, {}, "exactly one of global_batch_size and global_batch_tokens"),
            ({"global_batch_size": 8, "global_batch_tokens": 1024}, {}, "exactly one of"),
            ({"global_batch_size": 8}, {"base_global_batch_size": 8, "base_global_batch_tokens": 8}, "give one of base_global_batch_size and"),
        ],
    )
    def test_both_or_none_is_no_spec(self, batch: dict[str, Any], rate: dict[str, Any], words: str) -> None:
        with pytest.raises(SpecError, match=words):
            in_tokens(batch, **rate)


# ---- every sample once ------------------------------------------------------------------------------------------------

SIZES = [(n, b) for n in (1, 2, 7, 12, 60, 61, 97) for b in (1, 2, 5, 12, 60, 61) if b <= n]


@pytest.mark.parametrize("last", ["keep", "drop"])
@pytest.mark.parametrize(("num_samples", "batch"), SIZES)
def test_every_sample_of_an_epoch_exactly_once(num_samples: int, batch: int, last: str) -> None:
    made = plan(num_samples, batch, batch__last=last, stop__epochs=3.0)
    batches = list(made.batches())
    used = num_samples if last == "keep" else num_samples - num_samples % batch
    assert by_epoch(batches) == {epoch: list(range(used)) for epoch in range(3)}
    assert {b.size for b in batches} <= {batch, num_samples % batch}
    assert made.samples_per_epoch == used
    for epoch, found in itertools.groupby(batches, key=lambda b: b.epoch):
        sizes = [b.size for b in found]
        assert sizes[:-1] == [batch] * (len(sizes) - 1), f"only the last batch of epoch {epoch} may be short"


@pytest.mark.parametrize("last", ["keep", "drop"])
@pytest.mark.parametrize("at_least", [1, 2, 5])
@pytest.mark.parametrize("micro", [1, 4, 5, 12, 1000])
@pytest.mark.parametrize(("num_samples", "batch"), [(7, 5), (60, 12), (61, 60), (97, 61), (97, 97)])
def test_split_gives_every_sample_once_in_order(num_samples: int, batch: int, micro: int, at_least: int, last: str) -> None:
    made = plan(num_samples, batch, micro, batch__last=last)
    for step in made.batches():
        parts = step.split(made.micro_batch_size, made.unit, at_least)
        assert by_epoch(parts) == by_epoch([step])
        assert all(0 < part.size <= micro for part in parts)
        assert len(parts) >= min(at_least, 2, step.size), "the noise scale needs two; more are aimed for"
        assert len({part.size for part in parts[:-1]}) <= 1
        if at_least == 1:
            assert len(parts) == math.ceil(step.size / min(micro, batch)), "no more micro-batches than needed"


@pytest.mark.parametrize("last", ["keep", "drop"])
@pytest.mark.parametrize("at_least", [1, 2, 3])
@pytest.mark.parametrize(
    ("num_samples", "batch", "span", "micro"),
    [
        (60, 12, 4, 4),
        (60, 12, 4, 8),
        (60, 12, 4, 12),
        (62, 12, 4, 8),
        (62, 12, 6, 6),
        (98, 48, 8, 16),
        (95, 48, 8, 1000),
        (95, 48, "global", 48),
        (95, 48, "auto", 48),
        (1000, 300, "auto", 1000),
        (1000, 257, "auto", 1000),
        (95, 48, "global", 64),
    ],
)
def test_split_never_cuts_a_group(num_samples: int, batch: int, span: int | str, micro: int, at_least: int, last: str) -> None:
    made = plan(num_samples, batch, micro, norm=True, batch__last=last, batch_norm__span=span)
    assert made.micro_batch_size <= max(micro, made.span)
    for step in made.batches():
        parts = step.split(made.micro_batch_size, made.unit, at_least)
        assert by_epoch(parts) == by_epoch([step])
        assert all(part.size <= made.micro_batch_size for part in parts)
        assert all((part.start - step.start) % made.span == 0 for part in parts)
        assert len(parts) >= min(at_least, 2, math.ceil(step.size / made.span)), "two wherever there are two groups"


def test_gradient_accumulation_steps_count_the_micro_batches_of_a_full_step() -> None:
    for batch, micro, world_size, steps in ((64, 16, 1, 4), (64, 16, 2, 2), (65, 16, 1, 5), (65, 16, 2, 3), (8, 16, 1, 1), (64, 16, 4, 1)):
        assert plan(100, batch, micro, world_size=world_size).gradient_accumulation_steps == steps


def test_full_is_the_whole_set() -> None:
    made = plan(61, "full", micro=10)
    assert made.global_batch_size == 61
    assert list(made.batches()) == [Slice(0, 0, 61), Slice(1, 0, 61)]


def test_a_position_alone_decides_the_next_batch() -> None:
    for last in ("keep", "drop"):
        made = plan(50, 12, batch__last=last, stop__epochs=3.0)
        assert [step.samples for step in steps_of(made)] == list(made.batches())


# ---- how long ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["keep", "drop"])
@pytest.mark.parametrize("stop", [{"epochs": 1.0}, {"epochs": 3.0}, {"epochs": 2.5}, {"epochs": 0.3}, {"steps": 1}, {"steps": 23}], ids=str)
@pytest.mark.parametrize("limit", [None, 1, 4, 9, 1000])
@pytest.mark.parametrize(("num_samples", "batch"), [(60, 12), (61, 12), (50, 12), (12, 12), (97, 1), (97, 60)])
def test_totals_equal_the_walk(num_samples: int, batch: int, stop: dict[str, Any], limit: int | None, last: str) -> None:
    if limit and "epochs" in stop:
        stop = {**stop, "steps": limit}
    made = plan(num_samples, batch, batch__last=last, stop=stop)
    walked = list(made.batches())
    assert (made.total_steps, made.total_progress) == (len(walked), sum(b.size for b in walked))


@pytest.mark.parametrize(
    ("epochs", "stops"),
    [
        (0.1, [12]),  # a budget that ends inside of a step takes the step whole
        (0.24, [12]),
        (0.25, [12, 24]),
        (1.0, [12, 24, 36, 48, 50]),
        (1.2, [12, 24, 36, 48, 50, 12]),
        (1.25, [12, 24, 36, 48, 50, 12, 24]),
    ],
)
def test_fractional_epochs(epochs: float, stops: list[int]) -> None:
    assert [b.stop for b in plan(50, 12, stop__epochs=epochs).batches()] == stops


def test_fractions_that_have_no_exact_float_end_where_they_should() -> None:
    # 0.1 + 0.2 and the like: 3 tenths of 10 batches are 3 batches, never 4.
    for tenths in range(1, 31):
        assert plan(100, 10, stop__epochs=tenths / 10).total_steps == tenths


def test_the_earlier_of_epochs_and_steps_counts() -> None:
    assert plan(60, 12, stop={"epochs": 2.0, "steps": 7}).total_steps == 7
    assert plan(60, 12, stop={"epochs": 1.0, "steps": 7}).total_steps == 5
    assert plan(60, 12, stop={"steps": 7}).total_progress == 84


# ---- batches that change ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["keep", "drop"])
def test_batch_warm_up(last: str) -> None:
    made = plan(1000, 100, batch__last=last, batch__schedule={"warmup": {"start": 10, "epochs": 1.0}}, stop__epochs=2.0)
    batches = list(made.batches())
    assert batches[0].size == 10
    for batch in batches:
        if batch.epoch == 0 and batch.stop < 1000 - 100:
            # The line from 10 to 100 at the step's first sample, rounded to whole samples.
            assert batch.size == round(10 + 90 * batch.start / 1000)
    assert [b.size for b in batches if b.epoch == 1] == [100] * 10
    visited = by_epoch(batches)
    assert (visited[1], visited[0]) == (list(range(1000)), list(range(len(visited[0]))))
    assert len(visited[0]) == 1000 if last == "keep" else len(visited[0]) > 900
    assert (made.total_steps, made.total_progress) == (len(batches), sum(b.size for b in batches))


def test_batch_growth() -> None:
    growth = [{"epoch": 1.0, "factor": 2.0}, {"epoch": 2.5, "factor": 5.0}]
    made = plan(1000, 100, batch__schedule={"growth": growth}, stop__epochs=4.0)
    sizes = {epoch: [b.size for b in made.batches() if b.epoch == epoch] for epoch in range(4)}
    # Half of epoch 2 is reached within its third step of 200; from there on, steps of 500 take what is left.
    assert sizes == {0: [100] * 10, 1: [200] * 5, 2: [200, 200, 200, 400], 3: [500, 500]}
    assert by_epoch(list(made.batches())) == {epoch: list(range(1000)) for epoch in range(4)}


@pytest.mark.parametrize(("follows", "power"), [("none", 0.0), ("sqrt", 0.5), ("linear", 1.0)])
def test_the_rate_follows_a_batch_that_changes(follows: str, power: float) -> None:
    """By hand: 130 samples in steps of 40, 40, 40 and 10, which has a full step's rate; then of 80 and 50."""
    schedule = {"growth": [{"epoch": 1.0, "factor": 2.0}], "rate_follows": follows}
    steps = list(steps_of(plan(130, 40, batch__schedule=schedule, learning_rate={"base": 0.3}, stop__epochs=2.0)))
    assert [step.samples.size for step in steps] == [40, 40, 40, 10, 80, 50]
    assert [step.learning_rate for step in steps] == pytest.approx([0.3] * 4 + [0.3 * 2**power, 0.3 * 1.25**power], rel=1e-12)


def test_the_rate_follows_a_warm_up_of_the_batch() -> None:
    schedule = {"warmup": {"start": 10, "epochs": 1.0}, "rate_follows": "linear"}
    steps = list(steps_of(plan(400, 40, batch__schedule=schedule, learning_rate={"base": 0.4}, stop__epochs=2.0)))
    first = [step for step in steps if step.samples.epoch == 0 and step.samples.stop < 400]
    assert [step.learning_rate for step in first] == pytest.approx([0.4 * step.samples.size / 40 for step in first], rel=1e-12)
    assert {step.learning_rate for step in steps if step.samples.epoch == 1} == {0.4}


def test_a_rate_that_follows_nothing_is_refused() -> None:
    with pytest.raises(SpecError, match="rate_follows says how the rate follows a batch that changes"):
        plan(100, 10, batch__schedule={"rate_follows": "sqrt"})
    rate = {"base": 0.1, "restart": {"epoch": 1.0, "base": 0.1}}
    with pytest.raises(PlanError, match="would count the batch twice"):
        plan(100, 10, batch__schedule={"growth": [{"epoch": 1.0, "factor": 2.0}], "rate_follows": "sqrt"}, learning_rate=rate)


@pytest.mark.parametrize("last", ["keep", "drop"])
@pytest.mark.parametrize("span", [4, 8])
def test_changing_batches_hold_whole_groups(span: int, last: str) -> None:
    schedule = {"warmup": {"start": 8, "epochs": 0.7}, "growth": [{"epoch": 1.5, "factor": 1.6}]}
    made = plan(300, 40, norm=True, batch__last=last, batch__schedule=schedule, batch_norm__span=span, stop__epochs=3.0)
    batches = list(made.batches())
    assert len({b.size for b in batches}) > 3
    assert all(b.size % span == 0 or b.stop == 300 for b in batches)
    if last == "drop":
        assert all(b.size % span == 0 for b in batches)
    for batch in batches:
        assert by_epoch(batch.split(made.micro_batch_size, made.unit)) == by_epoch([batch])


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        ({"growth": [{"epoch": 1.0, "factor": 1.6}]}, "batch.schedule.growth"),  # 37 * 1.6 = 59.2
        ({"warmup": {"start": 12, "epochs": 1.0}}, "batch.schedule.warmup.start"),
    ],
)
def test_a_scheduled_batch_that_cuts_a_group_is_refused(schedule: dict[str, Any], field: str) -> None:
    with pytest.raises(PlanError, match="whole number of batch-norm groups") as refused:
        plan(60, 37, norm=True, batch__schedule=schedule, stop__epochs=3.0)
    assert refused.value.field == field


# ---- spans and micro-batches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "asked", "span"),
    [
        (100, "auto", 100),
        (128, "auto", 128),
        (256, "auto", 128),
        (300, "auto", 100),  # three groups filled to the last place; 128 would leave 44
        (257, "auto", 129 - 43),  # 3 x 86 = 258, one place empty: the fullest there is, for 257 is prime
        (300, "global", 300),
        (300, 50, 50),
        (40, 40, 40),
        (40, "global", 40),
    ],
)
def test_span(batch: int, asked: int | str, span: int) -> None:
    assert plan(1000, batch, norm=True, batch_norm__span=asked, batch__last="drop").span == span


def test_auto_span_wastes_least() -> None:
    for batch in range(129, 1000, 7):
        span = plan(1000, batch, norm=True, batch__last="drop").span
        waste = {s: (s - batch % s) % s for s in range(32, 129)}
        assert waste[span] == min(waste.values())
        assert span == max(s for s in waste if waste[s] == waste[span])


def test_without_batch_norm_there_are_no_groups() -> None:
    made = plan(100, 30, 7, batch_norm__span=4)
    assert made.span is None
    assert [part.size for part in Slice(0, 0, 30).split(7, made.unit)] == [7, 7, 7, 7, 2]


@pytest.mark.parametrize(
    ("found", "span", "micro"),
    [(256, 64, 256), (100, 64, 64), (65, 64, 64), (64, 64, 64), (1000, 64, 512), (1000, "auto", 512)],
)
def test_an_automatic_micro_batch_is_cut_to_whole_groups(found: int, span: int | str, micro: int) -> None:
    assert plan(1000, 512, "auto", found, norm=True, batch__last="drop", batch_norm__span=span).micro_batch_size == micro


def test_a_micro_batch_is_never_larger_than_the_batch() -> None:
    assert plan(100, 30, 64).micro_batch_size == 30
    # One group that the batch does not fill: the micro-batch holds the group.
    assert plan(1000, 257, 257, norm=True, batch__last="drop").micro_batch_size == 258


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("span", [None, 8])
def test_shares_cover_every_batch_once_in_whole_groups(world_size: int, span: int | None) -> None:
    made = plan(203, 64, 8, norm=span is not None, world_size=world_size, batch_norm__span=span or "auto", stop__epochs=2.0)
    streams = [made.shares_from(0, rank) for rank in range(world_size)]
    for step in steps_of(made):
        shares = [step.share(rank) for rank in range(world_size)]
        assert shares == [next(stream) for stream in streams]
        assert [share.start for share in shares[1:]] == [share.stop for share in shares[:-1]]
        assert (shares[0].start, shares[-1].stop) == (step.samples.start, step.samples.stop)
        groups = [-(-share.size // step.unit) for share in shares]
        assert max(groups) - min(groups) <= 1
        assert step.largest_share >= max(share.size for share in shares) - step.unit + 1
    assert made.gradient_accumulation_steps == -(-made.step_at(Position(0, 0)).largest_share // made.micro_batch_size)


# ---- evaluation and noise ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["keep", "drop"])
@pytest.mark.parametrize("every", [0.1, 0.25, 0.3, 1 / 3, 0.7, 1.0, 1.5, 2.0, 7.0])
@pytest.mark.parametrize(("num_samples", "batch"), [(100, 10), (1000, 7), (60, 60), (97, 12)])
def test_evaluations_fall_due_once_for_each_multiple(num_samples: int, batch: int, every: float, last: str) -> None:
    made = plan(num_samples, batch, batch__last=last, evaluation__every_epochs=every, stop__epochs=6.0)
    due = [step.end.samples_seen for step in steps_of(made) if step.evaluates]
    # The first step that reaches each multiple; several multiples within one step are one evaluation.
    ends = list(itertools.accumulate(step.size for step in made.batches()))
    multiples = [number * every * made.samples_per_epoch for number in range(1, math.floor(6 / every + 1e-9) + 1)]
    assert due == sorted({next(end for end in ends if end >= multiple - 1e-6) for multiple in multiples})


def test_ten_tenths_are_ten_evaluations_an_epoch() -> None:
    made = plan(100, 10, evaluation__every_epochs=0.1, stop__epochs=2.0)
    assert [step.evaluates for step in steps_of(made)] == [True] * 20


def test_checkpoints_by_steps_fall_due_at_every_multiple() -> None:
    made = plan(100, 10, checkpoint__every_steps=4, stop__epochs=1.0)
    assert [step.number for step in steps_of(made) if step.saves] == [4, 8]
    assert not any(step.saves for step in steps_of(plan(100, 10, stop__epochs=1.0)))


@pytest.mark.parametrize(
    ("batch", "micro", "norm", "asked", "steps"),
    [
        (64, 16, False, "auto", 1),  # accumulated anyway: free
        (64, 64, False, "auto", 30),
        (64, 64, False, 3, 3),
        (64, 16, False, 0, 0),
        (64, 64, True, "auto", 0),  # one batch-norm group cannot be split
        (64, 64, True, 5, 0),
        (1, 1, False, "auto", 0),
    ],
)
def test_noise_is_measured_when_it_can_be(batch: int, micro: int, norm: bool, asked: int | str, steps: int) -> None:
    made = plan(128, batch, micro, norm=norm, gradient__noise_every_steps=asked, stop={"steps": 60})
    assert made.noise_every_steps == steps
    assert [step.number for step in steps_of(made) if step.measures_noise] == ([n for n in range(1, 61) if n % steps == 0] if steps else [])


# ---- learning rate ----------------------------------------------------------------------------------------------------


def test_warm_up_and_decay_are_laid_over_the_samples_that_are_used() -> None:
    # 1000 samples in steps of 300, the last dropped: an epoch is 900 samples, four of them 3600.
    rate = {"base": 0.4, "warmup_epochs": 1.0, "decay": "polynomial", "decay_power": 1.0}
    made = plan(1000, 300, batch__last="drop", learning_rate=rate, stop__epochs=4.0)
    assert [made.learning_rate(p) for p in (0, 450, 900, 2250, 3600)] == pytest.approx([0.0, 0.2, 0.4, 0.2, 0.0], abs=1e-15)


def test_the_same_schedule_under_any_batch() -> None:
    rate = {"base": 0.4, "warmup_epochs": 0.5, "decay": "cosine"}
    plans = [plan(1000, batch, learning_rate=rate, stop__epochs=4.0) for batch in (1, 32, 300, 1000)]
    for progress in range(0, 4000, 333):
        assert len({made.learning_rate(progress) for made in plans}) == 1


def test_rules_scale_the_plans_rate() -> None:
    rate = {"base": 0.1, "base_global_batch_size": 25, "warmup_epochs": 0.5, "scaling": "legw"}
    made = plan(1000, 100, learning_rate=rate, stop__epochs=4.0)
    # Root of 4 times the rate, 4 times half an epoch of warm-up.
    assert [made.learning_rate(p) for p in (1000, 2000, 3999)] == pytest.approx([0.1, 0.2, 0.2], rel=1e-12)
    assert made.scale_ratio == 0.0


@pytest.mark.parametrize(
    ("stop", "progress", "steps"),
    [({"steps": 50}, 500, 50), ({"epochs": 2.0}, 200, 20), ({"epochs": 2.0, "steps": 5}, 50, 5), ({"epochs": 0.5, "steps": 500}, 50, 5)],
    ids=str,
)
def test_adascale_counts_in_steps_of_the_base_batch(stop: dict[str, Any], progress: float, steps: int) -> None:
    rate = {"base": 0.1, "base_global_batch_size": 10, "scaling": "adascale"}
    made = plan(100, 40, 10, learning_rate=rate, stop=stop)
    assert (made.scale_ratio, made.total_progress) == (4.0, progress)
    assert made.total_steps == steps, "with a gain of 1 throughout"
    assert made.noise_every_steps == 1


@pytest.mark.parametrize(
    ("num_samples", "base", "last", "steps"),
    [
        (100, 10, "keep", 20),  # 40 + 40 + 20: every step moves at least one base batch
        (85, 10, "keep", 20),  # a last batch of 5 moves 5 of the 170: six epochs of 10 + 10 + 5 make 150, and two steps more
        (85, 10, "drop", 16),  # of 80 an epoch, as the schedules count it
        (85, 40, "keep", 6),  # 40 + 40 + 5 twice
    ],
)
def test_the_most_steps_under_adascale(num_samples: int, base: int, last: str, steps: int) -> None:
    made = plan(num_samples, 40, 10, learning_rate={"base": 0.1, "base_global_batch_size": base, "scaling": "adascale"}, batch__last=last)
    assert made.total_steps == steps, "with a gain of 1 throughout, or less for a batch below the base"
    count, position = 0, Position(0, 0)
    while position.schedule_samples < made.total_progress - 1e-6:  # as the loop does
        step = made.step_at(position)
        count, position = count + 1, made.with_gain(step, min(1.0, step.samples.size / base)).end
    assert count == steps


@pytest.mark.parametrize("last", ["keep", "drop"])
@pytest.mark.parametrize("batch", [40, 60])
def test_with_the_whole_ratio_adascale_takes_the_epochs_that_are_asked_for(batch: int, last: str) -> None:
    """Of 85 samples steps of 60 use 60, where the last batch is dropped, so that ten epochs are 600 samples."""
    rate = {"base": 0.1, "base_global_batch_size": 5, "scaling": "adascale", "decay": "step", "decay_milestones": [3.0, 9.0]}
    made = plan(85, batch, 10, learning_rate=rate, batch__last=last, stop__epochs=10.0)
    position, rates = Position(0, 0), dict[int, float]()
    while position.schedule_samples < made.total_progress - 1e-6:
        step = made.step_at(position)
        step = made.with_gain(step, step.samples.size / 5)
        rates.setdefault(step.samples.epoch, step.learning_rate / (step.gain or 1.0))
        position = step.end
    assert list(rates) == list(range(10))
    assert list(rates.values()) == pytest.approx([0.1] * 3 + [0.01] * 6 + [0.001])


@pytest.mark.parametrize("last", ["keep", "drop"])
@pytest.mark.parametrize("schedule", [{}, {"warmup": {"start": 8, "epochs": 1.5}}, {"growth": [{"epoch": 1.0, "factor": 2.0}]}], ids=str)
@pytest.mark.parametrize("stop", [{"epochs": 3.0}, {"epochs": 0.5}, {"steps": 2}, {"steps": 3}, {"steps": 4}, {"epochs": 1.0, "steps": 90}], ids=str)
def test_every_size_of_a_step_is_known_beforehand(stop: dict[str, Any], schedule: dict[str, Any], last: str) -> None:
    made = plan(100, 32, stop=stop, batch__schedule=schedule, batch__last=last)
    kinds = [batch.size for batch in made.kinds_of_batch()]
    assert len(set(kinds)) == len(kinds)
    assert set(kinds) == {batch.size for batch in made.batches()}


# ---- refusals ---------------------------------------------------------------------------------------------------------

ADASCALE = {"base": 0.1, "base_global_batch_size": 16, "scaling": "adascale"}


@pytest.mark.parametrize(
    ("num_samples", "batch", "options", "field", "said"),
    [
        (100, 101, {}, "batch.global_batch_size", ["101", "100"]),
        (1000, 96, {"norm": True, "micro": 48, "batch_norm__span": 32}, "batch_norm.span", ["32", "48", "64"]),
        (1000, 96, {"norm": True, "micro": 16, "batch_norm__span": 32}, "batch_norm.span", ["32", "16"]),
        (1000, 100, {"norm": True, "batch_norm__span": 32}, "batch_norm.span", ["32", "100", "25", "96 or 128"]),
        (1000, 512, {"norm": True, "micro": "auto", "found_micro": 50, "batch_norm__span": 64}, "batch_norm.span", ["64", "50"]),
        (97, 48, {"norm": True, "batch_norm__span": 8}, "batch.last", ["single sample"]),
        (101, 50, {"norm": True}, "batch.last", ["single sample"]),
        (10, 1, {"norm": True}, "batch.global_batch_size", ["single sample", "at least 2"]),
        (10, 1, {"norm": True, "batch__last": "drop"}, "batch.global_batch_size", ["single sample", "at least 2"]),
        (1000, 40, {"norm": True, "batch_norm__span": 64}, "batch_norm.span", ["64", "40", "batch_norm.span=auto"]),
        (1000, 1, {"norm": True, "batch_norm__span": 2}, "batch_norm.span", ["2", "global_batch_size 1"]),
        (100, 40, {"batch__schedule": {"growth": [{"epoch": 1.0, "factor": 3.0}]}}, "batch.schedule.growth", ["120", "100", "2.5"]),
        (100, 40, {"batch__schedule": {"warmup": {"start": 41, "epochs": 1.0}}}, "batch.schedule.warmup.start", ["41", "40"]),
        (1000, 8, {"learning_rate": ADASCALE}, "learning_rate.base_global_batch_size", ["16", "8"]),
        (1000, 64, {"learning_rate": ADASCALE, "norm": True}, "learning_rate.scaling", ["split"]),
        (100, 64, {"learning_rate": ADASCALE, "batch__schedule": {"warmup": {"start": 4, "epochs": 1.0}}}, "batch.schedule", ["AdaScale"]),
    ],
)
def test_refusals(num_samples: int, batch: int, options: dict[str, Any], field: str, said: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        plan(num_samples, batch, **options)
    assert caught.value.field == field
    assert all(part in str(caught.value) for part in said), str(caught.value)
    assert caught.value.hint or "scales up" in caught.value.problem


@pytest.mark.parametrize("named", [20, 25])
def test_hints_hold_what_they_promise_for_spans(named: int) -> None:
    with pytest.raises(PlanError, match=str(named)):
        plan(1000, 100, norm=True, batch_norm__span=32)
    assert plan(1000, 100, norm=True, batch_norm__span=named).span == named


def test_dropping_the_last_batch_saves_a_single_sample_group() -> None:
    assert plan(97, 48, norm=True, batch_norm__span=8, batch__last="drop").span == 8


def test_a_changing_batch_may_not_leave_a_single_sample_group_either() -> None:
    growth = {"growth": [{"epoch": 1.0, "factor": 2.0}]}
    with pytest.raises(PlanError) as caught:
        plan(97, 48, norm=True, batch_norm__span=8, batch__schedule=growth)
    assert caught.value.field == "batch.last"
    assert plan(97, 48, norm=True, batch_norm__span=8, batch__schedule=growth, batch__last="drop").total_steps == 3
