"""When RMSprop passes into SGD: by samples alone, whatever the batch, and at the weights that a step is done with."""

import math
from typing import Any

import pytest
import torch
from small_runs import InOrder, planned, prepared

from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.optim.rmsprop_warm_up.config import RmspropSgdConfig
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.preparing.new_state import new_state

PAPERS = RmspropSgdConfig(name="rmsprop-sgd")


@pytest.mark.parametrize(
    ("epoch", "share"),
    [(0.0, 0.5 * math.exp(-4)), (5.0, 0.5 * math.exp(-2)), (10.0, 0.5), (11.0, 0.7), (12.0, 0.9), (12.5, 1.0), (13.0, 1.0), (90.0, 1.0)],
)
def test_the_papers_transition(epoch: float, share: float) -> None:
    """Center 10, period 5."""
    assert PAPERS.share_of_sgd(epoch) == pytest.approx(share, rel=1e-12)
    rmsprop = (1 - share) * 3e-4 / 6.4
    assert PAPERS.options_by_progress(epoch, 6.4) == pytest.approx({"sgd_weight": share, "rmsprop_weight": rmsprop}, rel=1e-12, abs=1e-20)


def test_the_two_pieces_meet_with_one_slope() -> None:
    left, at, right = (PAPERS.share_of_sgd(10.0 + step) for step in (-1e-6, 0.0, 1e-6))
    assert (at - left) / 1e-6 == pytest.approx(1 / 5, rel=1e-5)
    assert (right - at) / 1e-6 == pytest.approx(1 / 5, rel=1e-5)


def plan_of(batch: int, **rate: Any) -> TrainPlan:
    optimizer = {"name": "rmsprop-sgd", "transition_epoch": 2.0, "transition_period_epochs": 1.0}
    return planned(
        96,
        optimizer=optimizer,
        batch={"global_batch_size": batch, "micro_batch_size": 8},
        learning_rate={"base": 0.5, **rate},
        stop={"epochs": 4},
    )


@pytest.mark.parametrize("batch", [1, 8, 48, 40])
def test_it_follows_the_samples_and_not_the_steps(batch: int) -> None:
    """Read at the middle of each step, 40 of which leave a short one; warm-up changes the learning rate, and not RMSprop's own."""
    plan = plan_of(batch, warmup_epochs=1.0)
    position, shares = Position(0, 0), []
    for _ in range(plan.total_steps):
        step = plan.step_at(position)
        epoch = (step.begin.samples_seen + step.samples.size / 2) / 96
        share = 1.0 if epoch >= 2.5 else 0.5 + (epoch - 2) if epoch >= 2 else math.exp(2 * (epoch - 2)) / 2
        options = step.options_by_progress
        assert options["sgd_weight"] == pytest.approx(share, rel=1e-12)
        assert options["rmsprop_weight"] * 0.5 * min(epoch, 1.0) == pytest.approx((1 - share) * 3e-4, rel=1e-12, abs=1e-18)
        shares.append(share)
        position = step.end
    assert shares[0] < 0.1
    assert shares[-1] == 1.0


def test_a_step_is_done_with_the_plans_weights() -> None:
    """In every group, also one whose learning rate is a multiple."""
    optimizer = {"name": "rmsprop-sgd", "transition_epoch": 0.5, "groups": [{"pattern": "*weight", "learning_rate_factor": 0.5}]}
    job = prepared(optimizer=optimizer)
    state = new_state(job)
    step = job.plan.step_at(state.progress.position)
    generator = torch.Generator().manual_seed(0)
    samples = InOrder(torch.randn(64, 1, 4, 4, generator=generator), torch.arange(64) % 4)
    optimizer_step(state, job.plan, step, samples, lambda text: None)
    share = math.exp(2 * (8 / 64 - 0.5) / 5) / 2
    rates = [group["lr"] for group in state.optimizer.param_groups]
    assert sorted(set(rates)) == [0.025, 0.05]
    for group in state.optimizer.param_groups:
        assert group["sgd_weight"] == pytest.approx(share, rel=1e-12)
        assert group["rmsprop_weight"] == pytest.approx((1 - share) * 3e-4 / 0.05, rel=1e-12)


def test_the_plan_says_when_it_passes() -> None:
    words = PAPERS.schedule_in_words(90.0)
    assert words == "RMSprop at rate 0.0003 passes into momentum SGD: half and half at epoch 10, SGD alone from epoch 12.5"
    assert PAPERS.schedule_in_words(5.0).endswith("(the run ends before)")
    job = prepared(optimizer={"name": "rmsprop-sgd"})
    assert any("RMSprop at rate 0.0003" in text and "the run ends before" in text for _, text in job.plan_in_words())


def test_its_momentum_may_be_told_by_a_half_life() -> None:
    """Of both rules' buffer, by the samples of the step."""
    job = prepared(optimizer={"name": "rmsprop-sgd", "momentum_half_life_samples": 32.0})
    state = new_state(job)
    samples = InOrder(torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 4)
    optimizer_step(state, job.plan, job.plan.step_at(state.progress.position), samples, lambda text: None)
    assert [group["momentum"] for group in state.optimizer.param_groups] == pytest.approx([0.5**0.5] * len(state.optimizer.param_groups), rel=1e-12)
