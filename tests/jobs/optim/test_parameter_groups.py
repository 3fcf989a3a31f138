"""From a spec to an optimizer: which parameters are decayed and adapted, and that every option arrives."""

from typing import Any

import pytest
import torch
from our_optimizers import INSTALLED
from torch import nn
from torch.optim import SGD

from largebatch.jobs.optim.adamw import AdamW
from largebatch.jobs.optim.averaging.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from largebatch.jobs.optim.config_base import OptimizerConfig
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.optim.lamb import LAMB
from largebatch.jobs.optim.lars import LARS
from largebatch.jobs.optim.lion import Lion
from largebatch.jobs.optim.parameter_groups import build_optimizer, parameter_groups, set_learning_rate, shapes_by_main_rule
from largebatch.jobs.optim.rmsprop_warm_up.rmsprop_sgd import RMSpropSGD
from largebatch.jobs.optim.split.together import Together

KINDS = {"sgd": SGD, "adamw": AdamW, "lars": LARS, "lamb": LAMB, "muon": Together, "soap": Together, "shampoo": Together,
         "lion": Lion, "rmsprop-sgd": RMSpropSGD, "schedule-free-sgd": ScheduleFreeSGD, "schedule-free-adamw": ScheduleFreeAdamW}  # fmt: skip


def new_model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def config(name: str, **options: Any) -> OptimizerConfig:
    return OPTIMIZERS[name].model_validate({"name": name, **options})


@pytest.mark.parametrize("name", INSTALLED)
def test_it_builds_what_it_says(name: str) -> None:
    assert isinstance(build_optimizer(new_model(), config(name)), KINDS[name])


def test_biases_and_norms_stand_apart() -> None:
    model = new_model()
    weights, others = parameter_groups(model, config("lars", weight_decay=0.1))
    assert [id(param) for param in weights["params"]] == [id(model[0].weight), id(model[3].weight)]
    assert {id(param) for param in others["params"]} == {id(p) for p in (model[0].bias, model[1].weight, model[1].bias, model[3].bias)}
    assert (weights["weight_decay"], weights["adapts"]) == (0.1, True)
    assert (others["weight_decay"], others["adapts"]) == (0.0, False)


class OwnNorm(nn.LayerNorm):
    """A person's subclass."""


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm([2, 4]), OwnNorm([2, 4]), nn.RMSNorm([2, 4]), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)], ids=repr
)
def test_normalisation_parameters_of_any_dimensions_stand_apart(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 4), norm)
    weights, others = parameter_groups(model, config("sgd", weight_decay=0.1))
    assert [id(param) for param in weights["params"]] == [id(model[0].weight)]
    assert {id(param) for param in others["params"]} == {id(model[0].bias), *map(id, norm.parameters())}


def test_a_parameter_named_bias_is_one_whatever_its_dimensions() -> None:
    model = nn.Linear(4, 4)
    model.bias = nn.Parameter(torch.zeros(1, 4))
    _, others = parameter_groups(model, config("sgd"))
    assert [id(param) for param in others["params"]] == [id(model.bias)]


def test_biases_and_norms_can_be_treated_like_weights() -> None:
    spec = config("lamb", weight_decay=0.1, decay_biases_and_norms=True, adapt_biases_and_norms=True)
    _, others = parameter_groups(new_model(), spec)
    assert (others["weight_decay"], others["adapts"]) == (0.1, True)


def test_frozen_parameters_and_empty_groups_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    for param in model[0].parameters():
        param.requires_grad_(False)
    (only,) = parameter_groups(model, config("sgd"))
    assert [id(param) for param in only["params"]] == [id(model[1].weight)]


def test_the_first_group_that_a_name_matches_takes_the_parameter() -> None:
    model = new_model()
    groups = [{"pattern": "3.*", "learning_rate_factor": 0.5, "weight_decay": 0.3}, {"pattern": "*.weight", "learning_rate_factor": 2.0}]
    made = parameter_groups(model, config("sgd", weight_decay=0.1, groups=groups))
    taken = [
        ([id(param) for param in group["params"]], group["weight_decay"], group.get("learning_rate_factor"))
        for group in made
    ]  # fmt: skip
    assert taken == [
        ([id(model[0].bias), id(model[1].bias)], 0.0, None),
        ([id(model[3].weight)], 0.3, 0.5),
        ([id(model[3].bias)], 0.0, 0.5),
        ([id(model[0].weight)], 0.1, 2.0),
        ([id(model[1].weight)], 0.0, 2.0),
    ]


@pytest.mark.parametrize("name", INSTALLED)
def test_a_group_moves_as_an_optimizer_of_its_own_would(name: str) -> None:
    """The reference: one optimizer for each layer, without groups, each with its own rate and decay."""
    torch.manual_seed(3)
    model, other = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    other.load_state_dict(model.state_dict())
    own = {"pattern": "0.*", "learning_rate_factor": 0.5, "weight_decay": 0.2}
    together = build_optimizer(model, config(name, weight_decay=0.1, groups=[own]))
    apart = [build_optimizer(other[0], config(name, weight_decay=0.2)), build_optimizer(other[1], config(name, weight_decay=0.1))]
    for step in range(1, 4):
        for each in (model, other):
            each.zero_grad()
            each(torch.ones(3, 4)).square().sum().backward()
        set_learning_rate(together, 0.1 / step)
        together.step()
        for optimizer, rate in zip(apart, (0.05 / step, 0.1 / step), strict=True):
            set_learning_rate(optimizer, rate)
            optimizer.step()
    for param, expected in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(param, expected, rtol=1e-6, atol=1e-7)  # the rate, 0.1 / step * 0.5, is rounded once more


@pytest.mark.parametrize(
    ("options", "arrived"),
    [
        ({"name": "sgd", "momentum": 0.7, "nesterov": True}, {"momentum": 0.7, "nesterov": True}),
        ({"name": "adamw", "beta1": 0.8, "beta2": 0.95, "epsilon": 0.01}, {"betas": (0.8, 0.95), "eps": 0.01}),
        ({"name": "adamw"}, {"betas": (0.9, 0.999), "eps": 1e-8}),
        (
            {"name": "lars", "momentum": 0.7, "nesterov": True, "trust_coefficient": 0.02, "epsilon": 0.01, "max_trust_ratio": 3.0},
            {"momentum": 0.7, "nesterov": True, "trust_coefficient": 0.02, "epsilon": 0.01, "max_trust_ratio": 3.0},
        ),
        ({"name": "lars", "learning_rate_in_momentum": False}, {"learning_rate_in_momentum": False, "epsilon": 0.0, "max_trust_ratio": None}),
        (
            {"name": "lamb", "beta1": 0.8, "beta2": 0.95, "epsilon": 0.01, "phi_min": 0.1, "phi_max": 9.0, "max_trust_ratio": 3.0},
            {"betas": (0.8, 0.95), "epsilon": 0.01, "phi_min": 0.1, "phi_max": 9.0, "max_trust_ratio": 3.0, "bias_correction": True},
        ),
        ({"name": "lars", "zero_norms": "equation"}, {"zero_norms": "equation"}),
        ({"name": "lamb", "zero_norms": "equation"}, {"zero_norms": "equation"}),
        ({"name": "lamb"}, {"zero_norms": "one"}),
        ({"name": "lamb", "bias_correction": False}, {"bias_correction": False, "epsilon": 1e-6, "phi_min": 0.0, "phi_max": None}),
    ],
    ids=str,
)
def test_every_option_arrives(options: dict[str, Any], arrived: dict[str, Any]) -> None:
    for group in build_optimizer(new_model(), config(weight_decay=0.1, **options)).param_groups:
        assert {key: group[key] for key in arrived} == arrived


def test_the_learning_rate_reaches_every_group() -> None:
    optimizer = build_optimizer(new_model(), config("lars"))
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


@pytest.mark.parametrize(
    "options",
    [{"name": name} for name, its_config in OPTIMIZERS.items() if its_config.library is None]
    + [{"name": "sgd", "momentum": 0.0}, {"name": "lars", "momentum": 0.0}],
    ids=str,
)
def test_state_bytes_are_those_of_the_real_state(options: dict[str, Any]) -> None:
    model = new_model()
    optimizer = build_optimizer(model, config(**options))
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    held = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor) and value.ndim > 0]
    num_parameters = sum(param.numel() for param in model.parameters())
    main_shapes = shapes_by_main_rule(model, config(**options), ())
    assert config(**options).state_bytes(num_parameters, main_shapes) == sum(value.nbytes for value in held)
