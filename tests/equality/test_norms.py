"""Norms in every use: any micro-batches are one forward pass of the whole batch, in which plain torch norms take group after group."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_runs import InOrder, Net, planned, state_of
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from largebatch.jobs.engine.evaluation.evaluate import evaluate
from largebatch.jobs.engine.evaluation.forward import evaluation_share
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.models.modes import train_mode
from largebatch.jobs.models.norms.ghost_batch_norm import has_batch_norm, use_ghost_batch_norm
from largebatch.jobs.optim.parameter_groups import build_optimizer
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.tasks.classification import Classification

NUM_SAMPLES, BATCH, SPAN, WIDTH, CLASSES, RATE = 60, 24, 6, 5, 3, 0.2
SLICES = [(0, 24), (24, 48), (48, 60), (0, 24)]
"""The samples of each step."""
TOLERANCE = 1e-6
"""The model is float64 but its loss float32: some 2^-24, carried on through four steps."""

Norm = Callable[[nn.Module], nn.Module]


class ByGroups(nn.Module):
    """The reference: a plain norm that is called on group after group."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.rows = SPAN

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.norm.training and self.norm.running_mean is not None:
            return self.norm(inputs)
        return torch.cat([self.norm(group) for group in inputs.split(self.rows)])


def as_it_is(norm: nn.Module) -> nn.Module:
    return norm


class Activated(nn.BatchNorm1d):
    """A batch-norm with a forward and an activation of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh()


def model_of(forward: Callable[..., Tensor], norm: nn.Module, **parts: nn.Module) -> Net:
    """One norm between two layers, and what `forward` makes of them."""
    usual = {"first": nn.Linear(8, WIDTH), "last": nn.Linear(WIDTH, CLASSES)}
    return Net(forward, norm=norm, **{**usual, **parts})


def once(model: Any, x: Tensor) -> Tensor:
    return model.last(model.norm(model.first(x)).tanh())


def steps(norm: Norm) -> nn.Module:
    """Batch-norm over four steps of every sample."""
    made: Any = norm(nn.BatchNorm1d(WIDTH))
    made.rows = 4 * SPAN  # as the reference takes them
    forward = lambda m, x: m.last(m.norm(m.first(x.reshape(-1, 2))).tanh().reshape(len(x), -1))  # noqa: E731
    return model_of(forward, made, first=nn.Linear(2, WIDTH), last=nn.Linear(4 * WIDTH, CLASSES))


def two_names(norm: nn.Module) -> nn.Module:
    """One norm under two names, so called twice."""
    forward = lambda m, x: m.last(m.again(m.between(m.norm(m.first(x)).tanh())).tanh())  # noqa: E731
    return model_of(forward, norm, between=nn.Linear(WIDTH, WIDTH), again=norm)


def siamese(model: Any, x: Tensor) -> Tensor:
    """One encoder called on the sample and on its mirror; in training on it three times as large, too."""
    views = [x, x.flip(1), 3 * x] if model.training else [x]
    return model.last(torch.stack([model.norm(model.first(view)).tanh() for view in views]).sum(0))


def checkpointed(norm: nn.Module, reentrant: bool) -> nn.Module:
    """Its first part runs again in the backward pass, but in the reference."""

    def forward(model: Any, x: Tensor) -> Tensor:
        part = lambda x: model.norm(model.first(x)).tanh()  # noqa: E731
        return model.last(part(x) if isinstance(norm, ByGroups) else checkpoint(part, x.requires_grad_(), use_reentrant=reentrant))

    return model_of(forward, norm)


def instances(norm: Norm) -> nn.Module:
    """Instance-norm that keeps running statistics."""
    made = norm(nn.InstanceNorm1d(2, affine=True, track_running_stats=True))
    forward = lambda m, x: m.last(m.norm(m.first(x.reshape(-1, 2, 4))).tanh().flatten(1))  # noqa: E731
    return model_of(forward, made, first=nn.Linear(4, WIDTH), last=nn.Linear(2 * WIDTH, CLASSES))


class Frozen(Net):
    """Its batch-norm stays in evaluation mode, as for fine-tuning."""

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        return self


def frozen(norm: nn.Module) -> nn.Module:
    return Frozen(once, first=nn.Linear(8, WIDTH), norm=norm, last=nn.Linear(WIDTH, CLASSES))


def frozen_when_built(norm: nn.Module) -> nn.Module:
    norm.eval()
    return two_names(norm)


MODELS: dict[str, Callable[[Norm], nn.Module]] = {
    "once": lambda norm: model_of(once, norm(nn.BatchNorm1d(WIDTH))),
    "steps": steps,
    "two names": lambda norm: two_names(norm(nn.BatchNorm1d(WIDTH))),
    "two names, plain average": lambda norm: two_names(norm(nn.BatchNorm1d(WIDTH, momentum=None))),
    "siamese": lambda norm: model_of(siamese, norm(nn.BatchNorm1d(WIDTH, momentum=0.4))),
    "activated, twice": lambda norm: two_names(norm(Activated(WIDTH))),
    "checkpointed": lambda norm: checkpointed(norm(nn.BatchNorm1d(WIDTH)), reentrant=False),
    "checkpointed, reentrant": lambda norm: checkpointed(norm(nn.BatchNorm1d(WIDTH)), reentrant=True),
    "instances": instances,
    "frozen": lambda norm: frozen(norm(nn.BatchNorm1d(WIDTH))),
    "frozen when built": lambda norm: frozen_when_built(norm(nn.BatchNorm1d(WIDTH))),
    "no running statistics": lambda norm: model_of(once, norm(nn.BatchNorm1d(WIDTH, track_running_stats=False))),
}


def samples_in_order() -> InOrder:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(CLASSES, (NUM_SAMPLES,), generator=generator)
    return InOrder((torch.randn(NUM_SAMPLES, 8, generator=generator) + labels[:, None]).double(), labels)


def built(case: str, norm: Norm) -> nn.Module:
    torch.manual_seed(1)
    model = MODELS[case](norm).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d) and module.running_mean is not None:
            module.running_mean.fill_(0.25)
    return model


def reference(case: str) -> dict[str, Tensor]:
    """The training written out with torch alone."""
    model, stored = built(case, ByGroups), samples_in_order()
    if case != "frozen when built":
        model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for start, stop in SLICES:
        optimizer.zero_grad()
        inputs, labels = stored.read(Slice(0, start, stop))
        functional.cross_entropy(model(inputs).float(), labels).backward()
        optimizer.step()
    return {name.replace("norm.norm", "norm").replace("again.norm", "again"): value for name, value in model.state_dict().items()}


def trained(case: str, micro_batch_size: int, **parts: Any) -> TrainState:
    model = train_mode(built(case, as_it_is))
    own = {"batch": {"global_batch_size": BATCH, "micro_batch_size": micro_batch_size}, "optimizer": {"name": "sgd", "momentum": 0.0}}
    whole = {"batch_norm": {"span": SPAN}, "learning_rate": {"base": RATE}, "stop": {"steps": len(SLICES)}, "gradient": {"noise_every_steps": 0}}
    plan = planned(NUM_SAMPLES, has_batch_norm(model), **{**own, **whole, **parts})
    use_ghost_batch_norm(model, plan.span)
    state = state_of(model, build_optimizer(model, plan.spec.optimizer), plan.micro_batch_size, task=Classification(4))
    for _ in SLICES:
        optimizer_step(state, plan, plan.step_at(state.progress.position), samples_in_order(), pytest.fail)
    return state


@pytest.mark.parametrize("case", MODELS)
def test_micro_batches_are_one_pass_of_plain_torch(case: str) -> None:
    expected = reference(case)
    for micro_batch_size in (SPAN, 2 * SPAN, BATCH):
        values = trained(case, micro_batch_size).model.state_dict()
        assert values.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(values[name], value, rtol=TOLERANCE, atol=TOLERANCE, msg=lambda text, at=name: f"{at}: {text}")


def test_the_runs_of_a_norm_differ() -> None:
    """The tolerance would see two runs in another order, a run counted twice, and one left out."""
    values = reference("two names")
    statistics = values["norm.running_mean"]
    assert int(values["norm.num_batches_tracked"]) == 2 * sum(-(-(stop - start) // SPAN) for start, stop in SLICES)
    assert float((statistics - reference("once")["norm.running_mean"]).abs().max()) > 1e-2


@pytest.mark.parametrize("case", ["frozen", "frozen when built"])
def test_frozen_statistics_stay_through_evaluation_too(case: str) -> None:
    state = trained(case, BATCH)
    assert state.model.norm.running_mean.tolist() == [0.25] * WIDTH
    evaluate(state, samples_in_order(), NUM_SAMPLES, "float32")
    assert [name for name, module in state.model.named_modules() if not module.training] == ["norm"]
    assert not has_batch_norm(state.model), "so batch_norm.span is not read"


@pytest.mark.parametrize("num_samples", [60, 55, 49, 7, 5])
def test_without_running_statistics_evaluation_takes_groups_in_the_files_order(num_samples: int) -> None:
    """Whatever is evaluated at once; a single sample that is left joins the group before it."""
    state, stored = trained("no running statistics", BATCH), samples_in_order()
    plain = built("no running statistics", as_it_is).eval()
    plain.load_state_dict(state.model.state_dict())
    starts = [start for start in range(0, num_samples, SPAN) if num_samples - start > 1]
    with torch.no_grad():
        logits = torch.cat([plain(stored.inputs[start:stop]) for start, stop in zip(starts, [*starts[1:], num_samples], strict=True)])
    labels = stored.labels[:num_samples]
    for at_once in (1024, 25, SPAN, 1):
        state.evaluation_batch_size = at_once
        scores = evaluate(state, stored, num_samples, "float32")
        assert scores["loss"] == pytest.approx(float(functional.cross_entropy(logits.float(), labels)), rel=1e-6)
        assert scores["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))


class OneOfSeveral(Ranks):
    """A rank of several, without the others."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__(torch.device("cpu"))
        self.rank, self.world_size = rank, world_size


@pytest.mark.parametrize("num_samples", [60, 55, 49, 7, 5])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_evaluate_whole_groups_each_sample_once(num_samples: int, world_size: int) -> None:
    shares = [evaluation_share(num_samples, OneOfSeveral(rank, world_size), SPAN) for rank in range(world_size)]
    assert [index for share in shares for index in range(share.start, share.stop)] == list(range(num_samples))
    assert all(share.start % SPAN == 0 and share.size != 1 for share in shares)
