"""What a model or a loss keeps from pass to pass moves once a step, or is refused: splits of a batch, and passes before training, would be counted.

Each of these trained without a word, or was refused as samples that look at each other: a count that anneals a loss from its 60th pass on made
weights that were 37 % apart between micro-batches of 16 and 64, a buffer that follows the weights 8 %.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
import torch
from small_runs import parameters, trained
from test_own_task_check import Counting, load
from torch import Tensor, nn
from torch.nn import functional

from largebatch.jobs.errors import PlanError
from largebatch.jobs.samples.keyed_random import sample_order


class Net(nn.Module):
    """A layer, and what some people keep beside it."""

    def __init__(self, kind: str, above: int) -> None:
        super().__init__()
        self.layer, self.kind, self.above = nn.Linear(8, 3), kind, above
        self.passes, self.temperature = 0, 1.0
        self.register_buffer("count", torch.tensor(0), persistent=kind != "unsaved")
        self.register_buffer("follower", self.layer.weight.detach().clone())

    def forward(self, inputs: Tensor) -> Any:
        if self.training:
            self.passes += 1
            self.temperature *= 0.999
            if self.kind in ("counting buffer", "beside", "unsaved"):
                self.count += 1
            if self.kind == "follower":
                self.follower.lerp_(self.layer.weight.detach(), 0.2)
        logits = self.layer(inputs)
        if self.kind == "counting" and self.passes > self.above:
            return 3.0 * logits
        if self.kind == "cooling":
            return logits / self.temperature
        if self.kind == "counting buffer":
            return torch.where(self.count > self.above, 3.0 * logits, logits)
        return (logits, self.count) if self.kind == "beside" else logits


class Annealed(Counting):
    """A loss that is another one from some pass on, by the count that its model gives beside the logits, or one of its own."""

    def __init__(self, kind: str, above: int) -> None:
        self.kind, self.above, self.passes = kind, above, 0

    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        self.passes += 1
        logits, count = model(batch[0]) if self.kind == "beside" else (model(batch[0]), self.passes)
        loss = functional.cross_entropy(logits, batch[1], reduction="sum")
        return loss * torch.where(torch.as_tensor(count if self.kind != "unread" else 0) > self.above, 3.0, 1.0)

    def metric_sums(self, model: Any, batch: Any) -> dict[str, Tensor]:
        logits = model(batch[0])
        return {"accuracy": ((logits[0] if self.kind == "beside" else logits).argmax(1) == batch[1]).sum()}


class Odd(Counting):
    """A loss that is more than the sum of what each sample has."""

    def __init__(self, kind: str) -> None:
        self.kind, self.centres, self.weight_of_loss = kind, torch.zeros(3), nn.Parameter(torch.ones(1))
        self.other = nn.Linear(8, 3).requires_grad_(False)

    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        inputs, labels = batch
        if self.kind == "noisy inputs":
            return functional.cross_entropy(model(inputs + torch.randn_like(inputs)), labels, reduction="sum")
        if self.kind == "another model":
            return functional.cross_entropy(self.other(inputs).requires_grad_(), labels, reduction="sum")
        logits = model(inputs)
        if self.kind == "a number":
            return torch.tensor(functional.cross_entropy(logits, labels, reduction="sum").item(), requires_grad=True)
        if self.kind == "backward" and torch.is_grad_enabled():
            functional.cross_entropy(logits, labels).backward(retain_graph=True)
        if self.kind == "noisy targets":
            return (logits - torch.randn(logits.shape)).square().sum()
        if self.kind == "numpy":
            return (logits - torch.from_numpy(np.random.standard_normal(logits.shape)).float()).square().sum()
        if self.kind == "learned weight":
            return functional.cross_entropy(logits, labels, reduction="sum") * self.weight_of_loss.squeeze()
        loss = (logits - self.centres).square().sum()
        if self.kind == "centres":
            self.centres = torch.lerp(self.centres, logits.detach().mean(0), 0.5)
        return loss


def build(num_classes: int, kind: str = "", above: int = 0) -> nn.Module:
    return Net(kind, above)


def prepared(kind: str = "", above: int = 0, task: dict[str, Any] | None = None, **parts: Any) -> Any:
    own = {
        "dataset": {"entry_point": "test_own_task_check:load"},
        "model": {"entry_point": f"{__name__}:build", "arguments": {"kind": kind, "above": above}},
        "task": {"name": "classification"} if task is None else task,
    }
    return small_runs.prepared(**own, **parts)


def annealed(kind: str, above: int) -> dict[str, Any]:
    return {"entry_point": f"{__name__}:Annealed", "arguments": {"kind": kind, "above": above}}


@pytest.mark.parametrize("above", [1, 5, 60, 900, 100_000])
def test_a_count_of_passes_that_makes_a_difference_some_time_is_refused(above: int) -> None:
    with pytest.raises(PlanError, match=r"model: it keeps a number from pass to pass, passes \(\d+ before a pass, .*register_buffer"):
        prepared("counting", above)
    with pytest.raises(PlanError, match=r"task: it keeps a number from pass to pass, passes \(\d+ before .* beside the outputs"):
        prepared(task=annealed("own", above))


def test_another_number_that_passes_move_is_refused_too() -> None:
    with pytest.raises(PlanError, match=r"it keeps a number from pass to pass, temperature \(0\.9"):
        prepared("cooling")


def test_a_buffer_that_moves_and_is_in_no_checkpoint_is_refused() -> None:
    """A run that was stopped went on with a count of 0; after three of six steps its weights were 12 % apart."""
    with pytest.raises(PlanError, match="its buffer count moves with each pass, and is not in its state_dict"):
        prepared("unsaved")


def test_counts_that_nothing_reads_are_left_alone() -> None:
    prepared()
    prepared(task=annealed("unread", 0))


@pytest.mark.parametrize("micro_batch_size", [64, 16])
@pytest.mark.parametrize("kind", ["counting buffer", "beside", "follower"])
def test_what_every_pass_moves_moves_once_a_step(kind: str, micro_batch_size: int, tmp_path: Path) -> None:
    """As in plain torch, where a step is a pass: a count that triples logits or loss from the fourth step on, and a follower of the weights."""
    task = annealed("beside", 3) if kind == "beside" else None
    batch = {"global_batch_size": 64, "micro_batch_size": micro_batch_size}
    job = prepared(kind, 3, task, batch=batch, stop={"steps": 6}, optimizer={"name": "sgd", "momentum": 0.0})
    model = Net(kind, 3)
    model.load_state_dict({name: tensor.clone() for name, tensor in job.model.state_dict().items()})
    inputs, labels = load()[0].tensors
    trained(job, tmp_path / "run")
    for step in range(6):
        rows = sample_order(job.spec.seed, step, 64)
        output = model(inputs[rows])
        loss = functional.cross_entropy(output[0] if kind == "beside" else output, labels[rows]) * (3.0 if kind == "beside" and step >= 3 else 1.0)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for param, gradient in zip(model.parameters(), gradients, strict=True):
            param.data.sub_(job.plan.learning_rate(64 * step + 32) * gradient)
    left = parameters(tmp_path / "run")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(left[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("noisy inputs", r"its loss draws random numbers itself, .* Draw in prepare\(batch, draws\)"),
        ("noisy targets", r"its loss draws random numbers itself, .* Draw in prepare\(batch, draws\)"),
        ("numpy", r"its loss draws random numbers from elsewhere than torch.* Draw in prepare\(batch, draws\)"),
        ("centres", "its loss has another gradient when the same samples pass through once more with the same seed: something is kept"),
        ("a number", "its loss reaches no weight of the model by a gradient: nothing would be trained"),
        ("backward", r"its loss calls backward\(\) itself, .* torch\.autograd\.grad\(value, inputs\)"),
        ("another model", "its loss does not call the model that it is given, in training"),
        ("learned weight", r"its weight_of_loss, of shape \(1,\), takes part in the loss .* Let the model hold it"),
    ],
)
def test_a_loss_that_is_more_than_its_samples_is_refused_for_what_it_is(kind: str, sentence: str) -> None:
    with pytest.raises(PlanError, match=rf"task: {sentence}"):
        prepared(task={"entry_point": f"{__name__}:Odd", "arguments": {"kind": kind}})
    prepared(task={"entry_point": f"{__name__}:Odd", "arguments": {"kind": "plain"}})


class Ramp:
    """An object of a person's own."""

    def __init__(self) -> None:
        self.seen, self.itself = 0, self


class SlottedRamp:
    """One whose attributes are in no dict."""

    __slots__ = ("later", "seen")

    def __init__(self) -> None:
        self.seen = 0


class Absent:
    """Stands in for what is there in a request alone, as libraries have it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("not there yet")


class Held(nn.Module):
    """A count in a list, an object or a number of numpy's, by which something begins late, or that a log alone reads."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.kind = nn.Linear(8, 3), kind
        self.state = {
            "absent": Absent() if kind == "absent" else None,
            "seen": [0, np.int64(0)],
            "ramp": SlottedRamp() if kind == "slots" else Ramp(),
        }

    def forward(self, inputs: Tensor) -> Tensor:
        if self.kind in {"object", "slots"}:
            self.state["ramp"].seen += self.training
            seen = self.state["ramp"].seen
        else:
            place = int(self.kind == "numpy")
            self.state["seen"][place] += self.training
            seen = self.state["seen"][place]
        logits: Tensor = self.layer(inputs)
        return logits if self.kind in {"log", "absent"} or seen < 300 else 3.0 * logits


def hold(kind: str) -> nn.Module:
    return Held(kind)


WAYS = {"plain": "state['seen'][0]", "numpy": "state['seen'][1]", "object": "state['ramp'].seen", "slots": "state['ramp'].seen"}


@pytest.mark.parametrize(("kind", "way"), WAYS.items())
def test_a_count_in_a_list_or_an_object_is_found_as_well(kind: str, way: str) -> None:
    own = {"dataset": {"entry_point": "test_own_task_check:load"}, "model": {"entry_point": f"{__name__}:hold", "arguments": {"kind": kind}}}
    with pytest.raises(PlanError, match=rf"keeps a number from pass to pass, {re.escape(way)} \("):
        small_runs.prepared(**own, task={"entry_point": "test_own_task_check:Counting"})


@pytest.mark.parametrize("kind", ["log", "absent"])
def test_a_count_that_a_log_alone_reads_is_left_alone(kind: str) -> None:
    own = {"dataset": {"entry_point": "test_own_task_check:load"}, "model": {"entry_point": f"{__name__}:hold", "arguments": {"kind": kind}}}
    small_runs.prepared(**own, task={"entry_point": "test_own_task_check:Counting"})
