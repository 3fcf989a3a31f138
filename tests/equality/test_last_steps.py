"""Batch-norm statistics without moving averages: against every group's mean and variance in float64, for any micro-batch, and refusals by name.

Workers and resumes are in test_ranks.py and test_resume.py.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import InOrder, Net, document, parameters, planned, prepared, state_of, synthetic, trained
from torch import Tensor, nn

from largebatch.jobs.engine.evaluation.evaluate import evaluate
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.errors import InputError
from largebatch.jobs.models.norms.ghost_batch_norm import use_ghost_batch_norm
from largebatch.jobs.models.norms.last_steps import LastSteps, average_plainly
from largebatch.jobs.optim.parameter_groups import build_optimizer
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.tasks.classification import Classification

SPAN, BATCH, NUM_SAMPLES = 4, 12, 30
SLICES = [(0, 12), (12, 24), (24, 30)] * 2
"""The last step of an epoch has a whole group, and one of two samples."""
NEAR = 1e-12
"""Sums of some dozens of float64 numbers near 1, through six steps."""


class Recorded(nn.Module):
    """Batch-norm by groups, written out, that remembers each group's mean and unbiased variance."""

    def __init__(self, norm: nn.BatchNorm1d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, rows: Tensor) -> Tensor:
        groups = rows.split(SPAN)
        self.seen += [(group.detach().mean(0), group.detach().var(0)) for group in groups]
        made = [(group - group.mean(0)) / (group.var(0, unbiased=False) + self.eps).sqrt() for group in groups]
        return torch.cat(made) * self.weight + self.bias


def once(model: Any, x: Tensor) -> Tensor:
    return model.last(model.norm(model.first(x)).tanh())


def twice(model: Any, x: Tensor) -> Tensor:
    """The norm runs on the sample and on its mirror."""
    return model.last(model.norm(model.first(x)).tanh() + model.norm(model.first(x.flip(1))).tanh())


FORWARDS = {"once": once, "twice": twice}


def built(case: str) -> nn.Module:
    torch.manual_seed(1)
    return Net(FORWARDS[case], first=nn.Linear(6, 5), norm=nn.BatchNorm1d(5), last=nn.Linear(5, 4)).double()


def samples() -> InOrder:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(NUM_SAMPLES, 6, generator=generator, dtype=torch.float64)
    return InOrder(inputs, torch.arange(NUM_SAMPLES) % 4)


def run(case: str, num_steps: int, micro_batch_size: int) -> tuple[TrainState, list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """(the state, the model as each step began, the model as each step ended)."""
    model = built(case).train()
    plan = planned(
        NUM_SAMPLES,
        has_batch_norm=True,
        batch={"global_batch_size": BATCH, "micro_batch_size": micro_batch_size},
        batch_norm={"span": SPAN, "average_last_steps": num_steps},
        learning_rate={"base": 0.3},
        stop={"steps": len(SLICES)},
    )
    use_ghost_batch_norm(model, plan.span)
    average_plainly(model)
    optimizer = build_optimizer(model, plan.spec.optimizer)
    state = state_of(model, optimizer, micro_batch_size, task=Classification(4), last_steps=LastSteps(model, num_steps))
    befores, afters = [], []
    for _ in SLICES:
        befores.append(copy.deepcopy(model.state_dict()))
        optimizer_step(state, plan, plan.step_at(state.progress.position), samples(), pytest.fail)
        afters.append(copy.deepcopy(model.state_dict()))
    return state, befores, afters


def groups_of(case: str, before: dict[str, Tensor], start: int, stop: int) -> list[tuple[Tensor, Tensor]]:
    """The statistics of every group of a step, by the weights that it was done with."""
    model = built(case)
    model.load_state_dict(before)
    model.norm = norm = Recorded(model.norm)
    with torch.no_grad():
        model(samples().read(Slice(0, start, stop))[0])
    return norm.seen


@pytest.mark.parametrize("micro_batch_size", [SPAN, 2 * SPAN, BATCH])
@pytest.mark.parametrize("num_steps", [1, 2, 4])
@pytest.mark.parametrize("case", FORWARDS)
def test_statistics_are_the_plain_mean_over_the_groups_of_the_last_steps(case: str, num_steps: int, micro_batch_size: int) -> None:
    _, befores, afters = run(case, num_steps, micro_batch_size)
    of_steps = [groups_of(case, before, *where) for before, where in zip(befores, SLICES, strict=True)]
    for number, after in enumerate(afters):
        groups = [group for step in of_steps[max(number + 1 - num_steps, 0) : number + 1] for group in step]
        means, variances = (torch.stack(values) for values in zip(*groups, strict=True))
        torch.testing.assert_close(after["norm.running_mean"], means.mean(0), rtol=NEAR, atol=NEAR)
        torch.testing.assert_close(after["norm.running_var"], variances.mean(0), rtol=NEAR, atol=NEAR)
        assert int(after["norm.num_batches_tracked"]) == len(groups)


def test_the_tolerance_tells_one_step_from_two() -> None:
    one, two = (run("once", num_steps, BATCH)[2][-1]["norm.running_mean"] for num_steps in (1, 2))
    assert float((one - two).abs().max()) > 1e-3


def test_evaluation_normalises_by_them_and_moves_none() -> None:
    state, befores, afters = run("once", 1, BATCH)
    groups = groups_of("once", befores[-1], *SLICES[-1])
    means, variances = (torch.stack(values).mean(0) for values in zip(*groups, strict=True))
    model, stored = state.model, samples()
    hidden = (model.first(stored.inputs) - means) / (variances + 1e-5).sqrt() * model.norm.weight + model.norm.bias
    expected = nn.functional.cross_entropy(model.last(hidden.tanh()), stored.labels).item()
    assert evaluate(state, stored, NUM_SAMPLES, "float32")["loss"] == pytest.approx(expected, rel=1e-6)
    assert torch.equal(model.state_dict()["norm.running_mean"], afters[-1]["norm.running_mean"])


def test_a_run_keeps_them_in_its_checkpoints_and_its_plan_says_so(tmp_path: Path) -> None:
    parts = {"model": {"name": "mlp", "arguments": {"width": 8, "batch_norm": True}}, "dataset": synthetic(64, 16)}
    job = prepared(**parts, batch_norm={"span": 4, "average_last_steps": 2}, stop={"steps": 3})
    assert dict(job.plan_in_words())["batch-norm"].endswith("evaluated with their plain mean over the last 2 steps")
    trained(job, tmp_path / "run")
    counts = [value for name, value in parameters(tmp_path / "run").items() if name.endswith("num_batches_tracked")]
    assert counts
    assert all(int(count) == 2 * 4 for count in counts)


def instance_norm() -> nn.Module:
    norm = nn.InstanceNorm1d(5, track_running_stats=True)
    return Net(lambda model, x: model.norm(x), norm=norm)


def uncounted() -> nn.Module:
    norm = nn.BatchNorm1d(5)
    norm.num_batches_tracked = None
    return Net(lambda model, x: model.norm(x), norm=norm)


@pytest.mark.parametrize(("make", "kind"), [(instance_norm, "InstanceNorm1d"), (uncounted, "BatchNorm1d")])
def test_norms_that_do_not_count_their_batches_are_refused_by_name(make: Any, kind: str) -> None:
    with pytest.raises(InputError, match=f"norm, a {kind}, does not count its batches") as refused:
        average_plainly(use_ghost_batch_norm(make(), SPAN))
    assert refused.value.field == "batch_norm.average_last_steps"


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [({"ema": {"decay": 0.9}}, "ema makes a moving average"), ({"reduction": {"local_steps": 2}}, "with reduction.local_steps above 1")],
)
def test_what_would_average_otherwise_is_refused(parts: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        build_spec(document(batch_norm={"average_last_steps": 1}, **parts))


def test_a_model_without_batch_norm_does_not_read_it() -> None:
    job = prepared(batch_norm={"average_last_steps": 1})
    assert dict(job.plan_in_words())["batch-norm"] == "none in this model: batch_norm.average_last_steps is not read"
