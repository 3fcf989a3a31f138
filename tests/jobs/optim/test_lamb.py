"""LAMB against numbers worked out by hand, the paper's equations in plain Python, and torch's AdamW."""

import math
from typing import Any

import pytest
import torch
from optimizer_steps import RATES, STEPS, Vector, drawn, length, run, vector
from torch import nn

from largebatch.jobs.optim.lamb import LAMB

FLOAT64 = {"rtol": 1e-11, "atol": 1e-13}
"""Ten float64 steps with two roots each; 1 - beta^t loses up to three digits of the sixteen at small t."""


def reference(weights: Vector, gradients: list[Vector], rates: list[float], **options: Any) -> Vector:
    """Algorithm 2 of arXiv:1904.00962 for one layer, number by number, with the variants spelled out."""
    beta1, beta2 = options.get("betas", (0.9, 0.999))
    first, second = [0.0] * len(weights), [0.0] * len(weights)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        first = [beta1 * m + (1 - beta1) * g for m, g in zip(first, gradient, strict=True)]
        second = [beta2 * v + (1 - beta2) * g * g for v, g in zip(second, gradient, strict=True)]
        corrects = options.get("bias_correction", True)
        of_first, of_second = (1 - beta1**t, 1 - beta2**t) if corrects else (1.0, 1.0)
        update = [
            m / of_first / (math.sqrt(v / of_second) + options.get("epsilon", 1e-6)) + options.get("weight_decay", 0.0) * w
            for m, v, w in zip(first, second, weights, strict=True)
        ]
        ratio = 1.0
        if options.get("adapts", True) and length(weights) > 0 and length(update) > 0:
            phi = min(max(length(weights), options.get("phi_min", 0.0)), options.get("phi_max") or math.inf)
            ratio = min(phi / length(update), options.get("max_trust_ratio") or math.inf)
        weights = [w - rate * ratio * u for w, u in zip(weights, update, strict=True)]
    return weights


def test_one_step_by_hand() -> None:
    # At t = 1, m_hat = g and v_hat = g^2, so m_hat / (sqrt(v_hat) + 1) = g / (|g| + 1) with epsilon = 1:
    # g = (1, -3) gives (0.5, -0.75). lambda = 0.5, w = (3, 4): u = (2, 1.25), |u| = sqrt(4 + 1.5625).
    # |w| = 5, lr 0.1: w - 0.1 * 5 / |u| * u.
    weights, gradient = vector(3.0, 4.0), vector(1.0, -3.0)
    moved = run(LAMB, weights, [gradient], [0.1], weight_decay=0.5, epsilon=1.0)
    norm = 5.5625**0.5
    torch.testing.assert_close(moved, vector(3 - 1.0 / norm, 4 - 0.625 / norm), **FLOAT64)


def test_one_step_by_hand_without_bias_correction() -> None:
    # beta1 = 0.5, beta2 = 0.75, g = 4: m = 2, v = 0.25 * 16 = 4, epsilon = 2: u = 2 / (2 + 2) = 0.5; w = 3.
    # ratio = 3 / 0.5 = 6, bounded to 4; lr 0.25: w - 0.25 * 4 * 0.5 = 2.5.
    options: dict[str, Any] = {"betas": (0.5, 0.75), "epsilon": 2.0, "bias_correction": False, "max_trust_ratio": 4.0}
    moved = run(LAMB, vector(3.0), [vector(4.0)], [0.25], **options)
    torch.testing.assert_close(moved, vector(2.5), **FLOAT64)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 2.25),  # ratio 3 / 0.5 = 6
        ({"phi_max": 2.0}, 2.5),  # ratio 2 / 0.5 = 4
        ({"phi_min": 5.0}, 1.75),  # ratio 5 / 0.5 = 10
        ({"adapts": False}, 2.875),  # ratio 1
    ],
    ids=str,
)
def test_each_ratio_by_hand(options: dict[str, Any], expected: float) -> None:
    # u = 0.5 and w = 3 as above; lr 0.25: w - 0.25 * ratio * 0.5.
    given: dict[str, Any] = {"betas": (0.5, 0.75), "epsilon": 2.0, "bias_correction": False, **options}
    moved = run(LAMB, vector(3.0), [vector(4.0)], [0.25], **given)
    torch.testing.assert_close(moved, vector(expected), **FLOAT64)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1},
        {"betas": (0.0, 0.99), "weight_decay": 0.01},
        {"betas": (0.9, 0.0), "epsilon": 0.1},
        {"epsilon": 0.1},
        {"bias_correction": False},
        {"bias_correction": False, "weight_decay": 0.1, "betas": (0.8, 0.9)},
        {"phi_min": 10.0},
        {"phi_max": 0.5, "weight_decay": 0.1},
        {"phi_min": 1.0, "phi_max": 3.0, "max_trust_ratio": 0.8},
        {"max_trust_ratio": 0.5},
        {"adapts": False, "weight_decay": 0.1},
        {"adapts": False, "bias_correction": False},
    ],
    ids=str,
)
def test_ten_steps_follow_the_equations(options: dict[str, Any]) -> None:
    weights, gradients = drawn(5)
    expected = reference(weights.tolist(), [g.tolist() for g in gradients], RATES, **options)
    torch.testing.assert_close(run(LAMB, weights, gradients, RATES, **options), torch.tensor(expected, dtype=torch.float64), **FLOAT64)


def test_bias_correction_matters_to_the_direction() -> None:
    # With one moment corrected more than the other, u differs by more than its length once epsilon counts.
    weights, gradients = drawn(6)
    on, off = (run(LAMB, weights, gradients, RATES, bias_correction=correction, weight_decay=0.1) for correction in (True, False))
    assert (on - off).norm() > 0.01 * (on - weights).norm()


def test_without_bias_correction_the_steps_are_counted_all_the_same() -> None:
    # One may be switched to the other: the count is part of what is saved.
    param = nn.Parameter(torch.ones(2))
    optimizer = LAMB([param], lr=0.1, bias_correction=False)
    for count in range(1, 4):
        param.grad = torch.ones(2)
        optimizer.step()
        assert optimizer.state[param]["step"].item() == count


@pytest.mark.parametrize(("weight", "gradient", "expected"), [(0.0, 2.0, -0.1), (0.0, 0.0, 0.0), (3.0, 0.0, 3.0)])
@pytest.mark.parametrize("phi_min", [0.0, 5.0])
def test_ratio_is_one_where_a_norm_is_zero(weight: float, gradient: float, expected: float, phi_min: float) -> None:
    # No decay, epsilon 1e-12: u = g / |g| or 0; lr 0.1. phi_min does not lift a zero weight.
    moved = run(LAMB, vector(weight), [vector(gradient)], [0.1], epsilon=1e-12, phi_min=phi_min)
    torch.testing.assert_close(moved, vector(expected), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("weight", "gradient", "phi_min", "expected"), [(0.0, 2.0, 0.0, 0.0), (0.0, 2.0, 0.5, -0.05), (3.0, 0.0, 0.5, 3.0), (0.0, 0.0, 0.5, 0.0)]
)
def test_ratio_is_the_equations_where_a_norm_is_zero_if_asked_for(weight: float, gradient: float, phi_min: float, expected: float) -> None:
    # As above, but phi_min lifts a zero weight: ratio phi_min / |u|, u = 1; lr 0.1.
    options: dict[str, Any] = {"epsilon": 1e-12, "phi_min": phi_min, "zero_norms": "equation"}
    moved = run(LAMB, vector(weight), [vector(gradient)], [0.1], **options)
    torch.testing.assert_close(moved, vector(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_without_a_ratio_it_is_torch_adamw(dtype: torch.dtype) -> None:
    weights, gradients = drawn(7)
    weights, gradients = weights.to(dtype), [gradient.to(dtype) for gradient in gradients]
    theirs = run(torch.optim.AdamW, weights, gradients, RATES, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)
    ours = run(LAMB, weights, gradients, RATES, betas=(0.8, 0.95), epsilon=1e-3, weight_decay=0.1, adapts=False)
    # float32: ten steps of about five roundings of 6e-8 on numbers up to 4.
    tolerance = FLOAT64 if dtype == torch.float64 else {"rtol": 3e-6, "atol": 1e-5}
    torch.testing.assert_close(ours, theirs, **tolerance)


def test_step_length_is_the_rate_times_the_weights_norm() -> None:
    weights, gradients = drawn(8)
    param = nn.Parameter(weights.clone())
    optimizer = LAMB([param], lr=0.1, weight_decay=0.3)
    for gradient in gradients:
        before = param.detach().clone()
        param.grad = 1e3 * gradient
        optimizer.step()
        assert (param.detach() - before).norm().item() == pytest.approx(0.1 * before.norm().item(), rel=1e-12)


def test_phi_bounds_the_step_length() -> None:
    weights, gradients = drawn(9)
    weights = weights / weights.norm() * 2.0
    for options, phi in (({"phi_min": 3.0}, 3.0), ({"phi_max": 0.5}, 0.5), ({"phi_min": 1.0, "phi_max": 4.0}, 2.0)):
        step = run(LAMB, weights, gradients[:1], [0.1], **options) - weights
        assert step.norm().item() == pytest.approx(0.1 * phi, rel=1e-12)


def test_a_late_gradient_starts_its_own_count() -> None:
    # A parameter that some steps do not reach: its bias correction counts its own updates.
    weights, gradients = drawn(14)
    early, late = nn.Parameter(weights.clone()), nn.Parameter(weights.clone())
    optimizer = LAMB([early, late], lr=0.1)
    for step, gradient in enumerate(gradients):
        early.grad = gradient.clone()
        late.grad = gradient.clone() if step >= 4 else None
        optimizer.step()
    torch.testing.assert_close(early.detach(), run(LAMB, weights, gradients, [0.1] * STEPS), **FLOAT64)
    torch.testing.assert_close(late.detach(), run(LAMB, weights, gradients[4:], [0.1] * (STEPS - 4)), **FLOAT64)


def test_bfloat16_weights_keep_norms_and_moments_in_float32() -> None:
    # 4096 numbers of 0.01: a bfloat16 sum of squares stops growing long before the end.
    param = nn.Parameter(torch.full((4096,), 0.01, dtype=torch.bfloat16))
    optimizer = LAMB([param], lr=0.25, epsilon=1e-3)
    first, second = torch.zeros(4096, dtype=torch.float64), torch.zeros(4096, dtype=torch.float64)
    for t in range(1, 4):
        weights, gradient = param.detach().double(), torch.full((4096,), 0.3 * t, dtype=torch.bfloat16)
        param.grad = gradient
        optimizer.step()
        first, second = 0.9 * first + 0.1 * gradient.double(), 0.999 * second + 0.001 * gradient.double() ** 2
        state = optimizer.state[param]
        # float32 all along; the moment's sign is the optimizer's own affair.
        torch.testing.assert_close(state["first_moment"].double().abs(), first, rtol=1e-5, atol=0)
        # 1 - 0.999 in float32 is off by 6e-8 / 1e-3.
        torch.testing.assert_close(state["second_moment"].double(), second, rtol=1e-4, atol=0)
        assert state["first_moment"].dtype == state["second_moment"].dtype == torch.float32
        update = first / (1 - 0.9**t) / ((second / (1 - 0.999**t)).sqrt() + 1e-3)
        # One rounding to bfloat16, half of 2^-7 at most.
        torch.testing.assert_close(param.detach().double(), weights - 0.25 * weights.norm() / update.norm() * update, rtol=2.0**-8, atol=0)
