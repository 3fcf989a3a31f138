"""A gradient that is more than the loss's, and what is drawn or counted so rarely or slowly that few passes show it, is refused or said."""

import math
import random
from typing import Any

import numpy as np
import pytest
import small_runs
import torch
from small_runs import Net
from torch import Tensor, nn

from largebatch.jobs.errors import PlanError


class Adding(torch.autograd.Function):
    """Gives its first input, and adds the second to the loss on the way back, as DeepSeek's experts are balanced."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, term: Tensor) -> Tensor:
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return gradient, gradient.new_ones(())


def build(num_classes: int, kind: str, amount: float) -> nn.Module:
    def forward(model: Any, inputs: Tensor) -> Tensor:
        hidden = model.body(inputs).tanh()
        if kind == "added":
            hidden = Adding.apply(hidden, amount * model.gate(inputs).softmax(1).mean(0).square().sum())  # type: ignore[no-untyped-call]
        if kind == "own clipped" and hidden.requires_grad:
            hidden.register_hook(lambda gradient: gradient.clamp(-amount, amount))
        draws = {"Python's": random.random, "numpy's": np.random.rand, "torch's": lambda: float(torch.rand(()))}
        if kind in draws and model.training and draws[kind]() < amount:
            return model.head(inputs[:, :6])
        if kind == "counted":
            model.count += model.training
        return model.head(hidden) * math.exp(-amount * model.count)

    model = Net(forward, body=nn.Linear(8, 6), gate=nn.Linear(8, 4), head=nn.Linear(6, num_classes), count=0)
    if kind == "clipped":
        model.head.weight.register_hook(lambda gradient: gradient.clamp(-amount, amount))
    if kind == "scaled":
        model.head.weight.register_hook(lambda gradient: amount * gradient)
    return model


def notices(kind: str, amount: float) -> list[str]:
    model = {"entry_point": f"{__name__}:build", "arguments": {"kind": kind, "amount": amount}}
    return small_runs.prepared(dataset={"entry_point": "strangers:load"}, model=model).findings.notices


@pytest.mark.parametrize(
    ("kind", "amount", "sentence"),
    [
        ("added", 1e-4, r"the gradient of gate\.weight is not in proportion to the loss \(\d+.*% of it is not\): a hook, or a function"),
        ("added", 1e-2, "the gradient of gate.weight is not in proportion to the loss"),
        ("clipped", 1e3, "the gradient of head.weight is not in proportion to the loss"),
        ("counted", 3e-5, "it keeps a number from pass to pass, count"),
        ("Python's", 0.2, "draws random numbers from elsewhere than torch"),
        ("numpy's", 0.2, "draws random numbers from elsewhere than torch"),
    ],
)
def test_what_is_small_is_refused_too(kind: str, amount: float, sentence: str) -> None:
    """With micro-batches of 5 for 64, a hundredth of a load balance made weights that were 5 % apart."""
    with pytest.raises(PlanError, match=sentence):
        notices(kind, amount)


@pytest.mark.parametrize(
    ("kind", "amount", "words"), [("numpy's", 0.0, "Python's or numpy's generators"), ("torch's", 0.2, "torch's own generators")]
)
def test_what_is_drawn_is_said(kind: str, amount: float, words: str) -> None:
    """A layer that is left out rarely shows in few passes."""
    assert [words in notice for notice in notices(kind, amount)] == [True]


def test_what_follows_no_split_is_part_of_the_gradient() -> None:
    """A hook that scales, and one that clips what goes back through each sample's own numbers, as in recurrent networks."""
    assert notices("scaled", 0.5) == []
    assert notices("own clipped", 1e-3) == []
    assert notices("torch's", 0.0) == []
