"""LARS against numbers worked out by hand, the paper's equations in plain Python, and torch's SGD."""

import math
from typing import Any

import pytest
import torch
from optimizer_steps import RATES, STEPS, Vector, drawn, length, run, vector
from torch import nn

from largebatch.jobs.optim.lars import LARS
from largebatch.jobs.optim.tensors import norms

FLOAT64 = {"rtol": 1e-12, "atol": 1e-14}
"""Ten float64 steps of some ten operations each, on numbers near 1: about 1e-14; the reference sums in another order."""


def reference(weights: Vector, gradients: list[Vector], rates: list[float], **options: Any) -> Vector:
    """Algorithm 1 of arXiv:1708.03888 for one layer, number by number, with the variants spelled out."""
    momentum, decay = options.get("momentum", 0.9), options.get("weight_decay", 0.0)
    velocity = [0.0] * len(weights)
    for gradient, rate in zip(gradients, rates, strict=True):
        ratio = 1.0
        if options.get("adapts", True) and length(weights) > 0 and length(gradient) > 0:
            denominator = length(gradient) + decay * length(weights) + options.get("epsilon", 0.0)
            ratio = options.get("trust_coefficient", 0.001) * length(weights) / denominator
            ratio = min(ratio, options.get("max_trust_ratio") or math.inf)
        decayed = [ratio * (g + decay * w) for g, w in zip(gradient, weights, strict=True)]
        inside, outside = (rate, 1.0) if options.get("learning_rate_in_momentum", True) else (1.0, rate)
        pushes = [inside * d for d in decayed]
        velocity = [momentum * v + p for v, p in zip(velocity, pushes, strict=True)]
        moves = [p + momentum * v for p, v in zip(pushes, velocity, strict=True)] if options.get("nesterov") else velocity
        weights = [w - outside * m for w, m in zip(weights, moves, strict=True)]
    return weights


def test_one_step_by_hand() -> None:
    # |w| = 5, |g| = 13, beta = 0.2, eta = 0.28: ratio = 0.28 * 5 / (13 + 0.2 * 5) = 1.4 / 14 = 0.1.
    # g + beta w = (5.6, 12.8); times lr 0.5 and ratio 0.1: v = (0.28, 0.64); w - v = (2.72, 3.36).
    weights, gradient = vector(3.0, 4.0), vector(5.0, 12.0)
    moved = run(LARS, weights, [gradient], [0.5], weight_decay=0.2, trust_coefficient=0.28)
    torch.testing.assert_close(moved, vector(2.72, 3.36), **FLOAT64)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # w = 2, g = 4, then -3; lr 0.1, then 0.2; m = 0.5, eta = 1, no decay. d = ratio * g = |w| in the direction of g: 2, then about -1.8.
        ({}, 2.06),  # v = 0.1 * 2 = 0.2, w = 1.8; v = 0.5 * 0.2 - 0.2 * 1.8 = -0.26
        ({"learning_rate_in_momentum": False}, 1.96),  # v = 2, w = 2 - 0.1 * 2 = 1.8; v = 0.5 * 2 - 1.8 = -0.8, w = 1.8 + 0.2 * 0.8
        ({"nesterov": True}, 2.16),  # v = 0.2, move 0.2 + 0.5 * 0.2, w = 1.7; p = -0.34, v = 0.1 - 0.34 = -0.24, move -0.34 - 0.12
        ({"nesterov": True, "learning_rate_in_momentum": False}, 2.11),  # move 2 + 1, w = 1.7; v = 1 - 1.7 = -0.7, move -1.7 - 0.35, times 0.2
        ({"adapts": False}, 2.0),  # v = 0.4, w = 1.6; v = 0.5 * 0.4 - 0.2 * 3 = -0.4
    ],
    ids=str,
)
def test_each_variant_by_hand(options: dict[str, Any], expected: float) -> None:
    gradients = [vector(4.0), vector(-3.0)]
    moved = run(LARS, vector(2.0), gradients, [0.1, 0.2], momentum=0.5, trust_coefficient=1.0, **options)
    torch.testing.assert_close(moved, vector(expected), **FLOAT64)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.0},
        {"weight_decay": 0.1},
        {"trust_coefficient": 0.5, "weight_decay": 0.1, "epsilon": 0.3},
        {"trust_coefficient": 0.5, "nesterov": True, "weight_decay": 0.01},
        {"trust_coefficient": 0.5, "learning_rate_in_momentum": False},
        {"trust_coefficient": 0.5, "learning_rate_in_momentum": False, "nesterov": True, "momentum": 0.7},
        {"trust_coefficient": 0.5, "max_trust_ratio": 0.45, "weight_decay": 0.02},
        {"adapts": False, "weight_decay": 0.1},
        {"adapts": False, "nesterov": True, "learning_rate_in_momentum": False},
    ],
    ids=str,
)
def test_ten_steps_follow_the_equations(options: dict[str, Any]) -> None:
    weights, gradients = drawn(5)
    expected = reference(weights.tolist(), [g.tolist() for g in gradients], RATES, **options)
    torch.testing.assert_close(run(LARS, weights, gradients, RATES, **options), torch.tensor(expected, dtype=torch.float64), **FLOAT64)


def test_the_largest_ratio_is_bounded() -> None:
    # Without the bound the ratio would be 0.5 * 10 / 1 = 5.
    moved = run(LARS, vector(10.0), [vector(1.0)], [1.0], trust_coefficient=0.5, max_trust_ratio=2.0)
    torch.testing.assert_close(moved, vector(8.0), **FLOAT64)


def test_learning_rate_inside_or_outside_of_the_momentum() -> None:
    weights, gradients = drawn(6)
    for nesterov in (False, True):
        both = [{"trust_coefficient": 0.5, "nesterov": nesterov, "learning_rate_in_momentum": inside} for inside in (True, False)]
        constant = [run(LARS, weights, gradients, [0.3] * STEPS, **options) for options in both]
        torch.testing.assert_close(*constant, **FLOAT64)
        # From 1 down to 0: inside, the old pushes go on in full, outside they stop with the rate.
        falling = [run(LARS, weights, gradients[:2], [1.0, 0.0], **options) for options in both]
        at_first = run(LARS, weights, gradients[:1], [1.0], **both[1])
        torch.testing.assert_close(falling[1], at_first, rtol=0, atol=0)
        assert (falling[0] - falling[1]).norm() > 0.1 * (at_first - weights).norm()


@pytest.mark.parametrize(("weight", "gradient", "expected"), [(0.0, 2.0, -0.2), (3.0, 0.0, 2.85), (0.0, 0.0, 0.0)])
def test_ratio_is_one_where_a_norm_is_zero(weight: float, gradient: float, expected: float) -> None:
    # lr 0.1, beta 0.5, ratio 1: w - 0.1 * (g + 0.5 w).
    moved = run(LARS, vector(weight), [vector(gradient)], [0.1], weight_decay=0.5)
    torch.testing.assert_close(moved, vector(expected), **FLOAT64)


@pytest.mark.parametrize(("weight", "gradient", "expected"), [(0.0, 2.0, 0.0), (3.0, 0.0, 2.9997), (0.0, 0.0, 0.0)])
def test_ratio_is_the_equations_where_a_norm_is_zero_if_asked_for(weight: float, gradient: float, expected: float) -> None:
    # lr 0.1, beta 0.5, eta 0.001. A weight of 3 alone: ratio 0.001 * 3 / 1.5 = 0.002, so 3 - 0.1 * 0.002 * 1.5.
    options: dict[str, Any] = {"weight_decay": 0.5, "zero_norms": "equation"}
    moved = run(LARS, vector(weight), [vector(gradient)], [0.1], **options)
    torch.testing.assert_close(moved, vector(expected), **FLOAT64)


@pytest.mark.parametrize("nesterov", [False, True])
def test_without_a_ratio_it_is_torch_sgd(nesterov: bool) -> None:
    weights, gradients = drawn(7)
    options: dict[str, Any] = {"momentum": 0.9, "weight_decay": 0.05, "nesterov": nesterov}
    theirs = run(torch.optim.SGD, weights, gradients, RATES, **options)
    ours = run(LARS, weights, gradients, RATES, adapts=False, learning_rate_in_momentum=False, **options)
    torch.testing.assert_close(ours, theirs, **FLOAT64)


def test_without_decay_the_gradients_scale_does_not_matter() -> None:
    weights, gradients = drawn(8)
    # Powers of two: only exponents change, so nothing may differ.
    scaled = [gradient * 2.0 ** (20 - 4 * step) for step, gradient in enumerate(gradients)]
    torch.testing.assert_close(run(LARS, weights, gradients, RATES), run(LARS, weights, scaled, RATES), **FLOAT64)
    with_decay = [run(LARS, weights, some, RATES, weight_decay=0.1, trust_coefficient=0.1) for some in (gradients, scaled)]
    assert not torch.allclose(*with_decay, rtol=1e-3), "with decay the scale does matter"


def test_step_length_is_the_rate_times_the_coefficient_times_the_weights_norm() -> None:
    weights, gradients = drawn(9)
    step = run(LARS, weights, gradients[:1], [0.5], trust_coefficient=0.02) - weights
    assert step.norm().item() == pytest.approx(0.5 * 0.02 * weights.norm().item(), rel=1e-12)


def test_a_parameter_without_gradient_stays() -> None:
    idle, busy = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    busy.grad = torch.ones(3)
    optimizer = LARS([idle, busy], lr=0.1, weight_decay=0.1)
    optimizer.step()
    assert torch.equal(idle, torch.ones(3))
    assert idle not in optimizer.state
    assert not torch.equal(busy, torch.ones(3))


def test_the_closures_loss_is_handed_back() -> None:
    param = nn.Parameter(torch.tensor([2.0]))

    def closure() -> float:
        param.grad = None
        loss = param.square().sum()
        loss.backward()
        return loss.item()

    assert LARS([param], lr=0.1).step(closure) == 4.0
    assert param.item() < 2.0


def test_bfloat16_weights_keep_norms_and_velocity_in_float32() -> None:
    # 4096 numbers of 0.01: a bfloat16 sum of squares stops growing long before the end.
    narrow = torch.full((4096,), 0.01, dtype=torch.bfloat16)
    (norm,) = norms([narrow])
    assert norm.dtype == torch.float64
    assert norm.item() == pytest.approx(narrow.double().norm().item(), rel=1e-5)

    param = nn.Parameter(narrow.clone())
    optimizer = LARS([param], lr=1.0, trust_coefficient=1e-3)
    velocity = torch.zeros(4096, dtype=torch.float64)
    for step in range(3):
        weights, gradient = param.detach().double(), torch.full((4096,), 1.0 + step, dtype=torch.bfloat16)
        param.grad = gradient
        optimizer.step()
        velocity = 0.9 * velocity + 1e-3 * weights.norm() / gradient.double().norm() * gradient.double()
        # float32 all along: three steps of a few roundings. bfloat16's would be 2^-9 = 2e-3.
        torch.testing.assert_close(optimizer.state[param]["velocity"].double(), velocity, rtol=1e-5, atol=0)
        # One rounding to bfloat16, half of 2^-7 at most.
        torch.testing.assert_close(param.detach().double(), weights - velocity, rtol=2.0**-8, atol=0)
    assert optimizer.state[param]["velocity"].dtype == torch.float32


def test_sparse_gradients_are_refused() -> None:
    param = nn.Parameter(torch.ones(4))
    param.grad = torch.sparse_coo_tensor([[1]], [1.0], (4,), check_invariants=True)
    with pytest.raises(ValueError, match="sparse"):
        LARS([param], lr=0.1).step()
