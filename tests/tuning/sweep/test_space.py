"""What a sweep compares and searches, and which sweeps are refused before anything runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_runs import BASE, sweep

from largebatch.jobs.errors import PlanError, SpecError
from largebatch.jobs.plan.make import TrainingSet
from largebatch.jobs.spec.read import build_spec, read_spec
from largebatch.tuning.sweep.space import base_spec, count_runs, groups, read_sweep, refuse_impossible, sweep_paths, with_fields
from largebatch.tuning.sweep.spec import RangeSpec


def test_ranges_move_with_the_batch_and_the_momentum() -> None:
    spec = sweep(
        each={"batch.global_batch_size": [32, 128], "optimizer.momentum": [0.0, 0.9]},
        search={"method": "grid", "space": {"learning_rate.base": {"low": 0.1, "high": 10.0, "points": 3, "times_batch": 0.5, "is_effective": True}}},
    )
    grids = {}
    for group in groups(spec):
        domain = group.space["learning_rate.base"]
        assert isinstance(domain, RangeSpec)
        grids[tuple(group.fields.values())] = domain.grid()
    assert grids[32, 0.0] == pytest.approx([0.1, 1.0, 10.0])
    assert grids[128, 0.0] == pytest.approx([0.2, 2.0, 20.0])
    assert grids[32, 0.9] == pytest.approx([0.01, 0.1, 1.0])
    assert count_runs(spec) == 12


@pytest.mark.parametrize("unit", ["size", "tokens"])
def test_effective_rates_under_a_half_life_follow_the_momentum_that_it_is_at_each_batch(unit: str) -> None:
    half_life = {"size": "optimizer.momentum_half_life_samples", "tokens": "optimizer.momentum_half_life_tokens"}[unit]
    spec = sweep(
        each={f"batch.global_batch_{unit}": [32, 128], half_life: [64.0, 256.0]},
        search={"method": "grid", "space": {"learning_rate.base": {"low": 0.1, "high": 10.0, "points": 3, "is_effective": True}}},
    )
    lows = {tuple(group.fields.values()): group.space["learning_rate.base"] for group in groups(spec)}
    assert all(isinstance(domain, RangeSpec) for domain in lows.values())
    expected = {(batch, h): 0.1 * (1 - 0.5 ** (batch / h)) for batch in (32, 128) for h in (64.0, 256.0)}
    assert {key: domain.low for key, domain in lows.items() if isinstance(domain, RangeSpec)} == pytest.approx(expected)


def test_a_half_life_takes_the_place_of_the_recipes_momentum_in_each_run() -> None:
    spec = sweep(each={"optimizer.momentum_half_life_samples": [64.0, 256.0], "batch.global_batch_size": [32]})
    optimizers = [with_fields(BASE, group.fields).optimizer for group in groups(spec)]
    assert [(optimizer.momentum, optimizer.momentum_half_life_samples) for optimizer in optimizers] == [(None, 64.0), (None, 256.0)]
    searched = sweep(
        each={"batch.global_batch_size": [32, 128]},
        search={"trials": 3, "space": {"optimizer.momentum_half_life_samples": {"low": 64.0, "high": 4096.0}}},
    )
    assert refuse_impossible(searched, BASE) == 6
    domains = [group.space["optimizer.momentum_half_life_samples"] for group in groups(searched)]
    assert domains[0] == domains[1], "the same range at every batch"


RATE = "learning_rate.base"
HALF_LIFE = "optimizer.momentum_half_life_samples"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"each": {"batch.global_batch_size": []}}, "empty list"),
        ({"each": {"seed": [1, 2]}}, "seed is neither"),
        ({"each": {RATE: [0.1]}, "search": {"trials": 1, "space": {RATE: [0.1]}}}, "compared or searched"),
        ({"search": {"method": "random", "space": {RATE: {"low": 0.1, "high": 1.0}}}}, "needs trials"),
        ({"search": {"trials": 2, "space": {RATE: {"low": 2.0, "high": 1.0}}}}, "not below high"),
        ({"search": {"trials": 2, "space": {RATE: {"low": 0.0, "high": 1.0}}}}, "no logarithm"),
        ({"search": {"trials": 2, "space": {RATE: {"low": 0.1, "high": 1.0, "is_effective": True}}}}, "in each"),
        ({"search": {"space": {RATE: {"lo": 1, "high": 2}}}}, r"search\.space\.learning_rate\.base.*Did you mean"),
        ({"repeat": 3}, "Did you mean repeats"),
        ({"each": {"batch.global_batch_tokens": [4096], "batch.global_batch_size": [32]}}, "batch.global_batch_size and .* say the same"),
        ({"each": {"optimizer.momentum": [0.9]}, "search": {"trials": 2, "space": {HALF_LIFE: {"low": 9.0, "high": 99.0}}}}, "say the same"),
        (  # a half-life says no momentum without a batch
            {"each": {HALF_LIFE: [64.0]}, "search": {"trials": 2, "space": {RATE: {"low": 0.1, "high": 1.0, "is_effective": True}}}},
            "in each",
        ),
        ({"resources": {"workers": 2, "gpus_per_worker": 0.5}}, "NCCL joins whole GPUs only"),
    ],
)
def test_what_no_sweep_can_be(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({"recipe": "digits-small-batch", **fields}))
    with pytest.raises(SpecError, match=words):
        read_sweep(path)


@pytest.mark.parametrize(("workers", "gpus"), [(1, 0.5), (2, 1.0), (2, None)])
def test_gpus_that_workers_can_have(workers: int, gpus: float | None) -> None:
    assert sweep(resources={"workers": workers, "gpus_per_worker": gpus}).resources.gpus_per_worker == gpus


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"each": {"optimizer.momentun": [0.9]}}, "Did you mean momentum"),
        ({"each": {"optimizer.momentum": [1.5]}}, "below 1"),
        ({"search": {"trials": 2, "space": {RATE: {"low": -1.0, "high": 1.0, "scale": "linear"}}}}, r"learning_rate\.base"),
        ({"repeats": 3, "budget": {"trials": 20}}, "3 groups with 4 searched and 3 repeated runs each are 21.*Allow 21"),
        (
            {
                "each": {"batch.global_batch_size": [32, "full"]},
                "search": {"trials": 2, "space": {RATE: {"low": 0.01, "high": 1.0, "times_batch": 0.5}}},
            },
            "holds `full`, and",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        refuse_impossible(sweep(**fields), with_fields(BASE, {"optimizer.name": "sgd"}))


FOLLOWS = "batch.schedule.follows_rate.largest_factor"


@pytest.mark.parametrize(
    ("each", "changed", "words"),
    [
        (
            {"optimizer": ["sgd", "schedule-free-sgd"], "batch.global_batch_size": [16]},
            {FOLLOWS: 4, "learning_rate.decay": "cosine"},
            "under schedule-free-sgd an average takes the place",
        ),
        ({"batch.global_batch_size": [16, 32]}, {FOLLOWS: 4, "learning_rate.decay": "constant"}, "decay constant leaves 1 of the peak"),
        ({"batch.global_batch_size": [16, 719]}, {FOLLOWS: 4, "learning_rate.decay": "cosine"}, "would grow to 2876, more than the 1437 samples"),
        ({"optimizer": ["lion", "sgd"], "batch.global_batch_size": [16]}, {"gradient.noise_norm": "optimizer"}, "sgd has no norm of its own"),
        ({"batch.global_batch_size": [16, 9999]}, {}, "9999"),
    ],
    ids=str,
)
def test_a_plan_that_one_of_its_runs_cannot_keep_is_refused_before_any(each: dict[str, Any], changed: dict[str, Any], words: str) -> None:
    """Those runs failed, one after the other, and the sweep ended with 0."""
    with pytest.raises(PlanError, match=words):
        refuse_impossible(sweep(each=each, search={"trials": 1}), with_fields(BASE, changed), TrainingSet(1437))


def test_a_budget_that_holds_all_runs_is_taken() -> None:
    assert refuse_impossible(sweep(repeats=3, budget={"trials": 21}), BASE) == 21


def test_fields_are_replaced_whole_and_checked() -> None:
    changed = with_fields(BASE, {"batch.global_batch_size": 77, "optimizer.name": "lars", "ema.decay": 0.9})
    assert (changed.batch.global_batch_size, changed.optimizer.name) == (77, "lars")
    assert changed.ema is not None
    with pytest.raises(SpecError, match="holds a value"):
        with_fields(BASE, {"seed.more": 1})
    assert with_fields(build_spec(BASE.model_dump(mode="json")), {}) == BASE


def test_batches_in_tokens_are_compared_as_those_in_samples_are() -> None:
    base = with_fields(read_spec("tiny-gpt"), {"batch.global_batch_tokens": 8192})
    assert (base.batch.global_batch_size, with_fields(base, {"batch.global_batch_size": 32}).batch.global_batch_tokens) == (None, None)
    moving = {"trials": 2, "space": {RATE: {"low": 0.01, "high": 1.0, "times_batch": 0.5}}}
    spec = sweep(each={"batch.global_batch_tokens": [4096, 65536]}, search=moving)
    assert [group.space[RATE].high for group in groups(spec)] == [1.0, 4.0]
    training_set = TrainingSet(1000, tokens_per_sample=128)
    assert refuse_impossible(spec, base, training_set) == 4
    with pytest.raises(PlanError, match="no whole number of sequences of 100"):
        refuse_impossible(spec, base, TrainingSet(1000, tokens_per_sample=100))


def test_the_optimizer_is_set_before_its_options() -> None:
    spec = sweep(each={"optimizer.momentum": [0.0, 0.5], "optimizer.name": ["sgd", "lars"], "batch.global_batch_size": [32]})
    optimizers = [with_fields(BASE, group.fields).optimizer for group in groups(spec)]
    assert [(optimizer.name, optimizer.momentum) for optimizer in optimizers] == [("sgd", 0.0), ("lars", 0.0), ("sgd", 0.5), ("lars", 0.5)]
    recipe = with_fields(BASE, {"optimizer.momentum": 0.7})
    assert with_fields(recipe, {"optimizer.name": "sgd"}).optimizer.momentum == 0.7, "the same optimizer keeps its options"


@pytest.mark.parametrize("path", sweep_paths().values(), ids=lambda path: path.stem)
def test_every_sweep_that_comes_with_the_package_can_be_run(path: Path) -> None:
    spec = read_sweep(path)
    assert refuse_impossible(spec, base_spec(spec, path.parent)) > 1
