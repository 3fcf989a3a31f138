"""Batch-norm under schedule-free optimizers: statistics at the average that is evaluated and exported, of which training knows nothing.

Workers and resumes are in test_ranks.py and test_resume.py.
"""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import CPU, Net, parameters, prepared, same, synthetic, trained
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from largebatch.jobs.data.sources.validation import mixed_samples
from largebatch.jobs.engine.evaluation.evaluate import evaluate
from largebatch.jobs.engine.evaluation.norms_at_average import settle_norms
from largebatch.jobs.engine.out_of_memory import make_room
from largebatch.jobs.errors import InputError
from largebatch.jobs.models.weights import evaluated_weights
from largebatch.jobs.optim.averaging.schedule_free import EvaluatedAverage
from largebatch.jobs.preparing.batches import evaluation_batches
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.resume import load_checkpoint
from largebatch.jobs.run.checkpoints import list_checkpoints

SPAN = 8


def once(model: Any, x: Tensor) -> Tensor:
    return model.last(model.dropout(model.norm(model.first(x)).tanh()))


def twice(model: Any, x: Tensor) -> Tensor:
    """The norm runs on the sample and on its mirror, one dropout on each."""
    halves = (model.norm(model.first(turned)).tanh() for turned in (x, x.flip(-1)))
    return model.last(model.dropout(next(halves)) + model.other_dropout(next(halves)))


def convolving(model: Any, x: Tensor) -> Tensor:
    return model.last(model.dropout(model.second_norm(model.second(model.norm(model.first(x)).relu())).amax((2, 3))))


def build(num_classes: int = 4, kind: str = "once", dropout: float = 0.5) -> nn.Module:
    dropouts = {"dropout": nn.Dropout(dropout), **({"other_dropout": nn.Dropout(dropout)} if kind == "twice" else {})}
    if kind == "convolving":
        convolutions = {"first": nn.Conv2d(1, 4, 3), "norm": nn.BatchNorm2d(4), "second": nn.Conv2d(4, 6, 3), "second_norm": nn.BatchNorm2d(6)}
        return Net(convolving, **convolutions, **dropouts, last=nn.Linear(6, num_classes))
    first = nn.Sequential(nn.Flatten(), nn.Linear(36, 8))
    return Net({"once": once, "twice": twice}[kind], first=first, norm=nn.BatchNorm1d(8), **dropouts, last=nn.Linear(8, num_classes))


def with_instance_norm(num_classes: int) -> nn.Module:
    norm = nn.InstanceNorm2d(1, track_running_stats=True)
    return Net(lambda model, x: model.last(model.norm(x).flatten(1)), norm=norm, last=nn.Linear(36, num_classes))


@pytest.fixture(autouse=True)
def own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """This file as a module, as a person's file beside the run would be."""
    monkeypatch.setitem(sys.modules, "own_norms", sys.modules[__name__])


def job_of(kind: str, name: str = "schedule-free-sgd", micro_batch_size: int = 16, **parts: Any) -> Prepared:
    usual = {
        "dataset": synthetic(80, 20, (1, 6, 6)),
        "model": {"entry_point": "own_norms:build", "arguments": {"kind": kind}},
        "optimizer": {"name": name, "weight_decay": 0.01},
        "learning_rate": {"base": 0.1 if name == "schedule-free-sgd" else 0.01},
        "batch": {"global_batch_size": 32, "micro_batch_size": micro_batch_size},
        "batch_norm": {"span": SPAN},
        "stop": {"steps": 6},
    }
    return prepared(**{**usual, **parts})


def exported(run_dir: Path) -> dict[str, Tensor]:
    return evaluated_weights(load_checkpoint(list_checkpoints(run_dir / "checkpoints")[0].path, CPU)["state"])


@pytest.mark.parametrize("name", ["schedule-free-sgd", "schedule-free-adamw"])
@pytest.mark.parametrize("kind", ["once", "twice", "convolving"])
def test_statistics_are_those_that_torch_takes_at_the_average(kind: str, name: str, tmp_path: Path) -> None:
    """torch's own update_bn, of a plain model with the exported weights and no dropout, group by group of the same samples."""
    job = job_of(kind, name)
    summary = trained(job, tmp_path / "run")
    plain = build(kind=kind, dropout=0.0)
    plain.load_state_dict(exported(tmp_path / "run"))
    taken = copy.deepcopy(plain.state_dict())
    assert job.plan.num_norm_samples == 80
    mean, std = job.dataset.channel_moments

    def inputs_of(part: Any) -> Tensor:
        return (part.gather(torch.arange(len(part)))[0] / 255 - mean[0]) / std[0]

    update_bn(inputs_of(mixed_samples(job.dataset.train, 80)).split(SPAN), plain)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(taken[key], value, rtol=2e-5, atol=2e-6)
    trained_with = parameters(tmp_path / "run")
    assert not torch.allclose(trained_with["norm.running_var"], taken["norm.running_var"], rtol=1e-3), "another model's statistics"
    labels = job.dataset.test.gather(torch.arange(20))[1]
    assert float((plain.eval()(inputs_of(job.dataset.test)).argmax(1) == labels).float().mean()) == pytest.approx(summary.score)


@pytest.mark.parametrize("kind", ["once", "twice", "convolving"])
def test_the_micro_batch_does_not_matter(kind: str, tmp_path: Path) -> None:
    for micro_batch_size in (8, 32):
        trained(job_of(kind, micro_batch_size=micro_batch_size), tmp_path / str(micro_batch_size))
    small, large = (exported(tmp_path / str(size)) for size in (8, 32))
    for name, value in small.items():
        torch.testing.assert_close(value, large[name], rtol=1e-4, atol=1e-5)


def test_evaluations_and_checkpoints_leave_training_as_it_was(tmp_path: Path) -> None:
    often = {"evaluation": {"every_epochs": 0.4}, "checkpoint": {"every_steps": 1, "keep": 9, "every_seconds": None}}
    seldom = {"evaluation": {"every_epochs": 99.0}, "checkpoint": {"every_steps": 99, "every_seconds": None}}
    summaries = [trained(job_of("twice", **parts), tmp_path / name) for name, parts in (("often", often), ("seldom", seldom))]
    assert same(parameters(tmp_path / "often"), parameters(tmp_path / "seldom"))
    assert same(exported(tmp_path / "often"), exported(tmp_path / "seldom"))
    assert summaries[0].parameters_sha256 == summaries[1].parameters_sha256
    each = [evaluated_weights(load_checkpoint(one.path, CPU)["state"]) for one in list_checkpoints(tmp_path / "often" / "checkpoints")]
    assert len({float(weights["norm.running_var"].sum()) for weights in each}) >= 6, "each checkpoint has its own"


def test_they_are_taken_once_for_each_update() -> None:
    job = job_of("once")
    state = new_state(job)
    assert isinstance(state.average, EvaluatedAverage)
    passed: list[int] = []
    state.model.register_forward_hook(lambda model, inputs, output: passed.append(len(output)))
    for _ in range(2):
        settle_norms(state, "float32")
    assert sum(passed) == 80
    state.average.update()
    settle_norms(state, "float32")
    assert sum(passed) == 160


def test_memory_that_runs_out_costs_nothing_but_time() -> None:
    """The first norm of a pass has moved when it fails."""

    def taken(most: int) -> dict[str, Tensor]:
        state = new_state(job_of("convolving"))
        told: list[str] = []

        def refuse(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if len(inputs[0]) > most:
                raise torch.OutOfMemoryError("out of memory")

        state.model.get_submodule("second").register_forward_pre_hook(refuse)
        settle_norms(state, "float32", told.append)
        assert bool(told) == (most < 64)
        assert state.average
        saved = state.average.state_dict()
        return dict(zip(saved["names"], saved["averages"], strict=True))

    whole, piecewise = taken(1024), taken(24)
    make_room()
    for name, value in whole.items():
        torch.testing.assert_close(value, piecewise[name], rtol=1e-5, atol=1e-6)


def test_evaluating_again_gives_the_same(tmp_path: Path) -> None:
    """Also of a state that was loaded: its statistics came with it."""
    job = job_of("once")
    summary = trained(job, tmp_path / "run")
    state = new_state(job_of("once"))
    state.load_state_dict(load_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[0].path, CPU)["state"])
    assert isinstance(state.average, EvaluatedAverage)
    assert state.average.has_statistics
    batches = evaluation_batches(job, job.dataset.test)
    scores = [evaluate(state, batches, 20, "float32") for _ in range(2)]
    assert scores[0] == scores[1]
    assert scores[0]["accuracy"] == summary.score


def test_what_has_no_plain_mean_or_two_of_them_is_refused() -> None:
    with pytest.raises(InputError, match=r"optimizer\.name: norm, a InstanceNorm2d, does not count its batches"):
        job_of("once", model={"entry_point": "own_norms:with_instance_norm"})
    with pytest.raises(InputError, match=r"schedule-free-sgd has batch-norm's statistics taken anew .* leave average_last_steps out"):
        job_of("once", batch_norm={"span": SPAN, "average_last_steps": 2})


def test_the_plan_says_it() -> None:
    assert any("at the average that is evaluated anew, of 80 training samples" in how for _, how in job_of("once").plan_in_words())
