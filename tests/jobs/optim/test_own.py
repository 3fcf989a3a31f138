"""A person's own optimizer trains as in their own loop; what the loop could not use is refused in words before anything trains."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Net, document, parameters, prepared, trained
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Optimizer, RMSprop

from largebatch.jobs.errors import CodeError, SpecError
from largebatch.jobs.spec.read import build_spec, entry_points, refuse_unlisted_entry_points

OWN = {"entry_point": "own_optimizers:make", "arguments": {"alpha": 0.8}}


@pytest.fixture(autouse=True)
def own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """This file as the module `own_optimizers`, as a person's file beside the run would be."""
    monkeypatch.setitem(sys.modules, "own_optimizers", sys.modules[__name__])


def make(params: Any, alpha: float) -> Optimizer:
    """An entry point."""
    return RMSprop(params, alpha=alpha)


def flat_samples() -> tuple[Any, Any]:
    """An entry point: 24 samples to train on, which are also the test set."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(24) % 3
    data = torch.utils.data.TensorDataset(torch.randn(24, 5, generator=generator) + labels[:, None], labels)
    return data, data


def exact_net(num_classes: int) -> nn.Module:
    """An entry point: a float64 model."""
    return Net(lambda m, x: m.last(m.first(x.double()).tanh()), first=nn.Linear(5, 7).double(), last=nn.Linear(7, num_classes).double())


def test_it_trains_as_in_a_loop_of_ones_own(tmp_path: Path) -> None:
    """Whole batches of the whole set, whose order changes nothing but rounding: the loss is taken in float32, 2^-24 of its gradient a step, which
    RMSprop divides by the root of its mean square and takes eight steps of 0.02 of.
    """
    groups = [{"pattern": "first.weight", "learning_rate_factor": 0.5}]
    job = prepared(
        optimizer={**OWN, "weight_decay": 0.1, "groups": groups},
        dataset={"entry_point": "own_optimizers:flat_samples"},
        model={"entry_point": "own_optimizers:exact_net"},
        batch={"global_batch_size": "full"},
        learning_rate={"base": 0.02},
    )
    model: Any = copy.deepcopy(job.model)
    inputs, labels = flat_samples()[0].tensors
    biases = [model.first.bias, model.last.bias]
    weights = [{"params": [model.first.weight], "lr": 0.01}, {"params": [model.last.weight]}]
    optimizer = RMSprop([*({**group, "weight_decay": 0.1} for group in weights), {"params": biases}], lr=0.02, alpha=0.8)
    for _ in range(8):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    trained(job, tmp_path)
    got = parameters(tmp_path)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(got["first.weight"], exact_net(3).state_dict()["first.weight"])


def scrambled(params: Any) -> nn.Module:
    """An entry point that gives no optimizer."""
    return nn.Linear(2, 2)


def only_the_first(params: Any) -> Optimizer:
    """An entry point that leaves out all but a group."""
    return SGD(params[:1], lr=0.1)


def one_more(params: Any) -> Optimizer:
    """An entry point that adds a parameter."""
    return SGD([*params, {"params": [nn.Parameter(torch.zeros(3))]}], lr=0.1)


class Deaf(SGD):
    """Reads no rate."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                param.data -= 0.1 * param.grad


class Forgetful(SGD):
    """Keeps what no checkpoint can."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                self.state[param]["made"] = Deaf


@pytest.mark.parametrize(
    ("optimizer", "sentence"),
    [
        ("own_optimizers:scrambled", "own_optimizers:scrambled returned Linear; it must return a torch.optim.Optimizer"),
        ("own_optimizers:only_the_first", r"leaves out \d+ of \d+ parameters, one of them of shape"),
        ("own_optimizers:one_more", r"adds 1 of \d+ parameters, one of them of shape \(3,\)"),
        ("own_optimizers:Deaf", "moves weights at a learning rate of 0"),
        ("own_optimizers:Forgetful", "does not come back from a checkpoint"),
        ("torch.optim:LBFGS", r"failed: ValueError: LBFGS doesn't support per-parameter options"),
        ("torch.optim:SparseAdam", r"cannot take a step: RuntimeError: SparseAdam does not support dense gradients.* called without a closure"),
        ("torch.optim:Muon", "failed: ValueError: Muon only supports 2D parameters"),
        ("own_optimizers:nothing", "has no nothing"),
        ("own_optimizers:make", "does not take these arguments: missing a required argument: 'alpha'"),
    ],
)
def test_what_the_loop_could_not_use_is_refused(optimizer: str, sentence: str) -> None:
    with pytest.raises(SpecError, match=rf"^optimizer\.entry_point: .*{sentence}"):
        prepared(optimizer={"entry_point": optimizer})


class Tires(SGD):
    """Fails at its fourth step; the first two are tries."""

    num_steps = 0

    def step(self, closure: Any = None) -> None:
        Tires.num_steps += 1
        if Tires.num_steps == 4:
            raise KeyError("momentum_buffer")
        super().step()


def test_what_fails_midway_is_told_as_ones_own(tmp_path: Path) -> None:
    job = prepared(optimizer={"entry_point": "own_optimizers:Tires"})
    with pytest.raises(CodeError, match=r"^optimizer\.entry_point: failed at step 2, updating the weights: KeyError: 'momentum_buffer'"):
        trained(job, tmp_path)


class NeedsClosure(SGD):
    """Takes its loss once more."""

    def step(self, closure: Any) -> None:  # type: ignore[override]
        closure()


def test_a_closure_is_never_given() -> None:
    with pytest.raises(SpecError, match=r"cannot take a step: TypeError: .*closure.* step\(\) is called without a closure"):
        prepared(optimizer={"entry_point": "own_optimizers:NeedsClosure"})


def test_the_spec_says_no_name_and_the_operator_lists_it() -> None:
    spec = build_spec(document(optimizer=OWN))
    assert build_spec(spec.model_dump(mode="json")) == spec
    assert entry_points(spec) == {"optimizer.entry_point": "own_optimizers:make"}
    refuse_unlisted_entry_points(spec, {"own_optimizers:make"})
    with pytest.raises(
        SpecError, match=r"optimizer\.entry_point: 'own_optimizers:make' is not among the entry points .* --entry-point own_optimizers:make"
    ):
        refuse_unlisted_entry_points(spec, {"own_optimizers:other"})
    with pytest.raises(SpecError, match=r"optimizer: own \(own_optimizers:make\) does not read momentum; it reads arguments, "):
        build_spec(document(optimizer={**OWN, "momentum": 0.9}))


def test_the_plan_says_which_it_is() -> None:
    assert dict(prepared(optimizer={**OWN, "weight_decay": 0.1}).plan_in_words())["optimizer"] == "own (own_optimizers:make), weight decay 0.1"
