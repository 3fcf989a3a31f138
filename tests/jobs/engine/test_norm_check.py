"""Norms that are tried before training: which pass, and which are refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Net, parameters, prepared, trained
from torch import Tensor, nn
from torch.nn import functional

from largebatch.jobs.engine.model_check.norms import refuse_mixed_groups
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.norms.ghost_batch_norm import forward_pass_of, use_ghost_batch_norm
from largebatch.jobs.models.sample_dropout import use_sample_dropout


def rows(arrange: Callable[[Tensor], Tensor], norm: nn.Module | None = None) -> nn.Module:
    """Batch-norm over rows of four steps of each sample, which `arrange` puts into some order."""

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.last(m.norm(arrange(x.reshape(len(x), 4, 2))).reshape(len(x), -1, 2).mean(1))

    return Net(forward, norm=norm or nn.BatchNorm1d(2), last=nn.Linear(2, 3))


def chain(norm: nn.Module) -> nn.Module:
    """Batch-norm over samples."""
    return Net(lambda m, x: m.last(m.norm(x)), norm=norm, last=nn.Linear(8, 3))


def twice(dropout: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
    """One norm, run twice, behind dropout."""
    parts = {"dropout": dropout or nn.Dropout(0.3), "norm": nn.BatchNorm1d(8), "last": nn.Linear(8, 3)}
    return Net(lambda m, x: m.last(m.norm(m.norm(m.dropout(x)).tanh())), **parts)


class Renormalising(nn.BatchNorm1d):
    """Uses running statistics in training, as batch renormalisation does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.running_mean


class MovingTwice(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        return super().forward(x)


class Counting(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        self.num_batches_tracked.add_(1)
        return super().forward(x)


class Pooling(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean(0, keepdim=True)


class Activated(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu_()


def by_sample(x: Tensor) -> Tensor:
    return x.reshape(-1, 2)


def tried(model: nn.Module) -> nn.Module:
    model = use_ghost_batch_norm(use_sample_dropout(model), 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        refuse_mixed_groups(model, (torch.randn(4, 8, generator=torch.Generator().manual_seed(0)),), lambda model, batch: model(batch[0]))
    finally:
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "the model is left as it was"
        assert forward_pass_of(model).span in (8, None)
    return model


@pytest.mark.parametrize(
    "model",
    [
        lambda: rows(by_sample),
        lambda: rows(by_sample, nn.BatchNorm1d(2, momentum=None)),
        lambda: rows(by_sample, Activated(2)),
        lambda: rows(lambda x: x.transpose(1, 2), nn.InstanceNorm1d(2, track_running_stats=True)),
        twice,
        lambda: twice(lambda x: functional.dropout(x, 0.5)),
        lambda: nn.Linear(8, 3),
    ],
    ids=["steps", "plain average", "activated", "instances", "twice", "random", "no norm"],
)
def test_norms_that_take_samples_in_their_order_pass(model: Callable[[], nn.Module]) -> None:
    tried(model())


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (rows(lambda x: x.transpose(0, 1).reshape(-1, 2)), "takes together rows of samples that do not belong together"),
        (rows(lambda x: x.flip(0), nn.BatchNorm1d(4)), "takes together"),
        (rows(lambda x: by_sample(x)[x.flatten()[0::2] > -0.5]), "rows of 4 samples, which are not as many of each"),
        (rows(by_sample, Renormalising(2)), "normalises by its running statistics in training"),
        (rows(by_sample, MovingTwice(2)), "moves its running_mean in a way of its own"),
        (rows(by_sample, Counting(2)), "moves its num_batches_tracked in a way of its own"),
        (chain(Pooling(8)), "does not give a row for each row"),
    ],
    ids=["steps first", "another order", "some rows", "renormalising", "moving twice", "counting", "pooling"],
)
def test_others_are_refused_by_name(model: Any, why: str) -> None:
    with pytest.raises(PlanError, match=rf"model: norm, a {type(model.norm).__name__}, .*{why}"):
        tried(model)


STEPS_FIRST = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(8), nn.Linear(8, num_classes)

    def forward(self, images):
        rows = images.reshape(-1, 8, 8).transpose(0, 1).reshape(-1, 8)
        return self.last(self.norm(rows).reshape(8, -1, 8).mean(0))
"""


def test_a_job_tries_the_norms_where_batches_have_several_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "steps_first.py").write_text(STEPS_FIRST)
    monkeypatch.syspath_prepend(tmp_path)
    own: dict[str, Any] = {"dataset": {"name": "digits"}, "model": {"entry_point": "steps_first:Net"}, "batch": {"global_batch_size": 100}}
    assert prepared(**own).plan.span == 100
    with pytest.raises(PlanError, match="model: norm, a BatchNorm1d, takes together"):
        prepared(**own, batch_norm={"span": 25})


def test_a_count_of_steps_beside_a_norm_is_no_mixed_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it scales differs from step to step, and not from group to group."""
    (tmp_path / "counting_steps.py").write_text(COUNTING_STEPS)
    monkeypatch.syspath_prepend(tmp_path)
    for micro_batch_size in (25, 100):
        job = prepared(
            dataset={"name": "digits"},
            model={"entry_point": "counting_steps:Net"},
            batch={"global_batch_size": 100, "micro_batch_size": micro_batch_size},
            batch_norm={"span": 25},
            stop={"steps": 3},
        )
        trained(job, tmp_path / str(micro_batch_size))
    split, whole = (parameters(tmp_path / size) for size in ("25", "100"))
    assert float(whole["count"]) == 3
    for name, value in whole.items():
        torch.testing.assert_close(split[name], value, rtol=1e-4, atol=1e-5)


COUNTING_STEPS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(64), nn.Linear(64, num_classes)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, images):
        if self.training:
            self.count += 1
        return self.last(self.norm(images.flatten(1) * (1 + self.count)))
"""
