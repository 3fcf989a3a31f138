"""Momentum by its half-life: the past fades by the samples seen, whatever the batch; against each optimizer's equations in float64.

The plan says what each step has, as in a run; half-lives are turned into decays here once more, by the samples of the steps.
"""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from small_runs import planned
from torch import Tensor, nn

from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.optim.parameter_groups import build_optimizer, set_learning_rate, set_options
from largebatch.jobs.plan.step_plan import Position, StepPlan

NUM_SAMPLES, EPOCHS, HALF_LIFE, LONGER = 1000, 3.0, 700.0, 5000.0
GROWING = {"warmup": {"start": 8, "epochs": 0.5}, "growth": [{"epoch": 1.5, "factor": 2.0}]}
BATCHES: dict[str, dict[str, Any]] = {
    **{str(size): {"global_batch_size": size} for size in (32, 64, 128)},  # the last of an epoch's steps has 8, 40 or 104 samples
    "growing": {"global_batch_size": 64, "schedule": GROWING},
}
FLOAT64 = {"rtol": 1e-12, "atol": 1e-14}


def steps_of(batch: dict[str, Any], optimizer: dict[str, Any]) -> Iterator[StepPlan]:
    """The steps of a whole run, as the loop takes them."""
    plan = planned(NUM_SAMPLES, batch={"micro_batch_size": 8, **batch}, optimizer=optimizer, stop={"epochs": EPOCHS})
    position = Position(0, 0)
    for _ in range(plan.total_steps):
        step = plan.step_at(position)
        yield step
        position = step.end


def sizes_of(batch: dict[str, Any]) -> list[int]:
    return [step.samples.size for step in steps_of(batch, {"name": "sgd"})]


def decays(sizes: list[int], half_life: float) -> list[float]:
    """Written another way than the code has it."""
    return [math.exp(-math.log(2) * size / half_life) for size in sizes]


def layer(weights: Tensor) -> nn.Linear:
    """A matrix in float64 and no bias."""
    made = nn.Linear(weights.shape[1], weights.shape[0], bias=False, dtype=torch.float64)
    made.weight.data.copy_(weights)
    return made


def drawn(number: int, *shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(8)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(number)]


def trained(optimizer: dict[str, Any], batch: dict[str, Any], gradients: list[Tensor], weights: Tensor, rate: float) -> list[Tensor]:
    """The weights after each step."""
    model, seen = layer(weights), list[Tensor]()
    made = build_optimizer(model, OPTIMIZERS[optimizer["name"]].model_validate(optimizer))
    for step, gradient in zip(steps_of(batch, optimizer), gradients, strict=True):
        set_learning_rate(made, rate)
        set_options(made, step.options)
        model.weight.grad = gradient.clone()
        made.step()
        seen.append(model.weight.detach().clone())
    return seen


# ---- planted truth: what one gradient leaves behind -------------------------------------------------------------------

LEFT_BEHIND: dict[str, tuple[dict[str, Any], list[tuple[str, float]]]] = {
    "sgd": ({"name": "sgd", "momentum_half_life_samples": HALF_LIFE}, [("momentum_buffer", HALF_LIFE)]),
    "lars": ({"name": "lars", "momentum_half_life_samples": HALF_LIFE}, [("velocity", HALF_LIFE)]),
    "adamw": (
        {"name": "adamw", "beta1_half_life_samples": HALF_LIFE, "beta2_half_life_samples": LONGER},
        [("exp_avg", HALF_LIFE), ("exp_avg_sq", LONGER)],
    ),
    "lamb": (
        {"name": "lamb", "beta1_half_life_samples": HALF_LIFE, "beta2_half_life_samples": LONGER},
        [("first_moment", HALF_LIFE), ("second_moment", LONGER)],
    ),
    "muon": ({"name": "muon", "momentum_half_life_samples": HALF_LIFE}, [("momentum_buffer", HALF_LIFE)]),
    "lion": ({"name": "lion", "beta2_half_life_samples": LONGER}, [("mean", LONGER)]),
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_after_as_many_samples_as_much_of_a_gradient_is_left_at_every_batch(name: str, batch: str) -> None:
    """A gradient at the first step and none afterwards: what the averages keep of it falls by the samples alone."""
    optimizer, averages = LEFT_BEHIND[name]
    model = layer(drawn(1, 3, 3)[0])
    made = build_optimizer(model, OPTIMIZERS[name].model_validate(optimizer))
    first, num_first = dict[str, Tensor](), sizes_of(BATCHES[batch])[0]
    for number, step in enumerate(steps_of(BATCHES[batch], optimizer)):
        set_learning_rate(made, 0.01)
        set_options(made, step.options)
        model.weight.grad = torch.zeros(3, 3, dtype=torch.float64) if number else drawn(2, 3, 3)[1]
        made.step()
        for key, half_life in averages:
            kept = made.state[model.weight][key]
            first.setdefault(key, kept.clone())
            since = step.end.samples_seen - num_first
            torch.testing.assert_close(kept, first[key] * 2.0 ** (-since / half_life), rtol=1e-11, atol=0.0)
    assert step.end.samples_seen == EPOCHS * NUM_SAMPLES
    assert all(first[key].abs().min() > 0 for key, _ in averages)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("told", [("beta1", "beta2"), ("beta1",), ("beta2",)], ids=str)
@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_under_a_constant_gradient_adam_moves_by_the_rate_at_every_step(name: str, told: tuple[str, ...], batch: str) -> None:
    """The moments of a constant gradient are the gradient and its square, whatever the betas were, if their bias is corrected to the last bit."""
    options = {f"{option}_half_life_samples": {"beta1": HALF_LIFE, "beta2": LONGER}[option] for option in told}
    gradient = torch.tensor([[3.0, -0.25], [1e-3, 40.0]], dtype=torch.float64)
    sizes = sizes_of(BATCHES[batch])
    ways = {"lamb": {"epsilon": 1e-300, "max_trust_ratio": 1e-9}, "adamw": {"epsilon": 0.0}}[name]
    rate = 1e9 if name == "lamb" else 1.0  # times the ratio, which is bounded to 1e-9
    seen = trained({"name": name, **options, **ways}, BATCHES[batch], [gradient] * len(sizes), torch.full((2, 2), 1e3, dtype=torch.float64), rate)
    expected = [1e3 - number * gradient.sign() for number in range(1, len(sizes) + 1)]
    torch.testing.assert_close(torch.stack(seen), torch.stack(expected), rtol=1e-10, atol=0.0)


# ---- restatements in float64 -----------------------------------------------------------------------------------------------


def mean_of(gradients: list[Tensor], betas: list[float]) -> Tensor:
    """The weighted mean that an unbiased moving average is, weights written out."""
    weights = [(1 - beta) * math.prod(betas[number + 1 :]) for number, beta in enumerate(betas)]
    return sum((weight * gradient for weight, gradient in zip(weights, gradients, strict=True)), torch.zeros_like(gradients[0])) / math.fsum(weights)


def adam_direction(gradients: list[Tensor], first: list[float], second: list[float], epsilon: float) -> Tensor:
    count = len(gradients)
    return mean_of(gradients, first[:count]) / (mean_of([g * g for g in gradients], second[:count]).sqrt() + epsilon)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(batch: str, nesterov: bool) -> None:
    momenta = decays(sizes_of(BATCHES[batch]), HALF_LIFE)
    weights, *gradients = drawn(len(momenta) + 1, 3, 4)
    buffer, expected, w = torch.zeros_like(weights), [], weights
    for momentum, gradient in zip(momenta, gradients, strict=True):
        pulled = gradient + 0.01 * w
        buffer = momentum * buffer + pulled
        w = w - 0.1 * (pulled + momentum * buffer if nesterov else buffer)
        expected.append(w)
    options = {"name": "sgd", "momentum_half_life_samples": HALF_LIFE, "nesterov": nesterov, "weight_decay": 0.01}
    torch.testing.assert_close(torch.stack(trained(options, BATCHES[batch], gradients, weights, 0.1)), torch.stack(expected), **FLOAT64)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("told", [("beta1", "beta2"), ("beta1",), ("beta2",)], ids=str)
@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_adamw_and_lamb(name: str, told: tuple[str, ...], batch: str) -> None:
    sizes = sizes_of(BATCHES[batch])
    first = decays(sizes, HALF_LIFE) if "beta1" in told else [0.9] * len(sizes)
    second = decays(sizes, LONGER) if "beta2" in told else [0.999] * len(sizes)
    w, *gradients = drawn(len(sizes) + 1, 3, 4)
    weights, expected = w, list[Tensor]()
    for count in range(1, len(sizes) + 1):
        direction = adam_direction(gradients[:count], first, second, 1e-3)
        if name == "adamw":
            w = w - 0.1 * (direction + 0.01 * w)
        else:
            update = direction + 0.01 * w
            w = w - 0.1 * w.norm() / update.norm() * update
        expected.append(w)
    options = {f"{option}_half_life_samples": {"beta1": HALF_LIFE, "beta2": LONGER}[option] for option in told}
    seen = trained({"name": name, "epsilon": 1e-3, "weight_decay": 0.01, **options}, BATCHES[batch], gradients, weights, 0.1)
    torch.testing.assert_close(torch.stack(seen), torch.stack(expected), rtol=1e-9, atol=1e-11)  # 1 - beta^t loses three digits at first


@pytest.mark.parametrize("batch", BATCHES)
def test_lion(batch: str) -> None:
    sizes = sizes_of(BATCHES[batch])
    w, *gradients = drawn(len(sizes) + 1, 3, 4)
    weights, mean, expected = w, torch.zeros_like(w), list[Tensor]()
    for beta1, beta2, gradient in zip(decays(sizes, HALF_LIFE), decays(sizes, LONGER), gradients, strict=True):
        w = w - 0.01 * ((beta1 * mean + (1 - beta1) * gradient).sign() + 0.1 * w)
        mean = beta2 * mean + (1 - beta2) * gradient
        expected.append(w)
    options = {"name": "lion", "beta1_half_life_samples": HALF_LIFE, "beta2_half_life_samples": LONGER, "weight_decay": 0.1}
    torch.testing.assert_close(torch.stack(trained(options, BATCHES[batch], gradients, weights, 0.01)), torch.stack(expected), **FLOAT64)


@pytest.mark.parametrize("batch", BATCHES)
def test_muon_is_torchs_with_its_momentum_set_at_each_step(batch: str) -> None:
    """On float32, for its iteration is bfloat16 anyhow; the means are compared in float64 above."""
    options = {"name": "muon", "momentum_half_life_samples": HALF_LIFE, "weight_decay": 0.1, "adjust_lr_fn": "original"}
    momenta = decays(sizes_of(BATCHES[batch]), HALF_LIFE)
    weights, *gradients = (tensor.float() for tensor in drawn(len(momenta) + 1, 4, 6))
    model, param = nn.Sequential(nn.Linear(6, 4, bias=False)), nn.Parameter(weights.clone())
    model[0].weight.data.copy_(weights)
    ours, theirs = build_optimizer(model, OPTIMIZERS["muon"].model_validate(options)), torch.optim.Muon([param], lr=0.02, weight_decay=0.1)
    for step, momentum, gradient in zip(steps_of(BATCHES[batch], options), momenta, gradients, strict=True):
        set_learning_rate(ours, 0.02)
        set_options(ours, step.options)
        theirs.param_groups[0]["momentum"] = momentum
        model[0].weight.grad, param.grad = gradient.clone(), gradient.clone()
        ours.step()
        theirs.step()
        torch.testing.assert_close(model[0].weight, param, rtol=1e-6, atol=1e-7)


def test_muons_other_rule_has_half_lives_of_its_own() -> None:
    """The bias moves as under AdamW alone, with half-lives that are not the matrices'."""
    own = {"beta1_half_life_samples": 300.0, "beta2_half_life_samples": LONGER}
    options = {"name": "muon", "momentum_half_life_samples": HALF_LIFE, "other": {"name": "adamw", **own}}
    both, alone = (nn.Linear(4, 4, dtype=torch.float64) for _ in range(2))
    alone.load_state_dict(both.state_dict())
    model = nn.Sequential(both)
    made = build_optimizer(model, OPTIMIZERS["muon"].model_validate(options))
    other = build_optimizer(alone, OPTIMIZERS["adamw"].model_validate({"name": "adamw", **own}))
    batch, before = BATCHES["growing"], both.weight.detach().clone()
    for step, step_alone in zip(steps_of(batch, options), steps_of(batch, {"name": "adamw", **own}), strict=True):
        (gradient,) = drawn(1, 4)
        for optimizer, of in ((made, step), (other, step_alone)):
            set_learning_rate(optimizer, 0.01)
            set_options(optimizer, of.options)
        for made_layer in (both, alone):
            made_layer.bias.grad, made_layer.weight.grad = gradient * step.number, torch.ones_like(before)
        made.step()
        other.step()
    assert torch.equal(both.bias, alone.bias)
    assert made.state[both.weight]["momentum_buffer"].shape == before.shape
    assert not torch.equal(both.weight, alone.weight)


def test_a_parameter_that_some_steps_pass_over_has_a_bias_of_its_own() -> None:
    """Of two parameters one gets a gradient at every other step: its moments begin where its own first gradient does."""
    options = {"name": "adamw", "beta1_half_life_samples": HALF_LIFE, "beta2_half_life_samples": LONGER, "epsilon": 0.0}
    often, seldom = layer(torch.zeros(2, 2)), layer(torch.zeros(2, 2))
    made = build_optimizer(nn.ModuleList([often, seldom]), OPTIMIZERS["adamw"].model_validate(options))
    steps = list(steps_of(BATCHES["growing"], options))
    for step in steps:
        set_learning_rate(made, 1.0)
        set_options(made, step.options)
        often.weight.grad = torch.full((2, 2), 3.0, dtype=torch.float64)
        seldom.weight.grad = None if step.number % 2 else torch.full((2, 2), -7.0, dtype=torch.float64)
        made.step()
    torch.testing.assert_close(often.weight, torch.full_like(often.weight, -float(len(steps))), rtol=1e-10, atol=0.0)
    torch.testing.assert_close(seldom.weight, torch.full_like(seldom.weight, float(len(steps) // 2)), rtol=1e-10, atol=0.0)
