"""Lion against its equations in float64 with rates that change, and against sign SGD, to which it reduces."""

import torch
from optimizer_steps import RATES, drawn, run
from torch import Tensor

from largebatch.jobs.optim.lion import Lion


def by_the_equations(weights: Tensor, gradients: list[Tensor], beta1: float, beta2: float, decay: float) -> Tensor:
    mean = torch.zeros_like(weights)
    for gradient, rate in zip(gradients, RATES, strict=True):
        weights = weights - rate * (torch.sign(beta1 * mean + (1 - beta1) * gradient) + decay * weights)
        mean = beta2 * mean + (1 - beta2) * gradient
    return weights


def test_it_follows_the_paper() -> None:
    weights, gradients = drawn(1)
    got = run(Lion, weights, gradients, RATES, betas=(0.8, 0.95), weight_decay=0.1)
    torch.testing.assert_close(got, by_the_equations(weights, gradients, 0.8, 0.95, 0.1), rtol=1e-13, atol=1e-13)
    other = by_the_equations(weights, gradients, 0.95, 0.8, 0.1)
    assert float((got - other).abs().max()) > 0.1, "the two betas are told apart"


def test_without_a_past_it_is_sign_sgd() -> None:
    weights, gradients = drawn(2)
    expected = weights - sum(rate * gradient.sign() for gradient, rate in zip(gradients, RATES, strict=True))
    torch.testing.assert_close(run(Lion, weights, gradients, RATES, betas=(0.0, 0.0)), expected, rtol=1e-13, atol=1e-13)
