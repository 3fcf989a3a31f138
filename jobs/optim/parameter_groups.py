"""An optimizer over a model: which parameters get weight decay and a trust ratio."""

from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim import Optimizer

from largebatch.jobs.errors import SpecError
from largebatch.jobs.optim.config_base import LEARNING_RATE_FACTOR, OptimizerConfig, ParamGroups

NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Layers whose own parameters are normalisation parameters; those of all but the last two have one dimension."""

MOST_NAMES = 20
"""How many names a refusal lists."""


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> ParamGroups:
    """Weights in one group; biases and normalisation parameters in another, which are all of at most one dimension and some others.

    The second group has no weight decay and a trust ratio of 1, unless the config says otherwise.
    After them come two such groups of each of the config's own.
    """
    biases_and_norms, members = _biases_and_norms(model), _members(model, config)
    groups: ParamGroups = [
        {
            "params": [param for param in params if (param in biases_and_norms) == is_second],
            **config.group_options(is_bias_or_norm=is_second, group=group),
        }
        for group, params in zip((None, *config.groups), members, strict=True)
        for is_second in (False, True)
    ]
    return [group for group in groups if group["params"]]


def groups_in_words(model: nn.Module, config: OptimizerConfig) -> str:
    """Which parameters the config's own groups take, as a notice. Raises: SpecError for a group that takes none."""
    rest, *members = _members(model, config)
    for group, params in zip(config.groups, members, strict=True):
        if not params:
            matches = any(param.requires_grad and fnmatchcase(name, group.pattern) for name, param in model.named_parameters(remove_duplicate=False))
            why = "whose parameters all match an earlier group" if matches else "which matches no parameter that is trained"
            names = ", ".join([name for name, param in model.named_parameters() if param.requires_grad][:MOST_NAMES])
            raise SpecError("optimizer.groups", f"has the pattern {group.pattern!r}, {why}.", f"Trained are {names}.")
    words = [
        f"{len(params)} parameters match {group.pattern!r} (learning rate x {group.learning_rate_factor:g}, weight decay "
        f"{config.weight_decay if group.weight_decay is None else group.weight_decay:g})"
        for group, params in zip(config.groups, members, strict=True)
    ]
    return f"Groups: {'; '.join(words)}; {len(rest)} are as the optimizer says."


def _members(model: nn.Module, config: OptimizerConfig) -> list[list[nn.Parameter]]:
    """The trained parameters that belong to none of the config's groups, then those of each, in the model's order."""
    members: list[list[nn.Parameter]] = [[] for _ in range(len(config.groups) + 1)]
    names: dict[nn.Parameter, list[str]] = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        if param.requires_grad:
            names.setdefault(param, []).append(name)
    for param, own_names in names.items():
        matching = (number for number, group in enumerate(config.groups, 1) if any(fnmatchcase(name, group.pattern) for name in own_names))
        members[next(matching, 0)].append(param)
    return members


def _biases_and_norms(model: nn.Module) -> set[nn.Parameter]:
    return {
        param
        for module in model.modules()
        for name, param in module.named_parameters(recurse=False)
        if param.ndim <= 1 or name == "bias" or isinstance(module, NORMS)
    }


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The config's optimizer over a model's parameters; its learning rate is set before every step."""
    return config.build(parameter_groups(model, config))


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Put one learning rate in force for every group, times the group's own factor."""
    for param_group in optimizer.param_groups:
        param_group["lr"] = learning_rate * param_group.get(LEARNING_RATE_FACTOR, 1.0)
