"""RMSprop with SGD against its equations in float64 with weights and rates that change, and against both of torch's, to which it reduces."""

from typing import Any

import pytest
import torch
from optimizer_steps import RATES, drawn, run
from torch import Tensor, nn

from largebatch.jobs.optim.rmsprop_warm_up.rmsprop_sgd import RMSpropSGD

WEIGHTS = [(0.1, 0.4), (0.2, 0.3), (0.4, 0.2), (0.6, 0.1), (0.8, 0.05), (1.0, 0.0), (1.0, 0.0), (1.0, 0.0), (1.0, 0.0), (1.0, 0.0)]
"""sgd_weight and rmsprop_weight of each step."""


def by_the_equations(weights: Tensor, gradients: list[Tensor], momentum: float, beta2: float, epsilon: float, decay: float) -> Tensor:
    second, velocity = torch.zeros_like(weights), torch.zeros_like(weights)
    for gradient, rate, (sgd, rmsprop) in zip(gradients, RATES, WEIGHTS, strict=True):
        gradient = gradient + decay * weights
        second = beta2 * second + (1 - beta2) * gradient * gradient
        velocity = momentum * velocity - (sgd + rmsprop / (second.sqrt() + epsilon)) * gradient
        weights = weights + rate * velocity
    return weights


def run_with_weights(weights: Tensor, gradients: list[Tensor], **options: Any) -> Tensor:
    param = nn.Parameter(weights.clone())
    optimizer = RMSpropSGD([param], lr=1.0, **options)
    for gradient, rate, (sgd, rmsprop) in zip(gradients, RATES, WEIGHTS, strict=True):
        param.grad = gradient.clone()
        optimizer.param_groups[0].update(lr=rate, sgd_weight=sgd, rmsprop_weight=rmsprop)
        optimizer.step()
        assert torch.equal(param.grad, gradient), "the gradient is as it was found"
    return param.detach()


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_it_follows_the_paper(momentum: float) -> None:
    weights, gradients = drawn(1)
    got = run_with_weights(weights, gradients, momentum=momentum, beta2=0.95, epsilon=1e-3, weight_decay=0.1)
    expected = by_the_equations(weights, gradients, momentum, 0.95, 1e-3, 0.1)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    assert float((got - by_the_equations(weights, gradients, momentum, 0.9, 1e-3, 0.1)).abs().max()) > 1e-3, "beta2 takes part"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_rmsprop_it_is_torchs_sgd_to_the_bit(dtype: torch.dtype) -> None:
    weights, gradients = drawn(2)
    weights, gradients = weights.to(dtype), [gradient.to(dtype) for gradient in gradients]
    expected = run(torch.optim.SGD, weights, gradients, RATES, momentum=0.9, weight_decay=0.01)
    assert torch.equal(run(RMSpropSGD, weights, gradients, RATES, momentum=0.9, weight_decay=0.01), expected)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_sgd_it_is_torchs_rmsprop(momentum: float) -> None:
    """Also with a weight other than 1, which is a factor on the rate."""
    weights, gradients = drawn(3)
    options = {"momentum": momentum, "weight_decay": 0.01}
    expected = run(torch.optim.RMSprop, weights, gradients, RATES, alpha=0.95, eps=1e-3, **options)
    ours = {**options, "beta2": 0.95, "epsilon": 1e-3, "sgd_weight": 0.0}
    torch.testing.assert_close(run(RMSpropSGD, weights, gradients, RATES, rmsprop_weight=1.0, **ours), expected, rtol=1e-12, atol=1e-12)
    half = [2 * rate for rate in RATES]
    torch.testing.assert_close(run(RMSpropSGD, weights, gradients, half, rmsprop_weight=0.5, **ours), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("option", [{"epsilon": 0.0}, {"sgd_weight": -1.0}, {"rmsprop_weight": float("nan")}])
def test_what_cannot_be_is_refused(option: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        RMSpropSGD([nn.Parameter(torch.ones(2))], lr=0.1, **option)
