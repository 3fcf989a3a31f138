"""LARS and LAMB in float32 on a CPU, where torch's fused passes do the work, against the papers' equations in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from largebatch.jobs.optim.lamb import LAMB
from largebatch.jobs.optim.lars import LARS

RATES = [0.5, 0.0, 2.0, 1e-6, 0.3, 0.3]
SIZES = [(37, 11), (3, 5, 2, 2), (64,)]
Numbers = list[Tensor]


def drawn(gradient_scale: float = 1.0) -> tuple[Numbers, list[Numbers]]:
    """Weights, and for each step gradients, that float32 holds exactly."""
    generator = torch.Generator().manual_seed(0)
    weights, *gradients = ([torch.randn(size, generator=generator).double() for size in SIZES] for _ in range(len(RATES) + 1))
    return weights, [[(gradient_scale * tensor).float().double() for tensor in tensors] for tensors in gradients]


def moved(kind: Any, gradient_scale: float, **options: Any) -> Numbers:
    weights, gradients = drawn(gradient_scale)
    params = [nn.Parameter(tensor.float()) for tensor in weights]
    optimizer = kind(params, lr=1.0, **options)
    for rate, tensors in zip(RATES, gradients, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        for param, gradient in zip(params, tensors, strict=True):
            param.grad = gradient.float()
        optimizer.step()
    return [param.detach().double() for param in params]


def by_lars(gradient_scale: float, **options: Any) -> Numbers:
    """Algorithm 1 of arXiv:1708.03888, and its variants."""
    momentum, decay, inside = options.get("momentum", 0.9), options.get("weight_decay", 0.0), options.get("learning_rate_in_momentum", True)
    sign = -1.0 if options.get("maximize") else 1.0
    weights, gradients = drawn(gradient_scale)
    for number, weight in enumerate(weights):
        velocity = torch.zeros_like(weight)
        for rate, tensors in zip(RATES, gradients, strict=True):
            gradient = tensors[number]
            ratio = options["trust_coefficient"] * weight.norm() / (gradient.norm() + decay * weight.norm())
            push = ratio * (sign * gradient + decay * weight) * (rate if inside else 1.0)
            velocity = momentum * velocity + push
            step = push + momentum * velocity if options.get("nesterov") else velocity
            weight = weight - step * (1.0 if inside else rate)
        weights[number] = weight
    return weights


def by_lamb(gradient_scale: float, **options: Any) -> Numbers:
    """Algorithm 2 of arXiv:1904.00962."""
    decay, corrects = options.get("weight_decay", 0.0), options.get("bias_correction", True)
    sign = -1.0 if options.get("maximize") else 1.0
    weights, gradients = drawn(gradient_scale)
    for number, weight in enumerate(weights):
        first, second = torch.zeros_like(weight), torch.zeros_like(weight)
        for t, (rate, tensors) in enumerate(zip(RATES, gradients, strict=True), 1):
            first = 0.9 * first + 0.1 * sign * tensors[number]
            second = 0.999 * second + 0.001 * tensors[number] ** 2
            of_first, of_second = (1 - 0.9**t, 1 - 0.999**t) if corrects else (1.0, 1.0)
            update = first / of_first / ((second / of_second).sqrt() + 1e-6) + decay * weight
            weight = weight - 0.1 * rate * weight.norm() / update.norm() * update
        weights[number] = weight
    return weights


@pytest.mark.parametrize("gradient_scale", [1e-20, 1e-4, 1.0, 1e4, 1e8, 1e16, 1e30])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "learning_rate_in_momentum": False},
        {"weight_decay": 0.1, "maximize": True},
        {"momentum": 0.0, "weight_decay": 0.1},
        {"momentum": 0.0, "learning_rate_in_momentum": False},
        {"nesterov": True, "weight_decay": 0.1},
    ],
    ids=str,
)
def test_lars(options: dict[str, Any], gradient_scale: float) -> None:
    """Six steps of some ten roundings of 2^-24 on numbers up to 4; gradients so large that their ratio is no 1 - (1 - ratio), and beyond."""
    given = {"trust_coefficient": 0.1, **options}
    torch.testing.assert_close(moved(LARS, gradient_scale, **given), by_lars(gradient_scale, **given), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "bias_correction": False}, {"weight_decay": 0.1, "maximize": True}], ids=str
)
@pytest.mark.parametrize("gradient_scale", [1.0, 1e4, 1e12])
def test_lamb(options: dict[str, Any], gradient_scale: float) -> None:
    """As above; 1 - 0.999 in float32 is off by 6e-8 / 1e-3 of itself, of which the norm takes out all but what epsilon sees."""
    torch.testing.assert_close(
        moved(lambda params, lr, **more: Scaled(params, lr, **more), gradient_scale, **options),
        by_lamb(gradient_scale, **options),
        rtol=5e-6,
        atol=2e-6,
    )


class Scaled(LAMB):
    """LAMB at a tenth of the rates above, which are large for it."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["lr"] *= 0.1
        return super().step(closure)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_a_ratio_lars_is_torchs_fused_sgd_bit_for_bit(momentum: float) -> None:
    """But for the first step, in which torch does not multiply the momentum that is none."""
    generator = torch.Generator().manual_seed(0)
    weights, *gradients = (torch.randn(33, 5, generator=generator) for _ in range(6))
    params = [nn.Parameter(weights.clone()) for _ in range(2)]
    options: dict[str, Any] = {"momentum": momentum, "weight_decay": 0.05}
    ours = LARS([{"params": params[:1], "adapts": False}], lr=0.3, learning_rate_in_momentum=False, **options)
    theirs = torch.optim.SGD(params[1:], lr=0.3, fused=True, **options)
    for gradient in gradients:
        for param in params:
            param.grad = gradient.clone()
        ours.step()
        theirs.step()
    assert torch.equal(*params)


@pytest.mark.parametrize(("kind", "options"), [(LARS, {}), (LARS, {"nesterov": True}), (LAMB, {})], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_allocates_no_memory_of_a_parameters_size(kind: Any, options: dict[str, Any], dtype: torch.dtype) -> None:
    """After the first, which makes the state."""
    params = [nn.Parameter(torch.randn(300, 1000, dtype=dtype)), nn.Parameter(torch.randn(200, 1000, dtype=dtype))]
    optimizer = kind(params, lr=0.1, weight_decay=0.1, **options)
    for param in params:
        param.grad = torch.randn_like(param)
    optimizer.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        optimizer.step()
    allocated = [event.self_cpu_memory_usage for event in profile.events()]
    assert allocated
    assert max(allocated) < 10_000


@pytest.mark.parametrize("kind", [LARS, LAMB])
@pytest.mark.parametrize("zero_norms", ["one", "equation"])
def test_the_bound_of_the_ratio_also_bounds_that_of_a_weight_of_zeros(kind: Any, zero_norms: str) -> None:
    """A ratio of 1, where nothing else says what it is, is bounded to 1/4: LARS moves by 1/4 of rate 1/2 times the gradient, LAMB by that of 1."""
    param = nn.Parameter(torch.zeros(1))
    options = {"phi_min": 8.0, "epsilon": 1e-12} if kind is LAMB else {"momentum": 0.0}
    optimizer = kind([param], lr=0.5, max_trust_ratio=0.25, zero_norms=zero_norms, **options)
    param.grad = torch.full((1,), 2.0)
    optimizer.step()
    moves = {(LARS, "one"): -0.25, (LARS, "equation"): 0.0, (LAMB, "one"): -0.125, (LAMB, "equation"): -0.125}
    assert param.item() == pytest.approx(moves[kind, zero_norms], rel=1e-6)
