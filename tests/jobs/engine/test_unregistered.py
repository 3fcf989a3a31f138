"""What takes part in the loss is the model's own, or is refused: layers in a plain list were never trained, and no checkpoint had them.

A loss that takes gradients itself is none of that, and trains; it was refused.
"""

from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from small_runs import parameters, trained
from test_own_task_check import Counting
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from largebatch.jobs.errors import PlanError

OUTSIDE = nn.Linear(8, 4)
FROZEN = nn.Linear(8, 4).requires_grad_(False)


class Own(nn.Module):
    """A layer that is registered, and something beside it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)
        self.kind, self.held = kind, HELD.get(kind, lambda: None)()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.body(inputs)
        return self.head(hidden) + USED[self.kind](self, hidden)


HELD: dict[str, Any] = {
    "list": lambda: [nn.Linear(8, 8), nn.Linear(8, 4)],
    "dict": lambda: {"out": (nn.Linear(8, 4), 1.0)},
    "tensor": lambda: torch.ones(4, requires_grad=True),
    "module list": lambda: nn.ModuleList([nn.Linear(8, 4)]),
    "parameter": lambda: nn.Parameter(torch.ones(4)),
    "frozen list": lambda: [nn.Linear(8, 4).requires_grad_(False)],
}
USED: dict[str, Any] = {
    "list": lambda model, hidden: model.held[1](model.held[0](hidden)),
    "dict": lambda model, hidden: model.held["out"][0](hidden),
    "tensor": lambda model, hidden: model.held,
    "global": lambda model, hidden: OUTSIDE(hidden),
    "module list": lambda model, hidden: model.held[0](hidden),
    "parameter": lambda model, hidden: model.held,
    "frozen list": lambda model, hidden: model.held[0](hidden),
    "detached": lambda model, hidden: OUTSIDE(hidden).detach(),
    "frozen": lambda model, hidden: FROZEN(hidden),
    "anew": lambda model, hidden: torch.zeros(4, requires_grad=True),
}


class Teacher(Counting):
    """Outputs near those of a net that is not trained. Args: asks: whether it is left to ask for gradients."""

    def __init__(self, asks: bool) -> None:
        self.teacher = nn.Linear(8, 4).requires_grad_(asks)

    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        return functional.mse_loss(model(batch[0]), self.teacher(batch[0]), reduction="sum")


class Smooth(Counting):
    """A penalty on the gradient by the inputs, which ask for one while it is computed."""

    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        inputs = batch[0].requires_grad_(torch.is_grad_enabled())
        losses = functional.cross_entropy(model(inputs), batch[1], reduction="none")
        if not torch.is_grad_enabled():  # in evaluation
            return losses.sum()
        (slopes,) = torch.autograd.grad(losses.sum(), inputs, create_graph=True)
        return (losses + slopes.square().sum(1)).sum()


def load() -> tuple[TensorDataset, TensorDataset]:
    draw = torch.Generator().manual_seed(3)
    inputs, labels = torch.randn(96, 8, generator=draw), torch.randint(0, 4, (96,), generator=draw)
    return TensorDataset(inputs[:64], labels[:64]), TensorDataset(inputs[64:], labels[64:])


def build(kind: str = "parameter") -> nn.Module:
    return Own(kind)


def prepared(kind: str = "parameter", **parts: Any) -> Any:
    own = {"dataset": {"entry_point": f"{__name__}:load"}, "model": {"entry_point": f"{__name__}:build", "arguments": {"kind": kind}}}
    return small_runs.prepared(**{"task": {"entry_point": f"{__name__}:Counting"}, **own, **parts})


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("list", r"held\[[01]\]\.(weight|bias), of shape \(\d"),
        ("dict", r"held\['out'\]\[0\]\.(weight|bias), of shape"),
        ("tensor", r"held, of shape \(4,\)"),
        ("global", r"a tensor of shape \((4, 8|4,)\)"),
    ],
)
def test_what_no_optimizer_would_reach_is_refused(kind: str, what: str) -> None:
    with pytest.raises(PlanError, match=rf"model: {what}.* takes part in the loss and is none of the model's parameters: .* nn\.ModuleList"):
        prepared(kind)


@pytest.mark.parametrize("kind", ["module list", "parameter", "frozen list", "detached", "frozen", "anew"])
def test_what_is_trained_and_what_is_not_to_be_are_left_alone(kind: str) -> None:
    prepared(kind)


def test_recomputed_blocks_hide_nothing() -> None:
    with pytest.raises(PlanError, match=r"held\[[01]\]"):
        prepared("list", model={"entry_point": f"{__name__}:build", "arguments": {"kind": "list"}, "activation_checkpointing": ["body"]})


def test_a_task_may_have_a_teacher_that_asks_for_nothing_and_inputs_that_ask() -> None:
    prepared(task={"entry_point": f"{__name__}:Teacher", "arguments": {"asks": False}})
    prepared(task={"entry_point": f"{__name__}:Smooth"})
    with pytest.raises(PlanError, match=r"task: its teacher\.(weight|bias), of .* takes part in the loss .*: requires_grad_\(False\)"):
        prepared(task={"entry_point": f"{__name__}:Teacher", "arguments": {"asks": True}})


class SmoothInEvaluation(Smooth):
    """The same, which takes its gradient in evaluation, too. Args: allows: whether it lets autograd work there."""

    def __init__(self, allows: bool) -> None:
        self.allows = allows

    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        with torch.set_grad_enabled(self.allows or torch.is_grad_enabled()):
            inputs = batch[0].requires_grad_()
            losses = functional.cross_entropy(model(inputs), batch[1], reduction="none")
            (slopes,) = torch.autograd.grad(losses.sum(), inputs, create_graph=True)
            return (losses + slopes.square().sum(1)).sum()


def test_a_loss_that_takes_a_gradient_in_evaluation_must_say_so() -> None:
    prepared(task={"entry_point": f"{__name__}:SmoothInEvaluation", "arguments": {"allows": True}})
    with pytest.raises(PlanError, match=r"task: its loss failed .* in evaluation: .* within `with torch\.enable_grad\(\):`"):
        prepared(task={"entry_point": f"{__name__}:SmoothInEvaluation", "arguments": {"allows": False}})


def test_a_loss_that_goes_by_its_inputs_gradient_trains_the_same_however_it_is_split(tmp_path: Path) -> None:
    smooth: dict[str, Any] = {"task": {"entry_point": f"{__name__}:Smooth"}, "optimizer": {"name": "sgd", "momentum": 0.0}}
    for size in (16, 64):
        trained(prepared("module list", **smooth, batch={"global_batch_size": 64, "micro_batch_size": size}, stop={"steps": 1}), tmp_path / str(size))
    model, (train, _) = prepared("module list", **smooth).model, load()
    inputs, labels = train.tensors
    loss = Smooth().loss_sum(model, (inputs.clone(), labels)) / 64
    loss.backward()
    split, whole = parameters(tmp_path / "16"), parameters(tmp_path / "64")
    for name, param in model.named_parameters():
        torch.testing.assert_close(split[name], whole[name], rtol=1e-5, atol=1e-7)
        moved = param.detach() - whole[name]
        assert functional.cosine_similarity(moved.flatten(), param.grad.flatten(), dim=0) > 0.9999, name
