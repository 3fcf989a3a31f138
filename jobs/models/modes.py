"""How a model runs: in training or in evaluation mode, where frozen parts stay frozen, or without gradients.

A part is frozen by `eval()` where the model is built, or by a `train()` of the model's own. A model that is in evaluation
mode as a whole was only built that way: all of it trains.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from largebatch.jobs.entry_points import ANYTHING, described
from largebatch.jobs.errors import PlanError


def train_mode(model: nn.Module) -> nn.Module:
    """The model in training mode, but for the parts that are in evaluation mode while the model is not. Raises: PlanError."""
    try:
        return _train(model, _frozen(model))
    except ANYTHING as error:  # a person's own train() may raise anything
        raise PlanError("model", f"cannot be switched to training mode: {described(error)}.", "Mend its train().") from error


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Context in which a model is in evaluation mode."""
    is_training, frozen = model.training, _frozen(model)
    model.eval()
    try:
        yield
    finally:
        if is_training:
            _train(model, frozen)


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Context after which each module of a model is in the mode in which it was before."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, is_training in modes:
            module.training = is_training


@contextmanager
def without_gradient() -> Iterator[None]:
    """Context without gradients, and without the warning of torch's reentrant checkpointing that there will be none: nobody asked for them."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad=True")
        yield


def _frozen(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if not module.training] if model.training else []


def _train(model: nn.Module, frozen: list[nn.Module]) -> nn.Module:
    model.train()
    for module in frozen:
        module.training = False  # not eval(): a part of a frozen part may train
    return model
