"""Each batch's rate tuned by branches: no lower for the choice among noisy losses, trained once, beside the rule's own answer."""

import math
from pathlib import Path

import numpy as np
import pytest
from small_runs import CPU, prepared, synthetic, trained

from largebatch.tuning.branch.branch import branch_run
from largebatch.tuning.branch.figures import branch_charts
from largebatch.tuning.branch.origin import Wanted, open_origin
from largebatch.tuning.branch.run_branches import Ask, BranchListener
from largebatch.tuning.branch.train import Branch
from largebatch.tuning.branch.tuned import TRIED, tuned_losses


@pytest.mark.parametrize("num_orders", [2, 4])
def test_choosing_among_equal_rates_gains_nothing(num_orders: int) -> None:
    """Three rates that differ by noise alone, of which the lowest is 0.85 too low: the mean of 4,000 trials, within 4 standard errors."""
    trials = np.random.default_rng(0).normal(size=(4000, num_orders, 1, 3))
    means = [tuned_losses(trial).losses.mean() for trial in trials]
    assert trials.min(axis=3).mean() == pytest.approx(-0.846, abs=0.02)
    assert abs(np.mean(means)) < 4 * np.std(means) / math.sqrt(len(means))


def test_the_best_rate_is_each_multiples_own() -> None:
    base = np.array([1.0, 1.1, 1.2])[:, None]
    tuned = tuned_losses(base[:, None] + np.array([[0.3, 0.0, 0.2], [0.0, 0.3, math.inf]]))
    assert tuned.chosen == [1, 0]
    assert tuned.losses == pytest.approx(np.concatenate([base, base], axis=1))


def test_a_rate_that_diverges_in_any_order_is_not_chosen() -> None:
    losses = np.array([[[1.0, 0.5], [math.inf, 2.0]], [[1.1, math.inf], [3.0, math.inf]]])
    tuned = tuned_losses(losses)
    assert tuned.losses[:, 0] == pytest.approx([1.0, 1.1])
    assert np.isinf(tuned.losses[:, 1]).all(), "no rate trains in both orders"


def test_it_stands_beside_the_rules_answer(tmp_path: Path) -> None:
    """The rule's branches are among those of the tuned rates, and are not trained again; the recipe is the rule's."""
    parts = {
        "dataset": synthetic(84, 20, (1, 6, 6)), "batch": {"global_batch_size": 8, "micro_batch_size": 8}, "stop": {"epochs": 5},
        "checkpoint": {"every_steps": 3, "keep": 99, "every_seconds": None},
    }  # fmt: skip
    run_dir = tmp_path / "run"
    trained(prepared(**parts), run_dir)
    origin = open_origin(run_dir, Wanted(steps=[3], multiples=[2], num_samples=84), CPU, Path("nowhere"))
    by_rule = branch_run(origin, Ask(2, 1.0), 1e6, BranchListener())
    recipe = by_rule.recipe and by_rule.recipe.read_text().partition("name:")[2]
    begun: list[Branch] = []
    ask = Ask(2, 1.0, rates=TRIED)
    left = branch_run(origin, ask, 1e6, BranchListener(on_begin=lambda done, of, branch, seconds: begun.append(branch)))
    assert {(branch.order, branch.multiple, branch.rate_times) for branch in begun} == {
        (order, multiple, times) for order in (0, 1) for multiple in (1, 2) for times in (0.5, 2.0)
    }
    (place,), (before,) = left.answer.places, by_rule.answer.places
    assert (place.critical, before.tuned) == (before.critical, None)
    assert place.tuned is not None
    assert (place.tuned.num_orders, {*place.tuned_rates}) == (2, {8, 16})
    assert left.recipe is not None
    assert left.recipe.read_text().partition("name:")[2] == recipe
    assert "each rate tuned" in left.answer.rows[0]
    assert "each rate tuned" in [series.name for series in branch_charts(left.answer)[0].series]
    assert any(words.startswith("With each batch at the best of 0.5, 1, 2 times that rate") for words in left.answer.words)
    stopped = branch_run(origin, ask._replace(num_orders=3, budget_s=1e-9), None, BranchListener()).answer
    assert (stopped.num_left, stopped.places[0].tuned is not None) == (6, True), "a third order is left, and two are enough"
