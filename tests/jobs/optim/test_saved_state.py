"""A checkpoint's optimizer state finds its parameters by their names, in the groups that the run began with."""

import copy
from typing import Any

import pytest
import torch
from our_optimizers import INSTALLED
from torch import Tensor, nn
from torch.optim import Optimizer

from largebatch.jobs.errors import PlanError
from largebatch.jobs.optim.averaging.weight_average import WeightAverage
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.optim.parameter_groups import build_optimizer, set_learning_rate
from largebatch.jobs.optim.saved_state import load_optimizer, parameter_names, refuse_other_precision


class Net(nn.Module):
    """Two layers of one shape, named in an order of choice, and a layer-norm of two dimensions."""

    def __init__(self, order: str = "ab", norm: bool = True) -> None:
        super().__init__()
        for name in order:
            setattr(self, name, nn.Linear(4, 4))
        if norm:
            self.norm = nn.LayerNorm([2, 4])

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, 2, 4) of the same."""
        return self.norm(self.b(self.a(inputs)))


def optimizer_of(model: nn.Module, name: str) -> Optimizer:
    optimizer = build_optimizer(model, OPTIMIZERS[name].model_validate({"name": name, "weight_decay": 0.1}))
    set_learning_rate(optimizer, 0.1)
    return optimizer


def by_dimension(model: nn.Module, name: str) -> Optimizer:
    """As versions that saved no names made it: whatever has two dimensions is a weight."""
    optimizer = optimizer_of(model, name)
    params = list(model.parameters())
    apart: list[list[Any]] = [[p for p in params if p.ndim > 1], [p for p in params if p.ndim <= 1]]
    for group, members in zip(optimizer.param_groups, apart, strict=True):
        group["params"] = members
    return optimizer


def train(model: nn.Module, optimizer: Optimizer, seeds: range) -> None:
    for seed in seeds:
        inputs = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        (model(inputs) * inputs).sum().backward()
        optimizer.step()


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("name", INSTALLED)
def test_layers_named_in_another_order_since_keep_their_own_state(name: str) -> None:
    model = Net("ab")
    optimizer = optimizer_of(model, name)
    train(model, optimizer, range(3))
    other = Net("ba")
    other.load_state_dict(model.state_dict())
    loaded = optimizer_of(other, name)
    load_optimizer(loaded, other, copy.deepcopy(optimizer.state_dict()), parameter_names(model, optimizer))
    for each, its_optimizer in ((model, optimizer), (other, loaded)):
        train(each, its_optimizer, range(3, 6))
    assert same(model, other)


@pytest.mark.parametrize("name", INSTALLED)
def test_a_run_of_an_older_version_goes_on_in_the_groups_it_began_with(name: str) -> None:
    model = Net()
    optimizer = by_dimension(model, name)
    train(model, optimizer, range(3))
    other = copy.deepcopy(model)
    loaded = optimizer_of(other, name)
    load_optimizer(loaded, other, copy.deepcopy(optimizer.state_dict()), None)
    for each, its_optimizer in ((model, optimizer), (other, loaded)):
        train(each, its_optimizer, range(3, 6))
    assert same(model, other)
    again = copy.deepcopy(other)  # and so does its own checkpoint
    reloaded = optimizer_of(again, name)
    load_optimizer(reloaded, again, copy.deepcopy(loaded.state_dict()), parameter_names(other, loaded))
    for each, its_optimizer in ((model, optimizer), (again, reloaded)):
        train(each, its_optimizer, range(6, 9))
    assert same(model, again)


def saved_by(model: nn.Module) -> tuple[dict[str, Any], list[str]]:
    optimizer = optimizer_of(model, "adamw")
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    return optimizer.state_dict(), parameter_names(model, optimizer)


def test_another_models_state_is_refused_by_name() -> None:
    saved, names = saved_by(nn.Linear(4, 3))
    frozen = nn.Linear(4, 3)
    frozen.weight.requires_grad_(False)
    for model, loads, sentence in (
        (frozen, names, "weight is trained there and not here"),
        (nn.Sequential(nn.Linear(4, 3)), names, "0.bias is trained here and not there"),
        (nn.Linear(4, 3, bias=False), None, "it trains 2 parameters, this model 1"),
        (nn.Linear(3, 3), None, "the optimizer's state of weight has the shape (3, 4), the parameter (3, 3)"),
    ):
        with pytest.raises(ValueError, match="^" + sentence.replace("(", r"\(").replace(")", r"\)")):
            load_optimizer(optimizer_of(model, "adamw"), model, saved, loads)


def test_a_layer_that_was_frozen_meanwhile_stays_in_the_checkpoint() -> None:
    model = nn.Linear(4, 3)
    optimizer = optimizer_of(model, "adamw")
    model.weight.requires_grad_(False)
    assert parameter_names(model, optimizer) == ["weight", "bias"]


def test_a_parameter_that_the_model_has_replaced_is_no_longer_trained_in_silence() -> None:
    model = nn.Linear(4, 3)
    optimizer = optimizer_of(model, "adamw")
    model.weight = nn.Parameter(torch.ones(3, 4))
    with pytest.raises(PlanError, match="1 of the 2 parameters that the optimizer updates are no longer in the model"):
        parameter_names(model, optimizer)


def test_weights_held_in_another_precision_are_refused() -> None:
    saved = nn.Linear(2, 2).state_dict()
    refuse_other_precision(nn.Linear(2, 2), saved)
    with pytest.raises(ValueError, match="weight was float32 and is float64"):
        refuse_other_precision(nn.Linear(2, 2).double(), saved)


def test_averages_find_their_weights_by_name() -> None:
    first, second = Net("ab", norm=False), Net("ba", norm=False)
    averages = WeightAverage(first, 0.9)
    for average in averages.averages:
        average.normal_()
    held = dict(zip(dict(first.named_parameters()), (average.clone() for average in averages.averages), strict=True))
    other = WeightAverage(second, 0.9)
    other.load_state_dict(averages.state_dict())
    other.swap()
    assert all(torch.equal(value, held[name]) for name, value in second.named_parameters())
    of_older_version = {"averages": averages.state_dict()["averages"]}
    again = WeightAverage(first, 0.9)
    again.load_state_dict(of_older_version)
    assert all(torch.equal(average, held[name]) for name, average in zip(held, again.averages, strict=True))
    with pytest.raises(ValueError, match=r"no average of norm\.weight"):
        WeightAverage(Net(), 0.9).load_state_dict(averages.state_dict())


def test_a_buffer_that_is_a_view_of_a_weight_follows_it_through_the_average() -> None:
    model = nn.Linear(3, 2)
    model.register_buffer("row", model.weight.detach()[0])
    averages = WeightAverage(model, 0.5)
    with torch.no_grad():
        model.weight += 1.0
    averages.update()
    weights = model.weight.detach().clone()
    averages.swap()
    torch.testing.assert_close(model.weight.detach(), weights - 0.5)
    averages.swap()
    assert torch.equal(model.weight.detach(), weights)
