"""Loaded optimizer state lies where a fresh optimizer makes it, whatever the file was read to."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from largebatch.jobs.engine.ranks.all_reduce import SumInProcess
from largebatch.jobs.engine.ranks.gradient_norm import SquaredNorm
from largebatch.jobs.optim.configs import OPTIMIZERS
from largebatch.jobs.optim.parameter_groups import build_optimizer
from largebatch.jobs.optim.saved_state import load_optimizer
from largebatch.jobs.optim.weight_average import WeightAverage

OTHER = torch.device("meta")
"""A device that every machine has beside the CPU: tensors on it have a place and no numbers."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "given", [{"name": "lamb"}, {"name": "lamb", "bias_correction": False}, {"name": "lars"}, {"name": "adamw"}, {"name": "sgd"}], ids=str
)
def test_a_checkpoint_read_on_the_cpu_resumes_on_another_device(given: dict[str, Any], dtype: torch.dtype) -> None:
    spec = OPTIMIZERS[given["name"]].model_validate(given)
    trained = nn.Linear(3, 2).to(dtype)
    optimizer = build_optimizer(trained, spec)
    for parameter in trained.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    saved = optimizer.state_dict()
    assert saved["state"]

    elsewhere = nn.Linear(3, 2).to(dtype).to(OTHER)
    loaded = build_optimizer(elsewhere, spec)
    load_optimizer(loaded, elsewhere, saved, None)
    for parameter, original in zip(elsewhere.parameters(), trained.parameters(), strict=True):
        kept, there = optimizer.state[original], loaded.state[parameter]
        assert set(there) == set(kept)
        for name, value in kept.items():
            if isinstance(value, Tensor):
                assert (there[name].device, there[name].dtype) == (OTHER, value.dtype), name


def test_without_any_gradient_the_norm_is_zero() -> None:
    """A rank without samples in a step that ranks take alone."""
    params = list(nn.Linear(2, 2).parameters())
    for param in params:
        param.grad = torch.ones_like(param)
    gradient_sum = SumInProcess(params, SquaredNorm(params))
    assert gradient_sum.squared_norm() == 6.0
    gradient_sum.start(total_weight=0.0, num_micro_batches=0, measures=False)
    gradient_sum.finish()
    assert gradient_sum.squared_norm() == 0.0
    assert all(param.grad is None for param in params)


def test_the_average_follows_a_buffer_that_a_model_assigns_anew() -> None:
    class Centred(nn.Linear):
        mean: Tensor

        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("mean", torch.zeros(2))

    model = Centred()
    average = WeightAverage(model, 0.75)
    model.mean = torch.tensor([4.0, 8.0])
    average.update()
    average.swap()
    assert model.mean.tolist() == [1.0, 2.0]
    average.swap()
    assert model.mean.tolist() == [4.0, 8.0]
