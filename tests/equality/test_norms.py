"""Norms in every use: any micro-batches are one forward pass of the whole batch, in which plain torch norms take group after group."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_runs import InOrder, planned
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from largebatch.jobs.engine.evaluate import evaluate, evaluation_share
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.models.modes import train_mode
from largebatch.jobs.models.norms.ghost_batch_norm import has_batch_norm, use_ghost_batch_norm
from largebatch.jobs.optim.parameter_groups import build_optimizer
from largebatch.jobs.plan.step_plan import Slice

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


class Chain(nn.Module):
    """One norm, once."""

    def __init__(self, norm: Norm, kind: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, WIDTH), norm(kind), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).tanh())


class Steps(Chain):
    """Batch-norm over four steps of every sample."""

    def __init__(self, norm: Norm) -> None:
        super().__init__(norm, nn.BatchNorm1d(WIDTH))
        self.first, self.last = nn.Linear(2, WIDTH), nn.Linear(4 * WIDTH, CLASSES)
        if isinstance(self.norm, ByGroups):
            self.norm.rows = 4 * SPAN

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x.reshape(-1, 2))).tanh().reshape(len(x), -1))


class TwoNames(Chain):
    """One norm under two names, so called twice."""

    def __init__(self, norm: Norm, kind: nn.Module) -> None:
        super().__init__(norm, kind)
        self.between, self.again = nn.Linear(WIDTH, WIDTH), self.norm

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.again(self.between(self.norm(self.first(x)).tanh())).tanh())


class Siamese(Chain):
    """One encoder called on the sample and on its mirror; in training on it three times as large, too."""

    def forward(self, x: Tensor) -> Tensor:
        views = [x, x.flip(1), 3 * x] if self.training else [x]
        return self.last(torch.stack([self.norm(self.first(view)).tanh() for view in views]).sum(0))


class Checkpointed(Chain):
    """Its first part runs again in the backward pass."""

    def __init__(self, norm: Norm, reentrant: bool) -> None:
        super().__init__(norm, nn.BatchNorm1d(WIDTH))
        self.reentrant = reentrant

    def part(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x)).tanh()

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.norm, ByGroups):
            return self.last(self.part(x))
        return self.last(checkpoint(self.part, x.requires_grad_(), use_reentrant=self.reentrant))


class Instances(Chain):
    """Instance-norm that keeps running statistics."""

    def __init__(self, norm: Norm) -> None:
        super().__init__(norm, nn.InstanceNorm1d(2, affine=True, track_running_stats=True))
        self.first, self.last = nn.Linear(4, WIDTH), nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x.reshape(-1, 2, 4))).tanh().flatten(1))


class Frozen(Chain):
    """Its batch-norms stay in evaluation mode, as for fine-tuning."""

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        return self


def frozen_when_built(norm: Norm) -> nn.Module:
    model = TwoNames(norm, nn.BatchNorm1d(WIDTH))
    model.norm.eval()
    return model


MODELS: dict[str, Callable[[Norm], nn.Module]] = {
    "once": lambda norm: Chain(norm, nn.BatchNorm1d(WIDTH)),
    "steps": Steps,
    "two names": lambda norm: TwoNames(norm, nn.BatchNorm1d(WIDTH)),
    "two names, plain average": lambda norm: TwoNames(norm, nn.BatchNorm1d(WIDTH, momentum=None)),
    "siamese": lambda norm: Siamese(norm, nn.BatchNorm1d(WIDTH, momentum=0.4)),
    "activated, twice": lambda norm: TwoNames(norm, Activated(WIDTH)),
    "checkpointed": lambda norm: Checkpointed(norm, reentrant=False),
    "checkpointed, reentrant": lambda norm: Checkpointed(norm, reentrant=True),
    "instances": Instances,
    "frozen": lambda norm: Frozen(norm, nn.BatchNorm1d(WIDTH)),
    "frozen when built": frozen_when_built,
    "no running statistics": lambda norm: Chain(norm, nn.BatchNorm1d(WIDTH, track_running_stats=False)),
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
    state = TrainState(model, build_optimizer(model, plan.spec.optimizer), plan.micro_batch_size)
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
    evaluate(state, samples_in_order(), NUM_SAMPLES, bfloat16=False)
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
        score = evaluate(state, stored, num_samples, bfloat16=False)
        assert score.loss == pytest.approx(float(functional.cross_entropy(logits.float(), labels)), rel=1e-6)
        assert score.accuracy == pytest.approx(float((logits.argmax(1) == labels).double().mean()))


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
