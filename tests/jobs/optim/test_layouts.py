"""Every optimizer gives the same weights however parameter, gradient and state lie in memory, and writes nowhere else.

The reference is plain torch (its loop over parameters, unfused) or the papers' equations, in float64 and row by row.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Muon

from largebatch.jobs.optim.config_base import OptimizerConfig
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.optim.parameter_groups import build_optimizer, set_learning_rate
from largebatch.jobs.optim.saved_state import load_optimizer, parameter_names

RATE, DECAY, STEPS = 0.05, 0.1, 6
SHAPE = (4, 3, 2, 3, 5)
NEAR = {"rtol": 2e-6, "atol": 2e-6}
"""Six float32 steps of some twenty roundings of 2^-24 each, on numbers near 1."""

Reference = Callable[[Tensor, list[Tensor]], Tensor]


def by_torch(kind: type[SGD] | type[AdamW], **options: Any) -> Reference:
    def trained(weights: Tensor, gradients: list[Tensor]) -> Tensor:
        param = nn.Parameter(weights.clone())
        optimizer = kind([param], lr=RATE, weight_decay=DECAY, foreach=False, fused=False, **options)
        for gradient in gradients:
            param.grad = gradient.clone()
            optimizer.step()
        return param.detach()

    return trained


def by_lars(weights: Tensor, gradients: list[Tensor]) -> Tensor:
    velocity = torch.zeros_like(weights)
    for gradient in gradients:
        ratio = 0.001 * weights.norm() / (gradient.norm() + DECAY * weights.norm())
        velocity = 0.9 * velocity + RATE * ratio * (gradient + DECAY * weights)
        weights = weights - velocity
    return weights


def by_lamb(weights: Tensor, gradients: list[Tensor]) -> Tensor:
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    for t, gradient in enumerate(gradients, 1):
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        update = first / (1 - 0.9**t) / ((second / (1 - 0.999**t)).sqrt() + 1e-6) + DECAY * weights
        weights = weights - RATE * weights.norm() / update.norm() * update
    return weights


def by_torchs_muon(weights: Tensor, gradients: list[Tensor]) -> Tensor:
    """In float32, for the iteration in bfloat16 would round what differs by little to something else."""
    param = nn.Parameter(weights.flatten(1).float())
    optimizer = Muon([param], lr=RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
    for gradient in gradients:
        param.grad = gradient.flatten(1).float()
        optimizer.step()
    return param.detach().double().view_as(weights)


def by_lion(weights: Tensor, gradients: list[Tensor]) -> Tensor:
    mean = torch.zeros_like(weights)
    for gradient in gradients:
        weights = weights - RATE * ((0.9 * mean + 0.1 * gradient).sign() + DECAY * weights)
        mean = 0.99 * mean + 0.01 * gradient
    return weights


def by_rmsprop_sgd(weights: Tensor, gradients: list[Tensor]) -> Tensor:
    """With half of each, as it is built."""
    second, velocity = torch.zeros_like(weights), torch.zeros_like(weights)
    for gradient in gradients:
        gradient = gradient + DECAY * weights
        second = 0.99 * second + 0.01 * gradient**2
        velocity = 0.9 * velocity + (0.5 + 0.5 / (second.sqrt() + 1e-8)) * gradient
        weights = weights - RATE * velocity
    return weights


def by_schedule_free(weights: Tensor, gradients: list[Tensor], beta2: float | None) -> Tensor:
    sequence = average = weights
    second = torch.zeros_like(weights)
    for t, gradient in enumerate(gradients, 1):
        direction = gradient
        if beta2 is not None:
            second = beta2 * second + (1 - beta2) * gradient**2
            direction = gradient / ((second / (1 - beta2**t)).sqrt() + 1e-8)
        sequence = sequence - RATE * (direction + DECAY * weights)
        average = average + (sequence - average) / t
        weights = 0.1 * sequence + 0.9 * average
    return weights


REFERENCES: dict[str, Reference] = {
    "sgd": by_torch(SGD, momentum=0.9),
    "adamw": by_torch(AdamW, betas=(0.9, 0.999), eps=1e-8),
    "lars": by_lars,
    "lamb": by_lamb,
    "muon": by_torchs_muon,
    "lion": by_lion,
    "rmsprop-sgd": by_rmsprop_sgd,
    "schedule-free-sgd": lambda weights, gradients: by_schedule_free(weights, gradients, None),
    "schedule-free-adamw": lambda weights, gradients: by_schedule_free(weights, gradients, 0.999),
}


def sliced(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, torch.zeros_like(tensor)], -1)[..., : tensor.shape[-1]]


def strided(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, torch.zeros_like(tensor)], -1).flatten(-2)[..., ::2]


def transposed(tensor: Tensor) -> Tensor:
    return tensor.mT.contiguous().mT


def transposed_slice(tensor: Tensor) -> Tensor:
    return strided(tensor.transpose(0, 1)).transpose(0, 1)


def odd_stride_of_one(tensor: Tensor) -> Tensor:
    """A dimension of size 1 may have any stride: a 1x1 convolution's has."""
    return tensor.reshape(-1, 1, tensor.shape[-1]).as_strided((tensor.numel() // tensor.shape[-1], 1, tensor.shape[-1]), (tensor.shape[-1], 1, 1))


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "rows": lambda tensor: tensor,
    "sliced": sliced,
    "strided": strided,
    "transposed": transposed,
    "transposed slice": transposed_slice,
    "channels last 3-D": lambda tensor: tensor.contiguous(memory_format=torch.channels_last_3d),
    "channels last 2-D": lambda tensor: tensor.flatten(0, 1).contiguous(memory_format=torch.channels_last),
    "stride of one": odd_stride_of_one,
}


class TwoWeights(nn.Module):
    """One laid out as asked; the other shares its storage where there are gaps."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weights)
        self.other = nn.Parameter(torch.ones(2, 2))


def drawn(dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    weights, *gradients = (torch.randn(SHAPE, generator=generator).to(dtype) for _ in range(STEPS + 1))
    return weights, gradients


def step(model: TwoWeights, optimizer: Any, gradient: Tensor) -> None:
    set_learning_rate(optimizer, RATE)
    model.weight.grad = gradient
    model.other.grad = torch.ones(2, 2)
    optimizer.step()


def spec(name: str) -> OptimizerConfig:
    own = {"assign": [{"pattern": "*", "to": "muon"}]} if name == "muon" else {}
    return OPTIMIZERS[name].model_validate({"name": name, "weight_decay": DECAY, **own})


def check(model: TwoWeights, name: str) -> None:
    weights, gradients = drawn()
    shape = model.weight.shape
    expected = REFERENCES[name](weights.reshape(shape), [gradient.reshape(shape) for gradient in gradients])
    torch.testing.assert_close(model.weight.detach().double().reshape(-1), expected.reshape(-1), **NEAR)
    whole = torch.empty(0).set_(model.weight.detach().untyped_storage())
    assert whole.count_nonzero() == expected.numel(), "what lies in the gaps is left alone"


@pytest.mark.parametrize("gradients_layout", ["rows", "parameter", "columns"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", REFERENCES)
def test_no_layout_changes_a_number(name: str, layout: str, gradients_layout: str) -> None:
    weights, gradients = drawn(torch.float32)
    lay = LAYOUTS[layout]
    model = TwoWeights(lay(weights).detach())
    optimizer = build_optimizer(model, spec(name))
    for gradient in gradients:
        like = {"rows": gradient.reshape(model.weight.shape), "parameter": lay(gradient), "columns": transposed(gradient.reshape(model.weight.shape))}
        step(model, optimizer, like[gradients_layout])
    check(model, name)


@pytest.mark.parametrize(("before", "after"), [("rows", "transposed"), ("transposed", "rows"), ("channels last 3-D", "strided"), ("sliced", "rows")])
@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("loads", [True, False])
def test_weights_that_lie_otherwise_after_a_resume_or_from_some_step_on(name: str, before: str, after: str, loads: bool) -> None:
    weights, gradients = drawn(torch.float32)
    model = TwoWeights(LAYOUTS[before](weights).detach())
    optimizer = build_optimizer(model, spec(name))
    for number, gradient in enumerate(gradients):
        if number == STEPS // 2:
            moved = LAYOUTS[after](model.weight.detach().contiguous())
            if loads:
                saved, names = copy.deepcopy(optimizer.state_dict()), parameter_names(model, optimizer)
                model = TwoWeights(moved)
                optimizer = build_optimizer(model, spec(name))
                load_optimizer(optimizer, model, saved, names)
            else:
                model.weight.data = moved
        step(model, optimizer, gradient)
    check(model, name)


@pytest.mark.parametrize("name", REFERENCES)
def test_parameters_that_are_views_of_one_storage(name: str) -> None:
    weights, gradients = drawn(torch.float32)
    model = nn.Module()
    whole = torch.zeros(SHAPE[0], 7, *SHAPE[2:])
    whole[:, :3], whole[:, 3:6] = weights, weights
    model.first, model.second = nn.Parameter(whole[:, :3]), nn.Parameter(whole[:, 3:6])
    optimizer = build_optimizer(model, spec(name))
    for gradient in gradients:
        set_learning_rate(optimizer, RATE)
        model.first.grad, model.second.grad = gradient, gradient.clone()
        optimizer.step()
    expected = REFERENCES[name](*drawn())
    for part in (whole[:, :3], whole[:, 3:6]):
        torch.testing.assert_close(part.double(), expected, **NEAR)
    assert not whole[:, 6].any()
