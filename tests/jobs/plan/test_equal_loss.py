"""A batch that follows the rate comes to the loss of the rate that falls, on planted quadratics of known noise (Seesaw, arXiv:2510.14717).

Each of many thousand weights is a quadratic of its own, w^2 / 2, with gradient w + noise of variance 1 / batch; the optimizers here move each
weight by itself, so that these are as many independent runs, and the mean loss has a standard error that they tell themselves.
"""

import math
from typing import Any, NamedTuple

import pytest
import torch
from small_runs import planned

from largebatch.jobs.optim.parameter_groups import set_learning_rate
from largebatch.jobs.plan.step_plan import Position

NUM_SAMPLES, BATCH, NUM_WEIGHTS = 8192, 8, 6000
BIAS = 0.03
"""What a step at the larger rate adds to the noise's floor, to first order half of rate times curvature (0.03 at most, with momentum added up),
and what moments that follow fewer, larger steps lag behind."""
CASES: dict[str, tuple[dict[str, Any], float, float]] = {
    "sgd": ({"name": "sgd", "momentum": 0.0}, 0.02, 1.0),
    "momentum": ({"name": "sgd", "momentum": 0.9}, 0.003, 1.0),
    "adamw": ({"name": "adamw", "beta2": 0.95}, 0.004, 0.5),
    "lion": ({"name": "lion", "beta2": 0.9}, 0.001, 0.5),
}


class Ended(NamedTuple):
    num_steps: int
    loss: float
    standard_error: float


def trained(case: str, schedule: dict[str, Any], seed: int, power: float = 0.0) -> Ended:
    """Every step of a plan, on all quadratics. Args: power: of the batch, a mistake in the rate."""
    optimizer, base, _ = CASES[case]
    plan = planned(
        NUM_SAMPLES,
        batch={"global_batch_size": BATCH, "micro_batch_size": BATCH, "schedule": schedule},
        optimizer=optimizer,
        learning_rate={"base": base, "decay": "cosine", "final_fraction": 0.1},
        stop={"epochs": 2.0},
    )
    draws = torch.Generator().manual_seed(seed)
    weights = torch.nn.Parameter(torch.full((NUM_WEIGHTS,), 0.2, dtype=torch.float64))
    config = plan.spec.optimizer
    built = config.build([{"params": [weights], **config.group_options(is_bias_or_norm=False)}])
    position, num_steps = Position(0, 0), 0
    while position.schedule_samples < plan.total_progress - 1e-6:
        step = plan.step_at(position)
        noise = torch.randn(NUM_WEIGHTS, generator=draws, dtype=torch.float64)
        weights.grad = weights.detach() + noise / math.sqrt(step.samples.size)
        set_learning_rate(built, step.learning_rate * (step.samples.size / BATCH) ** power)
        built.step()
        position, num_steps = step.end, num_steps + 1
    losses = weights.detach() ** 2 / 2
    return Ended(num_steps, float(losses.mean()), float(losses.std() / math.sqrt(NUM_WEIGHTS)))


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in ("momentum", "lion"))) for case in CASES])
def test_it_comes_to_the_same_loss_in_fewer_steps(case: str) -> None:
    """Within four standard errors of the difference and the bias; with the rate of the other rule it would be far off."""
    falling = trained(case, {}, seed=0)
    following = trained(case, {"follows_rate": {"largest_factor": 8}}, seed=1)
    tolerance = 4 * math.hypot(falling.standard_error, following.standard_error) + BIAS * falling.loss
    assert falling.loss < 2e-4, "what is left is noise: it began at 0.02"
    assert abs(following.loss - falling.loss) < tolerance < 0.15 * falling.loss
    assert following.num_steps < 0.7 * falling.num_steps
    other_rule = 0.5 if CASES[case][2] == 0.5 else -0.5
    assert abs(trained(case, {"follows_rate": {"largest_factor": 8}}, seed=1, power=other_rule).loss - falling.loss) > 1.5 * tolerance
