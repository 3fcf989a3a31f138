"""LAMB against numbers worked out by hand, the paper's equations in plain Python, and torch's AdamW."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.optim.lamb import LAMB

STEPS = 10
RATES = [0.5, 0.5, 0.4, 0.1, 0.0, 2.0, 1.0, 0.3, 0.3, 0.05]
FLOAT64 = {"rtol": 1e-11, "atol": 1e-13}
"""Ten float64 steps with two roots each; 1 - beta^t loses up to three digits of the sixteen at small t."""

Vector = list[float]


def length(vector: Vector) -> float:
    return math.sqrt(math.fsum(x * x for x in vector))


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


def drawn(seed: int, size: int = 7) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(size, generator=generator, dtype=torch.float64)
    return weights, [torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(STEPS)]


def run(weights: Tensor, gradients: list[Tensor], rates: list[float], optimizer: type = LAMB, **options: Any) -> Tensor:
    param = nn.Parameter(weights.clone())
    adapts = {"adapts": options.pop("adapts")} if "adapts" in options else {}
    stepper = optimizer([{"params": [param], **adapts}], lr=1.0, **options)
    for gradient, rate in zip(gradients, rates, strict=True):
        param.grad = gradient.clone()
        stepper.param_groups[0]["lr"] = rate
        stepper.step()
    return param.detach()


def test_one_step_by_hand() -> None:
    # At t = 1, m_hat = g and v_hat = g^2, so m_hat / (sqrt(v_hat) + 1) = g / (|g| + 1) with epsilon = 1:
    # g = (1, -3) gives (0.5, -0.75). lambda = 0.5, w = (3, 4): u = (2, 1.25), |u| = sqrt(4 + 1.5625).
    # |w| = 5, lr 0.1: w - 0.1 * 5 / |u| * u.
    weights, gradient = torch.tensor([3.0, 4.0], dtype=torch.float64), torch.tensor([1.0, -3.0], dtype=torch.float64)
    moved = run(weights, [gradient], [0.1], weight_decay=0.5, epsilon=1.0)
    norm = 5.5625**0.5
    torch.testing.assert_close(moved, torch.tensor([3 - 1.0 / norm, 4 - 0.625 / norm], dtype=torch.float64), **FLOAT64)


def test_one_step_by_hand_without_bias_correction() -> None:
    # beta1 = 0.5, beta2 = 0.75, g = 4: m = 2, v = 0.25 * 16 = 4, epsilon = 2: u = 2 / (2 + 2) = 0.5; w = 3.
    # ratio = 3 / 0.5 = 6, bounded to 4; lr 0.25: w - 0.25 * 4 * 0.5 = 2.5.
    options: dict[str, Any] = {"betas": (0.5, 0.75), "epsilon": 2.0, "bias_correction": False, "max_trust_ratio": 4.0}
    moved = run(torch.tensor([3.0], dtype=torch.float64), [torch.tensor([4.0], dtype=torch.float64)], [0.25], **options)
    torch.testing.assert_close(moved, torch.tensor([2.5], dtype=torch.float64), **FLOAT64)


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
    moved = run(torch.tensor([3.0], dtype=torch.float64), [torch.tensor([4.0], dtype=torch.float64)], [0.25], **given)
    torch.testing.assert_close(moved, torch.tensor([expected], dtype=torch.float64), **FLOAT64)


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
    torch.testing.assert_close(run(weights, gradients, RATES, **options), torch.tensor(expected, dtype=torch.float64), **FLOAT64)


def test_bias_correction_matters_to_the_direction() -> None:
    # With one moment corrected more than the other, u differs by more than its length once epsilon counts.
    weights, gradients = drawn(6)
    on, off = (run(weights, gradients, RATES, bias_correction=correction, weight_decay=0.1) for correction in (True, False))
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
    moved = run(torch.tensor([weight], dtype=torch.float64), [torch.tensor([gradient], dtype=torch.float64)], [0.1], epsilon=1e-12, phi_min=phi_min)
    torch.testing.assert_close(moved, torch.tensor([expected], dtype=torch.float64), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("weight", "gradient", "phi_min", "expected"), [(0.0, 2.0, 0.0, 0.0), (0.0, 2.0, 0.5, -0.05), (3.0, 0.0, 0.5, 3.0), (0.0, 0.0, 0.5, 0.0)]
)
def test_ratio_is_the_equations_where_a_norm_is_zero_if_asked_for(weight: float, gradient: float, phi_min: float, expected: float) -> None:
    # As above, but phi_min lifts a zero weight: ratio phi_min / |u|, u = 1; lr 0.1.
    options: dict[str, Any] = {"epsilon": 1e-12, "phi_min": phi_min, "zero_norms": "equation"}
    moved = run(torch.tensor([weight], dtype=torch.float64), [torch.tensor([gradient], dtype=torch.float64)], [0.1], **options)
    torch.testing.assert_close(moved, torch.tensor([expected], dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_without_a_ratio_it_is_torch_adamw(dtype: torch.dtype) -> None:
    weights, gradients = drawn(7)
    weights, gradients = weights.to(dtype), [gradient.to(dtype) for gradient in gradients]
    theirs = run(weights, gradients, RATES, torch.optim.AdamW, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)
    ours = run(weights, gradients, RATES, betas=(0.8, 0.95), epsilon=1e-3, weight_decay=0.1, adapts=False)
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
        step = run(weights, gradients[:1], [0.1], **options) - weights
        assert step.norm().item() == pytest.approx(0.1 * phi, rel=1e-12)


def test_each_tensor_has_a_ratio_of_its_own() -> None:
    (first, first_gradients), (second, second_gradients) = drawn(10), drawn(11)
    params = [nn.Parameter(first.clone()), nn.Parameter(100 * second), nn.Parameter(second.clone())]
    optimizer = LAMB([{"params": params[:2]}, {"params": params[2:], "adapts": False, "weight_decay": 0.0}], lr=0.1, weight_decay=0.01)
    for gradients in zip(first_gradients, second_gradients, second_gradients, strict=True):
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = gradient.clone()
        optimizer.step()
    rates = [0.1] * STEPS
    torch.testing.assert_close(params[0].detach(), run(first, first_gradients, rates, weight_decay=0.01), **FLOAT64)
    torch.testing.assert_close(params[1].detach(), run(100 * second, second_gradients, rates, weight_decay=0.01), **FLOAT64)
    torch.testing.assert_close(params[2].detach(), run(second, second_gradients, rates, adapts=False), **FLOAT64)


def test_a_late_gradient_starts_its_own_count() -> None:
    # A parameter that some steps do not reach: its bias correction counts its own updates.
    weights, gradients = drawn(14)
    early, late = nn.Parameter(weights.clone()), nn.Parameter(weights.clone())
    optimizer = LAMB([early, late], lr=0.1)
    for step, gradient in enumerate(gradients):
        early.grad = gradient.clone()
        late.grad = gradient.clone() if step >= 4 else None
        optimizer.step()
    torch.testing.assert_close(early.detach(), run(weights, gradients, [0.1] * STEPS), **FLOAT64)
    torch.testing.assert_close(late.detach(), run(weights, gradients[4:], [0.1] * (STEPS - 4)), **FLOAT64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias_correction", [False, True])
def test_gradients_are_left_as_they_were_found(dtype: torch.dtype, bias_correction: bool) -> None:
    weights, gradients = drawn(12)
    param = nn.Parameter(weights.to(dtype))
    optimizer = LAMB([param], lr=0.1, weight_decay=0.1, bias_correction=bias_correction)
    for gradient in gradients:
        param.grad = gradient.to(dtype)
        given, held = param.grad, param.grad.clone()
        optimizer.step()
        assert param.grad is given
        assert torch.equal(given, held)


def test_memory_layout_does_not_matter() -> None:
    # A channels-last weight whose gradient is in plain order, as a person's own code may leave it.
    weights = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = [torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in range(STEPS)]
    plain = run(weights, gradients, RATES, weight_decay=0.1)
    for layout in (weights.contiguous(memory_format=torch.channels_last), weights.transpose(0, 1).contiguous().transpose(0, 1)):
        torch.testing.assert_close(run(layout, gradients, RATES, weight_decay=0.1), plain, **FLOAT64)


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


def test_float32_state_of_bfloat16_weights_survives_a_checkpoint() -> None:
    def new() -> TrainState:
        torch.manual_seed(0)
        model = nn.Linear(5, 3).to(torch.bfloat16)
        return TrainState(model, LAMB(model.parameters(), lr=0.1), 1)

    def step(state: TrainState, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for param in state.model.parameters():
            param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        state.optimizer.step()

    whole, first, second = new(), new(), new()
    for seed in range(6):
        step(whole, seed)
    for seed in range(3):
        step(first, seed)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    loaded = [second.optimizer.state[param] for param in second.model.parameters()]
    assert {state[key].dtype for state in loaded for key in ("first_moment", "second_moment", "step")} == {torch.float32}
    for seed in range(3, 6):
        step(second, seed)
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
        for key, value in whole.optimizer.state[one].items():
            assert torch.equal(value, second.optimizer.state[other][key])


@pytest.mark.parametrize("bias_correction", [False, True])
def test_a_loaded_optimizer_goes_on_bit_for_bit(bias_correction: bool) -> None:
    weights, gradients = drawn(13)
    options: dict[str, Any] = {"weight_decay": 0.1, "bias_correction": bias_correction, "phi_max": 2.0}
    expected = run(weights.float(), [g.float() for g in gradients], RATES, **options)
    param = nn.Parameter(weights.float())
    optimizer = LAMB([param], lr=1.0, **options)
    for step, (gradient, rate) in enumerate(zip(gradients, RATES, strict=True)):
        if step == 5:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = LAMB([param], lr=7.0)  # the options, too, come from what was saved
            optimizer.load_state_dict(saved)
        param.grad = gradient.float()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    assert torch.equal(param.detach(), expected)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"lr": -0.1}, "lr"),
        ({"betas": (1.0, 0.9)}, "betas"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": (-0.1, 0.9)}, "betas"),
        ({"weight_decay": -1e-4}, "weight_decay"),
        ({"epsilon": 0.0}, "epsilon"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        LAMB([nn.Parameter(torch.ones(1))], **{"lr": 0.1, **options})
