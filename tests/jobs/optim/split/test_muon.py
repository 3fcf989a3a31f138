"""Muon is torch's on matrices, whatever they lie like; convolutions are matrices; with nothing assigned to it, the other rule is what trains."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from largebatch.jobs.optim.configs.muon import MuonConfig
from largebatch.jobs.optim.parameter_groups import build_optimizer, set_learning_rate
from largebatch.jobs.optim.saved_state import load_optimizer, parameter_names
from largebatch.jobs.optim.split.muon import COEFFICIENTS, Muon

RATES = [0.02, 0.05, 0.01, 0.03]
FORMS = ["original", "match_rms_adamw", "spectral_unclamped"]


def config(**options: Any) -> MuonConfig:
    return MuonConfig.model_validate({"name": "muon", **options})


def drawn(*shape: int) -> tuple[Tensor, list[Tensor]]:
    """Weights, and a gradient for each rate."""
    generator = torch.Generator().manual_seed(5)
    weights, *gradients = (torch.randn(shape, generator=generator) for _ in range(len(RATES) + 1))
    return weights, gradients


def steps(optimizer: Any, param: nn.Parameter, gradients: list[Tensor]) -> Tensor:
    """The parameter after a step for each gradient."""
    for rate, gradient in zip(RATES, gradients, strict=True):
        set_learning_rate(optimizer, rate)
        param.grad = gradient
        optimizer.step()
    return param.detach()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(6, 4), (4, 9), (5, 5)], ids=str)
def test_on_matrices_it_is_torchs_bit_for_bit(form: str, nesterov: bool, shape: tuple[int, int]) -> None:
    weights, gradients = drawn(*shape)
    options: dict[str, Any] = {"momentum": 0.9, "weight_decay": 0.1, "nesterov": nesterov, "ns_steps": 4, "adjust_lr_fn": form}
    ours, theirs = nn.Parameter(weights.clone()), nn.Parameter(weights.clone())
    expected = steps(torch.optim.Muon([theirs], **options), theirs, gradients)
    assert torch.equal(steps(Muon([ours], lr=0.0, **options), ours, gradients), expected)
    model = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False))
    model[0].weight.data.copy_(weights)
    assert torch.equal(steps(build_optimizer(model, config(**options)), model[0].weight, gradients), expected), "every option arrives"


def by_the_equations(weights: Tensor, gradients: list[Tensor], momentum: float, decay: float, form: str, steps: int) -> Tensor:
    """In float64: the iteration moves singular values alone, each along the polynomial a s + b s^3 + c s^5."""
    rows, columns = weights.shape
    ratio = {
        "original": max(1, rows / columns) ** 0.5,
        "match_rms_adamw": 0.2 * max(rows, columns) ** 0.5,
        "spectral_unclamped": (rows / columns) ** 0.5,
    }
    a, b, c = COEFFICIENTS
    weights, mean = weights.double(), torch.zeros_like(weights, dtype=torch.float64)
    for rate, gradient in zip(RATES, gradients, strict=True):
        mean = momentum * mean + (1 - momentum) * gradient.double()
        left, values, right = torch.linalg.svd(momentum * mean + (1 - momentum) * gradient.double(), full_matrices=False)
        values = values / math.sqrt(float(values.square().sum()))
        for _ in range(steps):
            values = a * values + b * values**3 + c * values**5
        weights = weights - rate * decay * weights - rate * ratio[form] * (left * values) @ right
    return weights


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(6, 4), (4, 9)], ids=str)
def test_it_follows_the_equations(form: str, shape: tuple[int, int]) -> None:
    """bfloat16 rounds each number by 2^-9; two iterations of three products each, whose slope is at most 3.4445 each, make of that at most
    some 3 * (3.4445^2 + 3.4445) * 2^-9 = 0.09 of an update's largest number (about 1), and of all steps 0.11 * ratio * 0.09.
    """
    weights, gradients = drawn(*shape)
    param = nn.Parameter(weights.clone())
    got = steps(Muon([param], lr=0.0, momentum=0.8, weight_decay=0.1, ns_steps=2, adjust_lr_fn=form), param, gradients)
    expected = by_the_equations(weights, gradients, 0.8, 0.1, form, 2)
    ratio = {
        "original": max(1, shape[0] / shape[1]) ** 0.5,
        "match_rms_adamw": 0.2 * max(shape) ** 0.5,
        "spectral_unclamped": (shape[0] / shape[1]) ** 0.5,
    }
    bound = sum(RATES) * ratio[form] * 0.09
    assert float((got.double() - expected).abs().max()) < bound
    undone = by_the_equations(weights, gradients, 0.0, 0.1, form, 2)
    assert float((got.double() - undone).abs().max()) > 2 * bound, "the bound tells another momentum apart"


@pytest.mark.parametrize("lay", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_is_its_matrix(lay: torch.memory_format) -> None:
    weights, gradients = drawn(6, 3, 2, 2)
    flat = nn.Parameter(weights.flatten(1).clone())
    expected = steps(torch.optim.Muon([flat], weight_decay=0.1), flat, [gradient.flatten(1) for gradient in gradients])
    model = nn.Conv2d(3, 6, 2, bias=False).to(memory_format=lay)
    model.weight.data.copy_(weights)
    optimizer = build_optimizer(model, config(weight_decay=0.1, adjust_lr_fn="original"))
    laid = [gradient.to(memory_format=lay) for gradient in gradients]
    assert torch.equal(steps(optimizer, model.weight, laid), expected.view(6, 3, 2, 2))
    assert model.weight.is_contiguous(memory_format=lay)


def net() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 3))


def trained(model: nn.Module, optimizer: Any, seeds: range, factor: float = 1.0) -> dict[str, Tensor]:
    for seed in seeds:
        optimizer.zero_grad()
        model(torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
        set_learning_rate(optimizer, factor * 0.1 / (1 + seed))
        optimizer.step()
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("other", "theirs"),
    [
        ({"name": "adamw", "weight_decay": 0.1, "beta2": 0.9}, lambda params: AdamW(params, betas=(0.9, 0.9), weight_decay=0.1, fused=True)),
        ({"name": "sgd", "weight_decay": 0.1, "nesterov": True}, lambda params: SGD(params, momentum=0.9, nesterov=True, weight_decay=0.1)),
    ],
)
def test_with_no_matrix_assigned_it_is_the_other(other: dict[str, Any], theirs: Any) -> None:
    ours, reference = net(), net()
    given = config(other={**other, "decay_biases_and_norms": True}, other_learning_rate_factor=0.5, assign=[{"pattern": "*", "to": "other"}])
    got = trained(ours, build_optimizer(ours, given), range(4))
    want = trained(reference, theirs(reference.parameters()), range(4), factor=0.5)
    assert all(torch.equal(got[name], value) for name, value in want.items())


@pytest.mark.parametrize("other", ["adamw", "lamb", "sgd"])
def test_each_part_moves_as_it_would_alone_also_after_a_checkpoint(other: str) -> None:
    """The same parameters by two optimizers of torch's making, which know nothing of each other."""
    model, reference = net(), net()
    given = config(other={"name": other, "weight_decay": 0.01}, weight_decay=0.1, other_learning_rate_factor=0.5)
    optimizer = build_optimizer(model, given, heads=("3.weight",))
    alone = torch.optim.Muon([reference[0].weight], weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    others = [param for name, param in reference.named_parameters() if name != "0.weight"]
    its_other = given.other.build([{"params": [reference[3].weight], **given.other.group_options(is_bias_or_norm=False)},
                                   {"params": others[:-2] + others[-1:], **given.other.group_options(is_bias_or_norm=True)}])  # fmt: skip
    for seed in range(6):
        if seed == 3:
            saved, names = copy.deepcopy(optimizer.state_dict()), parameter_names(model, optimizer)
            optimizer = build_optimizer(model, given, heads=("3.weight",))
            load_optimizer(optimizer, model, saved, names)
        trained(model, optimizer, range(seed, seed + 1))
        reference.zero_grad()
        reference(torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
        for each, factor in ((alone, 1.0), (its_other, 0.5)):
            set_learning_rate(each, factor * 0.1 / (1 + seed))
            each.step()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in reference.state_dict().items())


def test_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Muon updates matrices, and a parameter has the shape \(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1)


def test_the_mean_of_a_bfloat16_parameter_is_float32() -> None:
    model = nn.Linear(4, 3, bias=False).bfloat16()
    optimizer = build_optimizer(model, config())
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()
    assert optimizer.state[model.weight]["momentum_buffer"].dtype == torch.float32
