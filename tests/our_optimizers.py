"""Our optimizer classes as anybody may use them: a small model, its gradients, and a step."""

from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from largebatch.jobs.optim.adamw import AdamW
from largebatch.jobs.optim.averaging.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.optim.lamb import LAMB
from largebatch.jobs.optim.lars import LARS
from largebatch.jobs.optim.lion import Lion
from largebatch.jobs.optim.rmsprop_warm_up.rmsprop_sgd import RMSpropSGD
from largebatch.jobs.optim.split.muon import Muon

Kind = Callable[..., Optimizer]
INSTALLED = [name for name, config in OPTIMIZERS.items() if config.library is None or find_spec(config.library)]
"""The names whose optimizers can be built here: those of a library are skipped where it is missing."""
KINDS: dict[str, Kind] = {
    "LARS": partial(LARS, trust_coefficient=0.1),
    "LARS, Nesterov": partial(LARS, trust_coefficient=0.1, nesterov=True, learning_rate_in_momentum=False),
    "LAMB": LAMB,
    "Lion": Lion,
    "AdamW": partial(AdamW, fused=True),
    "ScheduleFreeSGD": ScheduleFreeSGD,
    "ScheduleFreeAdamW": ScheduleFreeAdamW,
    "Muon": Muon,
    "RMSpropSGD": partial(RMSpropSGD, rmsprop_weight=0.5),
}
ALL = pytest.mark.parametrize("kind", [pytest.param(kind, id=name) for name, kind in KINDS.items()])


def small_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Matrices alone, so that Muon updates it too."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 3, bias=False)).to(dtype)


def set_gradients(params: Iterable[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)


def train(model: nn.Module, optimizer: Any, seeds: Iterable[int]) -> None:
    for seed in seeds:
        set_gradients(model.parameters(), seed)
        optimizer.step()


def weights_of(model: nn.Module) -> list[Tensor]:
    return [param.detach().clone() for param in model.parameters()]
