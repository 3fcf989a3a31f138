"""The dual norm of gradients, against singular values by NumPy in float64, and against what it is dual to."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from largebatch.jobs.optim.configs.element_wise import LionConfig
from largebatch.jobs.optim.configs.muon import MuonConfig
from largebatch.jobs.optim.configs.registry import OPTIMIZERS, OptimizerConfig
from largebatch.jobs.optim.dual_norm import DualNorm, nuclear_norm
from largebatch.jobs.optim.parameter_groups import build_optimizer

SHAPES = [(3, 5), (5, 3), (1, 7), (4, 4), (6, 2, 3, 3), (20, 1)]


def singular_values(gradient: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    values: np.ndarray[Any, np.dtype[np.float64]] = np.linalg.svd(gradient.double().numpy().reshape(len(gradient), -1), compute_uv=False)
    return values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_nuclear_norm_is_the_sum_of_singular_values(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    # The roots of a Gram matrix' eigenvalues, which are off by 2^-52 of the largest times its size.
    assert float(nuclear_norm(gradient)) == pytest.approx(singular_values(gradient).sum(), rel=1e-12)


def test_singular_values_of_zero_weigh_less_than_the_gradients_own_rounding() -> None:
    generator = torch.Generator().manual_seed(2)
    of_rank_one = torch.outer(torch.randn(300, generator=generator), torch.randn(200, generator=generator)).double()
    assert float(nuclear_norm(of_rank_one)) == pytest.approx(float(of_rank_one.square().sum().sqrt()), rel=200 * 2e-8)
    assert float(nuclear_norm(torch.zeros(4, 3))) == 0.0


class Net(nn.Module):
    """A convolution, a hidden layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)
        self.hidden, self.head = nn.Linear(6, 10), nn.Linear(10, 3)


def norm_of(config: OptimizerConfig, seed: int = 3) -> tuple[float, dict[str, Tensor]]:
    """|g|_* by the optimizer's groups, and the gradients by the parameters' names."""
    torch.manual_seed(seed)
    model = Net()
    norm = DualNorm(build_optimizer(model, config, heads=("head.weight",)), config.dual_norm)
    gradients = {name: torch.randn_like(param) for name, param in model.named_parameters()}
    by_param: dict[Tensor, Tensor | None] = {param: gradients[name] for name, param in model.named_parameters()}
    return float(norm.of({param: by_param[param] for param in norm.params})), gradients


def test_lions_is_the_l1_norm_of_all_that_it_updates() -> None:
    plain, gradients = norm_of(LionConfig(name="lion"))
    assert plain == pytest.approx(sum(float(np.abs(gradient.double().numpy()).sum()) for gradient in gradients.values()), rel=1e-12)
    groups = [{"pattern": "hidden.*", "learning_rate_factor": 0.25}]
    grouped, _ = norm_of(LionConfig.model_validate({"name": "lion", "groups": groups}))
    of_group = sum(float(gradient.double().abs().sum()) for name, gradient in gradients.items() if name.startswith("hidden"))
    assert grouped == pytest.approx(plain - 0.75 * of_group, rel=1e-12), "a slow parameter gains less of its gradient"


@pytest.mark.parametrize(
    ("adjust", "of_conv", "of_hidden"),
    [
        ("original", 1.0, math.sqrt(10 / 6)),  # a convolution of 6 rows and 18 columns, a matrix of 10 and 6
        ("match_rms_adamw", 0.2 * math.sqrt(18), 0.2 * math.sqrt(10)),
        ("spectral_unclamped", math.sqrt(6 / 18), math.sqrt(10 / 6)),
    ],
)
def test_muons_is_the_sum_of_its_matrices_nuclear_norms_by_how_far_they_move(adjust: str, of_conv: float, of_hidden: float) -> None:
    found, gradients = norm_of(MuonConfig.model_validate({"name": "muon", "adjust_lr_fn": adjust}))
    expected = of_conv * singular_values(gradients["conv.weight"]).sum() + of_hidden * singular_values(gradients["hidden.weight"]).sum()
    assert found == pytest.approx(expected, rel=1e-12), "the head, biases and norms are left out"


@pytest.mark.parametrize("config", [LionConfig(name="lion", beta1=0.0), MuonConfig(name="muon", momentum=0.0, nesterov=False)], ids=str)
def test_it_is_dual_to_the_optimizers_own_step(config: OptimizerConfig) -> None:
    """A step of rate 1 without momentum gains <gradient, step> = |gradient|_*; muon's as nearly as its iteration puts singular values at 1."""
    torch.manual_seed(4)
    model = Net()
    optimizer = build_optimizer(model, config, heads=("head.weight",))
    norm = DualNorm(optimizer, config.dual_norm)
    before = {param: param.detach().clone() for param in norm.params}
    for param in model.parameters():
        param.grad = torch.randn_like(param)
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    gained = norm.of({param: param.grad for param in norm.params})
    optimizer.step()
    along = sum(float((param.grad * (before[param] - param.detach())).sum()) for param in norm.params if param.grad is not None)
    assert along == pytest.approx(float(gained), rel=1e-5 if config.name == "lion" else 0.2)


def test_every_optimizer_has_a_norm_of_its_own_or_says_why_not() -> None:
    with_norm = {name: config.dual_norm for name, config in OPTIMIZERS.items() if config.dual_norm}
    assert with_norm == {"lion": "l1", "muon": "nuclear"}
    reasons = {name: config.without_dual_norm for name, config in OPTIMIZERS.items() if not config.dual_norm}
    assert {name for name, reason in reasons.items() if "Euclidean" in reason} == {"sgd", "schedule-free-sgd"}
    assert {name for name, reason in reasons.items() if "layer by layer" in reason} == {"lars", "lamb"}
    assert {name for name, reason in reasons.items() if "squared gradients" in reason} == {"adamw", "schedule-free-adamw", "soap", "shampoo"}
