"""The noise scale of losses whose samples weigh differently: what is unbiased, and a bias that is as large as its formula says."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from planted import Planted, Rows
from small_runs import planned, state_of
from torch import nn

from largebatch.jobs.engine.gradient.accumulate import accumulate
from largebatch.jobs.engine.noise_scale import estimate
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.tasks.base import Task
from largebatch.jobs.tasks.classification import Classification

Array = NDArray[np.float64]
TRUE_GRADIENT = np.array([0.6, -0.3, 0.1, 0.0, 0.2])  # per unit of weight; |G|^2 = 0.5
DEVIATIONS = np.array([1.0, 0.5, 2.0, 0.1, 1.5])
TRACE = 7.51
BATCH, STEPS = 16, 500
NUM_SAMPLES = BATCH * STEPS


def lengths(seed: int = 0) -> Array:
    """Sequences from a few tokens to hundreds: their standard deviation is 1.3 of their mean."""
    return np.ceil(30 * np.exp(np.random.default_rng(seed).standard_normal(NUM_SAMPLES)))


def of_independent_tokens(weights: Array) -> Array:
    """Rows, the sums of `weights` tokens' gradients."""
    draws = np.random.default_rng(1).standard_normal((len(weights), len(DEVIATIONS)))
    return weights[:, None] * TRUE_GRADIENT + np.sqrt(weights)[:, None] * DEVIATIONS * draws


def of_whole_sequences(weights: Array) -> Array:
    """The same where all tokens of a sequence err together."""
    draws = np.random.default_rng(1).standard_normal((len(weights), len(DEVIATIONS)))
    return weights[:, None] * (TRUE_GRADIENT + DEVIATIONS * draws)


def measured(rows: Array, weights: Array, micro_batch_size: int) -> tuple[Array, Array]:
    """Each step's estimates (trace, norm squared), by the engine; the weights of the batches, (steps, BATCH)."""
    data, task = Rows((torch.tensor(rows), torch.tensor(weights))), Planted()
    return estimates(data, task, nn.Linear(rows.shape[1], 1, bias=False).double(), micro_batch_size), weights.reshape(-1, BATCH)


def estimates(data: Rows, task: Task, model: nn.Module, micro_batch_size: int) -> Array:
    """The weights are never moved."""
    plan = planned(len(data.parts[0]), batch={"global_batch_size": BATCH, "micro_batch_size": micro_batch_size}, stop={"epochs": 1.0})
    state, position, found = state_of(model, torch.optim.SGD(model.parameters()), micro_batch_size, task=task), Position(0, 0), []
    for _ in plan.batches():
        step = plan.step_at(position)
        one, position = accumulate(state, plan.spec, step, data), step.end
        assert one is not None
        found.append(estimate(one.mean_squared_norm, one.squared_norm, step.samples.size, one.num_pieces))
    return np.array(found)


def expected_of_whole_sequences(weights: Array, micro_batch_size: int) -> Array:
    """B / (k - 1) (sum_j v_j / (W W_j) - v / W^2) with v_i = trace w_i^2, of each step."""
    total, starts = weights.sum(1), range(0, BATCH, micro_batch_size)
    pieces = [weights[:, start : start + micro_batch_size] for start in starts]
    between = sum((piece**2).sum(1) / (total * piece.sum(1)) for piece in pieces)
    return TRACE * BATCH / (len(pieces) - 1) * (between - (weights**2).sum(1) / total**2)


def assert_mean_is_zero(values: Array, scale: float, precision: float = 0.1) -> None:
    """Within four standard errors, which are less than a tenth of `scale`; seeds are fixed."""
    error = values.std(ddof=1) / math.sqrt(len(values))
    assert abs(values.mean()) < 4 * error
    assert error < precision * scale, "too few steps for the comparison to mean anything"


@pytest.mark.parametrize("micro_batch_size", [pytest.param(1, marks=pytest.mark.slow), 4, 5, 8])
def test_independent_tokens_give_their_trace_in_sequences(micro_batch_size: int) -> None:
    found, weights = measured(of_independent_tokens(lengths()), lengths(), micro_batch_size)
    in_sequences = TRACE / weights.mean(1)  # a batch's mean gradient has the variance TRACE / W
    assert_mean_is_zero(found[:, 0] - in_sequences, in_sequences.mean())
    assert_mean_is_zero(found[:, 1] - 0.5, 0.5)


@pytest.mark.parametrize(("micro_batch_size", "bias"), [(1, -0.5), (4, -0.25), (8, -0.15)])
def test_sequences_that_err_as_one_give_the_bias_of_the_formula(micro_batch_size: int, bias: float) -> None:
    found, weights = measured(of_whole_sequences(lengths()), lengths(), micro_batch_size)
    expected = expected_of_whole_sequences(weights, micro_batch_size)
    unbiased = TRACE * BATCH * (weights**2).sum(1) / weights.sum(1) ** 2  # the variance of the batch's mean gradient, times B
    assert_mean_is_zero(found[:, 0] - expected, unbiased.mean())
    assert expected.mean() / unbiased.mean() - 1 == pytest.approx(bias, abs=0.1)


@pytest.mark.parametrize("micro_batch_size", [4, 8])
def test_pieces_that_weigh_the_same_give_the_trace_of_any_noise(micro_batch_size: int) -> None:
    weights = np.tile(np.array([1.0, 10.0, 40.0, 200.0]), NUM_SAMPLES // 4)
    found, by_step = measured(of_whole_sequences(weights), weights, micro_batch_size)
    unbiased = TRACE * BATCH * (by_step**2).sum(1) / by_step.sum(1) ** 2
    assert_mean_is_zero(found[:, 0] - unbiased, unbiased.mean())


@pytest.mark.parametrize("noise", [of_independent_tokens, of_whole_sequences])
def test_weights_that_are_all_the_same_change_nothing(noise: Callable[[Array], Array]) -> None:
    ones = np.ones(NUM_SAMPLES)
    plain, _ = measured(noise(ones), ones, 5)
    weighed, _ = measured(7 * noise(ones), 7 * ones, 5)
    np.testing.assert_allclose(weighed, plain, rtol=1e-9, atol=1e-9)
    assert_mean_is_zero(plain[:, 0] - TRACE, TRACE)


def test_pieces_that_weigh_nothing_do_not_count() -> None:
    """The first of each four micro-batches is padding; the others tell what they tell without it, over a batch of as many samples."""
    weights = lengths().reshape(-1, BATCH)
    weights[:, :4] = 0.0
    rows = of_independent_tokens(weights.ravel())
    found, _ = measured(rows, weights.ravel(), 4)
    in_sequences = TRACE / weights.mean(1)
    assert_mean_is_zero(found[:, 0] - in_sequences, in_sequences.mean())
    assert_mean_is_zero(found[:, 1] - 0.5, 0.5)


@pytest.mark.parametrize("kind", ["class weights", "sample weights"])
def test_classes_that_weigh_differently_give_the_variance_of_the_weighted_mean(kind: str) -> None:
    """The truth is the whole set's, from the formula of softmax: B times the variance of a weighted mean is mean |s_i - w_i G|^2 / (mean w)^2."""
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(NUM_SAMPLES, 6, generator=generator, dtype=torch.float64)
    labels = (inputs[:, :3] + torch.randn(NUM_SAMPLES, 3, generator=generator)).argmax(1)
    by_class = torch.tensor([1.0, 3.0, 0.5])
    torch.manual_seed(2)
    model = nn.Linear(6, 3, bias=False).double()
    if kind == "class weights":
        weights, parts, task = by_class[labels].double(), (inputs, labels), Classification(3, class_weights=by_class.tolist())
    else:
        weights = 0.1 + torch.rand(NUM_SAMPLES, generator=generator).double() * 3
        parts, task = (inputs, labels, weights), Classification(3, has_sample_weights=True)
    found = estimates(Rows(parts), task, model, 8)

    wrong = (inputs @ model.weight.detach().T).softmax(1) - nn.functional.one_hot(labels, 3)
    gradients = (weights[:, None, None] * wrong[:, :, None] * inputs[:, None, :]).flatten(1)
    mean = gradients.sum(0) / weights.sum()
    trace = float((gradients - weights[:, None] * mean).square().sum(1).mean() / weights.mean() ** 2)
    assert_mean_is_zero(found[:, 0] - trace, trace)
    assert_mean_is_zero(found[:, 1] - float(mean.square().sum()), float(mean.square().sum()), precision=0.2)
