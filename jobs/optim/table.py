"""From a spec to an optimizer: the parameter groups, and the table of names."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from largebatch.jobs.optim.eager import EagerAdamW, EagerSGD
from largebatch.jobs.optim.lamb import LAMB
from largebatch.jobs.optim.lars import LARS
from largebatch.jobs.spec.optimizer import OptimizerSpec

Groups = list[dict[str, Any]]


NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
"""Layers whose own parameters are normalisation parameters; those of all but the last two have one dimension."""


def parameter_groups(model: nn.Module, spec: OptimizerSpec) -> Groups:
    """Weights in one group; biases and normalisation parameters in another, which are all of at most one dimension and some others.

    The second group has no weight decay and a trust ratio of 1, unless the spec says otherwise.
    """
    others = _biases_and_norms(model)
    trained = [param for param in model.parameters() if param.requires_grad]
    groups: Groups = [
        {"params": [param for param in trained if param not in others], "weight_decay": spec.weight_decay, "adapts": True},
        {
            "params": [param for param in trained if param in others],
            "weight_decay": spec.weight_decay if spec.decay_biases_and_norms else 0.0,
            "adapts": spec.adapt_biases_and_norms,
        },
    ]
    return [group for group in groups if group["params"]]


def _biases_and_norms(model: nn.Module) -> set[nn.Parameter]:
    return {
        param
        for module in model.modules()
        for name, param in module.named_parameters(recurse=False)
        if param.ndim <= 1 or name == "bias" or isinstance(module, NORMS)
    }


def _sgd(groups: Groups, spec: OptimizerSpec) -> Optimizer:
    return EagerSGD(groups, lr=0.0, momentum=spec.momentum, nesterov=spec.nesterov)


def _adamw(groups: Groups, spec: OptimizerSpec) -> Optimizer:
    epsilon = 1e-8 if spec.epsilon is None else spec.epsilon
    return EagerAdamW(groups, lr=0.0, betas=(spec.beta1, spec.beta2), eps=epsilon, fused=True)


def _lars(groups: Groups, spec: OptimizerSpec) -> Optimizer:
    return LARS(
        groups,
        lr=0.0,
        momentum=spec.momentum,
        nesterov=spec.nesterov,
        trust_coefficient=spec.trust_coefficient,
        epsilon=0.0 if spec.epsilon is None else spec.epsilon,
        learning_rate_in_momentum=spec.learning_rate_in_momentum,
        max_trust_ratio=spec.max_trust_ratio,
        zero_norms=spec.zero_norms,
    )


def _lamb(groups: Groups, spec: OptimizerSpec) -> Optimizer:
    return LAMB(
        groups,
        lr=0.0,
        betas=(spec.beta1, spec.beta2),
        epsilon=1e-6 if spec.epsilon is None else spec.epsilon,
        bias_correction=spec.bias_correction,
        phi_min=spec.phi_min,
        phi_max=spec.phi_max,
        max_trust_ratio=spec.max_trust_ratio,
        zero_norms=spec.zero_norms,
    )


OPTIMIZERS: dict[str, Callable[[Groups, OptimizerSpec], Optimizer]] = {
    "sgd": _sgd,
    "adamw": _adamw,
    "lars": _lars,
    "lamb": _lamb,
}


def build_optimizer(model: nn.Module, spec: OptimizerSpec) -> Optimizer:
    """The spec's optimizer over a model's parameters; its learning rate is set before every step."""
    groups = parameter_groups(model, spec)
    if spec.name in {"sgd", "adamw"}:  # torch's know no trust ratio
        groups = [{key: value for key, value in group.items() if key != "adapts"} for group in groups]
    return OPTIMIZERS[spec.name](groups, spec)


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Put one learning rate in force for every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def optimizer_state_bytes(spec: OptimizerSpec, num_parameters: int) -> int:
    """Memory of the optimizer's state in float32."""
    buffers = {"sgd": int(spec.momentum > 0), "lars": int(spec.momentum > 0), "adamw": 2, "lamb": 2}[spec.name]
    return buffers * num_parameters * torch.float32.itemsize
