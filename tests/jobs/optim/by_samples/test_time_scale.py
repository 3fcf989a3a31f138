"""Weight decay by its time scale: by the end of that part of the run, at the highest rate, decay alone has divided a weight by e."""

import math
from typing import Any

import pytest
import torch
from small_runs import planned
from torch import nn

from largebatch.jobs.errors import PlanError
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.optim.parameter_groups import build_optimizer, set_learning_rate, set_options
from largebatch.jobs.plan.describe import options_that_follow
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.plan.train_plan import TrainPlan

NUM_SAMPLES, EPOCHS, SCALE = 1000, 3.0, 0.4
GROWTH = {"growth": [{"epoch": 1.0, "factor": 2.0}, {"epoch": 2.0, "factor": 4.0}]}
BATCHES: dict[str, dict[str, Any]] = {
    **{str(size): {"global_batch_size": size} for size in (32, 64, 128)},
    "growing": {"global_batch_size": 32, "schedule": GROWTH},
    "growing, the rate with it": {"global_batch_size": 32, "schedule": {**GROWTH, "rate_follows": "sqrt"}},
}


def plan_of(optimizer: dict[str, Any], batch: dict[str, Any], **rate: Any) -> TrainPlan:
    return planned(
        NUM_SAMPLES, batch={"micro_batch_size": 8, **batch}, optimizer=optimizer, learning_rate={"base": 0.01, **rate}, stop={"epochs": EPOCHS}
    )


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_the_decay_of_a_whole_run_is_the_same_at_every_batch(name: str, batch: str) -> None:
    """Without a gradient weights only decay: at each step by its samples over tau times the run's, written out here; over all by exp(-1 / tau)."""
    optimizer = {"name": name, "weight_decay_time_scale": SCALE}
    plan, model = plan_of(optimizer, BATCHES[batch]), nn.Sequential(nn.Linear(3, 3, dtype=torch.float64))
    made = build_optimizer(model, OPTIMIZERS[name].model_validate(optimizer))
    before = [param.detach().clone() for param in model.parameters()]
    position, left = Position(0, 0), 1.0
    for _ in range(plan.total_steps):
        step = plan.step_at(position)
        set_learning_rate(made, step.learning_rate)
        set_options(made, step.options)
        for param in model.parameters():
            param.grad = torch.zeros_like(param)
        made.step()
        left *= 1 - step.samples.size / (SCALE * EPOCHS * NUM_SAMPLES)
        position = step.end
    weight, bias = model.parameters()
    torch.testing.assert_close(weight, before[0] * left, rtol=1e-12, atol=0.0)
    assert left == pytest.approx(math.exp(-1 / SCALE), rel=0.15), "the first order of exp at up to a tenth of the time scale a step"
    assert torch.equal(bias, before[1]), "biases do not decay"


def test_by_hand() -> None:
    # Batch 32 of 1,000 samples in 3 epochs, rate 0.01, tau 0.4: 32 / (0.01 * 0.4 * 3000) = 2.6667; the last step of an epoch has 8 samples.
    plan = plan_of({"name": "adamw", "weight_decay_time_scale": 0.4}, {"global_batch_size": 32})
    assert plan.step_at(Position(0, 0)).options["weight_decay"] == pytest.approx(32 / 12)
    assert plan.step_at(Position(0, 992)).options["weight_decay"] == pytest.approx(8 / 12)


def test_it_is_told_by_the_highest_rate_so_that_a_falling_rate_decays_less() -> None:
    optimizer = {"name": "adamw", "weight_decay_time_scale": 0.4}
    falling = plan_of(optimizer, {"global_batch_size": 32}, decay="cosine", warmup_epochs=0.5)
    assert {falling.step_at(Position(epoch, 0, 0, epoch * 1000, epoch * 1000.0)).options["weight_decay"] for epoch in range(3)} == {32 / 12}


@pytest.mark.parametrize(
    ("rate", "highest"),
    [
        ({"decay_milestones": [0, 1, 2], "decay_fractions": [0.5, 0.25, 0.1]}, 0.005),  # a slow start: the peak is never there
        ({"decay_milestones": [0, 1, 2], "decay_fractions": [0.5, 0.8, 0.1]}, 0.008),
        ({"decay_milestones": [1, 2], "decay_fractions": [0.5, 0.1]}, 0.01),
        ({"decay_milestones": [0, 1, 2], "decay_fractions": [0.5, 0.3, 0.1], "warmup_epochs": 1.5}, 0.003),  # it rises to what follows
        ({"decay_milestones": [0, 5], "decay_fractions": [0.5, 1.0]}, 0.005),  # beyond the end
    ],
    ids=str,
)
def test_of_a_slow_start_the_highest_rate_is_the_one_that_comes(rate: dict[str, Any], highest: float) -> None:
    plan = plan_of({"name": "adamw", "weight_decay_time_scale": 0.4}, {"global_batch_size": 32}, decay="step", **rate)
    assert max(plan.learning_rate(progress) for progress in range(3000)) == pytest.approx(highest, rel=1e-3)
    assert plan.step_at(Position(0, 0)).options["weight_decay"] == pytest.approx(32 / (highest * 0.4 * 3000))


def test_a_second_phase_has_its_own_highest_rate() -> None:
    optimizer = {"name": "adamw", "weight_decay_time_scale": 0.4}
    plan = plan_of(optimizer, {"global_batch_size": 32}, decay="cosine", restart={"epoch": 1.0, "base": 0.005})
    decays = [plan.step_at(Position(epoch, 0, 0, epoch * 1000, epoch * 1000.0)).options["weight_decay"] for epoch in range(3)]
    assert decays == pytest.approx([32 / 12, 64 / 12, 64 / 12])


def test_the_range_that_a_plan_tells_is_of_steps_that_come() -> None:
    """Batches of 32, and 8 at the epoch's end, at a rate of 0.01; from the second epoch on of 64, and 40, at 0.02."""
    batch = {"global_batch_size": 32, "schedule": {"growth": [{"epoch": 1.0, "factor": 2.0}]}}
    plan = plan_of({"name": "adamw", "weight_decay_time_scale": 0.4}, batch, decay="cosine", restart={"epoch": 1.0, "base": 0.02})
    assert options_that_follow(plan) == {
        "weight_decay": {"first": pytest.approx(32 / 12), "least": pytest.approx(8 / 12), "most": pytest.approx(64 / 24)}
    }


def test_groups_with_another_rate_decay_as_fast_and_those_with_a_decay_of_their_own_keep_it() -> None:
    config = OPTIMIZERS["adamw"].model_validate(
        {
            "name": "adamw",
            "weight_decay_time_scale": 0.4,
            "groups": [{"pattern": "0.*", "learning_rate_factor": 0.5}, {"pattern": "1.*", "weight_decay": 0.3}],
        }
    )
    made = build_optimizer(nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(3))), config)
    set_learning_rate(made, 0.01)
    set_options(made, {"weight_decay": 2.0})
    assert [(group["lr"], group["weight_decay"]) for group in made.param_groups] == [(0.01, 2.0), (0.005, 4.0), (0.01, 0.3)]


def test_muons_two_rules_may_have_time_scales_of_their_own() -> None:
    config = OPTIMIZERS["muon"].model_validate(
        {
            "name": "muon",
            "weight_decay_time_scale": 0.5,
            "other": {"name": "adamw", "weight_decay_time_scale": 0.25, "decay_biases_and_norms": True},
            "other_learning_rate_factor": 0.1,
        }
    )
    plan = plan_of(config.model_dump(mode="json"), {"global_batch_size": 30})
    made = build_optimizer(nn.Sequential(nn.Linear(2, 2)), config)
    set_options(made, plan.step_at(Position(0, 0)).options)
    of_the_rate = [group["weight_decay"] * group.get("learning_rate_factor", 1.0) * 0.01 for group in made.param_groups]
    assert of_the_rate == pytest.approx([30 / (0.5 * 3000), 30 / (0.25 * 3000)])


def test_adascale_has_no_rate_that_it_could_follow_from() -> None:
    with pytest.raises(PlanError, match="AdaScale") as refused:
        plan_of(
            {"name": "adamw", "weight_decay_time_scale": 0.4},
            {"global_batch_size": 32},
            scaling="adascale",
            base_global_batch_size=8,
        )
    assert refused.value.field == "optimizer.weight_decay_time_scale"
