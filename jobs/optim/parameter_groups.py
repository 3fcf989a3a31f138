"""An optimizer over a model: which parameters get weight decay and a trust ratio."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim import Optimizer

from largebatch.jobs.optim.configs import OptimizerConfig, ParamGroups

NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Layers whose own parameters are normalisation parameters; those of all but the last two have one dimension."""


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> ParamGroups:
    """Weights in one group; biases and normalisation parameters in another, which are all of at most one dimension and some others.

    The second group has no weight decay and a trust ratio of 1, unless the config says otherwise.
    """
    biases_and_norms = _biases_and_norms(model)
    trained = [param for param in model.parameters() if param.requires_grad]
    groups: ParamGroups = [
        {"params": [param for param in trained if (param in biases_and_norms) == is_second], **config.group_options(is_bias_or_norm=is_second)}
        for is_second in (False, True)
    ]
    return [group for group in groups if group["params"]]


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
    """Put one learning rate in force for every group."""
    for param_group in optimizer.param_groups:
        param_group["lr"] = learning_rate
