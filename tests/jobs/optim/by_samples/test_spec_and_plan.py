"""How a spec says half-lives, and what the plan says that they come to."""

import json
from typing import Any

import pytest
from small_runs import document, planned, prepared, synthetic

from largebatch.jobs.errors import SpecError
from largebatch.jobs.plan.describe import nothing_left_in_words, plan_facts
from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.spec.read import build_spec, set_fields
from largebatch.jobs.spec.train_spec import TrainSpec

HALF_LIFE = "momentum_half_life_samples"


def spec_of(optimizer: dict[str, Any]) -> TrainSpec:
    return build_spec(document(optimizer=optimizer))


@pytest.mark.parametrize(
    ("optimizer", "usual"),
    [
        ("sgd", {"momentum": 0.9}),
        ("lars", {"momentum": 0.9}),
        ("muon", {"momentum": 0.95}),
        ("adamw", {"beta1": 0.9, "beta2": 0.999}),
        ("lamb", {"beta1": 0.9, "beta2": 0.999}),
        ("lion", {"beta1": 0.9, "beta2": 0.99}),
        ("schedule-free-sgd", {"momentum": 0.9}),
        ("schedule-free-adamw", {"beta1": 0.9, "beta2": 0.999}),
    ],
)
def test_what_is_not_told_has_its_usual_value(optimizer: str, usual: dict[str, float]) -> None:
    written = spec_of({"name": optimizer}).model_dump(mode="json")["optimizer"]
    assert {name: written[name] for name in usual} == usual


def test_a_spec_that_was_written_down_is_read_back() -> None:
    given = spec_of({"name": "muon", HALF_LIFE: 512.0, "other": {"name": "adamw", "beta2_half_life_samples": 9000.0}})
    assert given.optimizer.model_dump()["momentum"] is None
    assert build_spec(json.loads(given.model_dump_json())) == given


@pytest.mark.parametrize(
    ("before", "field", "value", "after"),
    [
        ({"momentum": 0.8}, HALF_LIFE, 512.0, {HALF_LIFE: 512.0}),
        ({HALF_LIFE: 512.0}, "momentum", 0.8, {"momentum": 0.8}),
        ({HALF_LIFE: 512.0}, "momentum_half_life_tokens", 9.0, {"momentum_half_life_tokens": 9.0}),
        ({HALF_LIFE: 512.0}, "nesterov", True, {HALF_LIFE: 512.0, "nesterov": True}),
    ],
)
def test_who_sets_one_of_them_sets_the_others_aside(before: dict[str, Any], field: str, value: Any, after: dict[str, Any]) -> None:
    written = {"optimizer": {"name": "sgd", **before}}
    set_fields(written, {f"optimizer.{field}": value})
    assert written["optimizer"] == {"name": "sgd", **after}


def test_setting_both_is_setting_both() -> None:
    written = document()
    set_fields(written, {"optimizer.momentum": 0.8, f"optimizer.{HALF_LIFE}": 512.0})
    with pytest.raises(SpecError, match="give one of momentum and momentum_half_life_samples"):
        build_spec(written)


def test_in_tokens_it_is_the_same_as_in_the_samples_that_they_are() -> None:
    plans = [
        make_plan(
            build_spec(document(batch={"global_batch_size": 8, "micro_batch_size": 8}, optimizer={"name": "adamw", **optimizer})),
            Facts(100, has_batch_norm=False, micro_batch_size=8, tokens_per_sample=128),
        )
        for optimizer in ({"beta2_half_life_tokens": 128_000.0}, {"beta2_half_life_samples": 1000.0})
    ]
    assert plans[0].step_at(Position(0, 0)).options == plans[1].step_at(Position(0, 0)).options == {"beta2": pytest.approx(0.5 ** (8 / 1000))}


# ---- the plan's words and numbers --------------------------------------------------------------------------------------


def job(optimizer: dict[str, Any], **batch: Any) -> Prepared:
    return prepared(optimizer=optimizer, batch={"global_batch_size": 16, "micro_batch_size": 8, **batch})


def words_of(optimizer: dict[str, Any], **batch: Any) -> str:
    return dict(job(optimizer, **batch).plan_in_words())["optimizer"]


def test_the_plan_shows_what_it_comes_to() -> None:
    # 64 samples in steps of 16: 0.5^(16 / 64) = 0.8409, and 1 / (1 - 0.8409) = 6.285.
    said = words_of({"name": "sgd", HALF_LIFE: 64.0, "weight_decay": 0.01})
    assert said == "sgd, weight decay 0.01; momentum 0.8409 (half-life 64 samples: steps add up to 6.29 times the rate)"
    assert words_of({"name": "lion", "beta2_half_life_samples": 64.0}) == "lion, weight decay 0; beta2 0.8409 (half-life 64 samples)"
    assert words_of({"name": "sgd"}) == "sgd, weight decay 0"


def test_under_a_schedule_it_shows_the_range() -> None:
    # The batch doubles after the first of two epochs: 0.5^(32 / 64) = 0.7071.
    said = words_of({"name": "adamw", "beta1_half_life_samples": 64.0}, schedule={"growth": [{"epoch": 1.0, "factor": 2.0}]})
    assert said == "adamw, weight decay 0; beta1 0.8409 at first, 0.7071 to 0.8409 by the samples of a step (half-life 64 samples)"
    facts = plan_facts(job({"name": "adamw", "beta1_half_life_samples": 64.0}, schedule={"growth": [{"epoch": 1.0, "factor": 2.0}]}).plan)
    assert facts["optimizer_options"] == {"beta1": {"first": pytest.approx(0.8409, abs=1e-4), "least": pytest.approx(0.5**0.5), "most": 0.5**0.25}}


def test_where_nothing_is_left_it_says_that_it_is_none() -> None:
    # In steps of 16 samples 0.5^(16 / 0.5) = 2.3e-10 is below 2^-24, 0.5^(16 / 0.7) = 1.3e-7 above, and 0.5^(32 / 0.7) below again.
    assert words_of({"name": "sgd", HALF_LIFE: 0.5}).endswith("), that is no momentum: nothing of the past is left after a step")
    assert "that is no" not in words_of({"name": "sgd", HALF_LIFE: 0.7})
    grown = words_of({"name": "lamb", "beta1_half_life_samples": 0.7}, schedule={"growth": [{"epoch": 1.0, "factor": 2.0}]})
    assert grown.endswith("), at 1.732e-14 that is no beta1: nothing of the past is left after such a step")


def test_of_two_rules_it_says_whose() -> None:
    model = {"name": "lenet", "arguments": {"channels": [4, 4], "width": 8}}
    data = synthetic(64, 16, (1, 12, 12))
    optimizer = {"name": "muon", HALF_LIFE: 64.0, "other": {"name": "adamw", "beta2_half_life_samples": 32.0, "weight_decay_time_scale": 0.5}}
    made = prepared(model=model, dataset=data, optimizer=optimizer)
    # 8 steps of 16 samples at 0.05: 16 / (0.05 * 0.5 * 128) = 5.
    assert dict(made.plan_in_words())["optimizer"] == (
        "muon, weight decay 0; momentum 0.8409 (half-life 64 samples); other.beta2 0.7071 (half-life 32 samples); "
        "other.weight_decay 5 (time scale 0.5 of the run)"
    )


def test_where_parameters_are_listed_their_time_scale_is_told() -> None:
    model = {"name": "lenet", "arguments": {"channels": [4, 4], "width": 8}}
    other = {"name": "adamw", "weight_decay_time_scale": 0.5}
    groups = [{"pattern": "0.*", "learning_rate_factor": 0.5}, {"pattern": "12.*", "weight_decay": 0.0}]
    optimizer = {"name": "muon", "weight_decay_time_scale": 0.25, "other": other, "groups": groups}
    lines = dict(prepared(model=model, dataset=synthetic(64, 16, (1, 12, 12)), optimizer=optimizer).plan_in_words())
    assert lines["by muon"].endswith("(weight decay by time scale 0.25 of the run, rate by match_rms_adamw)")
    assert lines["by adamw"].endswith("(weight decay by time scale 0.5 of the run, learning rate x 1)")
    assert (
        "(learning rate x 0.5, weight decay by time scale 0.25 of the run by muon, weight decay by time scale 0.5 of the run by adamw)"
        in lines["groups"]
    )
    assert "'12.*' (learning rate x 1, weight decay 0)" in lines["groups"]


def test_a_half_life_of_which_nothing_is_left_after_a_step_is_told() -> None:
    said = nothing_left_in_words(planned(100, batch={"global_batch_size": 50, "micro_batch_size": 50}, optimizer={"name": "sgd", HALF_LIFE: 2.0}))
    assert said is not None
    assert "optimizer.momentum_half_life_samples" in said
    long_enough = planned(100, batch={"global_batch_size": 50, "micro_batch_size": 50}, optimizer={"name": "sgd", HALF_LIFE: 5.0})
    assert nothing_left_in_words(long_enough) is None
