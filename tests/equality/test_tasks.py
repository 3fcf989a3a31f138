"""For every task k micro-batches, even or uneven, are one batch: the gradient of the mean over the whole batch.

The references are written out in float64 with torch alone, one whole batch at a time.
"""

import math
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_runs import state_of
from torch import Tensor, nn
from torch.nn import functional

from largebatch.jobs.engine.gradient.accumulate import Measured, accumulate
from largebatch.jobs.errors import DataError
from largebatch.jobs.models.norms.ghost_batch_norm import use_ghost_batch_norm
from largebatch.jobs.models.sample_dropout import use_sample_dropout
from largebatch.jobs.models.transformer import decoder
from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import Tree, map_leaves, rows
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.tasks.base import Task
from largebatch.jobs.tasks.classification import Classification, MultiLabel
from largebatch.jobs.tasks.contrastive import Contrastive
from largebatch.jobs.tasks.language_modelling import LanguageModelling
from largebatch.jobs.tasks.masked_language_modelling import MaskedLanguageModelling
from largebatch.jobs.tasks.regression import Regression

BATCH = 24
MICRO_BATCHES = [1, 5, 7, 12, 23, 24]
TOLERANCE = 2e-5
"""Of the largest number of a gradient: some hundred times float32's rounding, for sums of a few hundred terms in any order."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Stored:
    """A batch in a fixed order, so that nothing of the code under test decides what is compared."""

    def __init__(self, batch: Tree) -> None:
        self.batch = batch

    def read(self, samples: Slice) -> Tree:
        return map_leaves(Tensor.clone, rows(self.batch, samples.start, samples.stop))


def gradient(task: Task, model: nn.Module, batch: Tree, micro_batch_size: int, **parts: Any) -> tuple[Measured, list[Tensor]]:
    document = {
        "dataset": {"name": "digits"},
        "model": {"name": "mlp"},
        "batch": {"global_batch_size": len(batch[0]), "micro_batch_size": micro_batch_size},
        "optimizer": {"name": "sgd"},
        "learning_rate": {"base": 0.1},
        "stop": {"steps": 1},
        "gradient": {"noise_every_steps": 0},
        **parts,
    }
    plan = make_plan(build_spec(document), Facts(len(batch[0]), False, micro_batch_size))
    state = state_of(model, torch.optim.SGD(model.parameters()), micro_batch_size, task=task)
    measured = accumulate(state, plan.spec, plan.step_at(Position(0, 0)), Stored(batch))
    assert measured is not None
    return measured, [param.grad.clone() for param in model.parameters() if param.grad is not None]


def reference(make_model: Callable[[], nn.Module], loss: Callable[[nn.Module], Tensor]) -> tuple[float, list[Tensor]]:
    model = make_model().double()
    mean = loss(model)
    return float(mean.detach()), list(torch.autograd.grad(mean, list(model.parameters())))


def assert_same(found: tuple[Measured, list[Tensor]], expected: tuple[float, list[Tensor]]) -> None:
    assert found[0].loss == pytest.approx(expected[0], rel=TOLERANCE)
    for own, exact in zip(found[1], expected[1], strict=True):
        assert float((own - exact).abs().max()) <= TOLERANCE * max(float(exact.abs().max()), 1e-2)
    assert found[0].squared_norm == pytest.approx(sum(float(exact.square().sum()) for exact in expected[1]), rel=1e-4)


def perceptron(num_outputs: int = 5) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, num_outputs))


inputs = torch.randn(BATCH, 8, generator=generator())
labels = torch.randint(5, (BATCH,), generator=generator(1))
weights = torch.rand(BATCH, generator=generator(2)) * 3
targets = torch.randn(BATCH, 5, generator=generator(3))
several = (torch.rand(BATCH, 5, generator=generator(4)) < 0.3).float()
class_weights = torch.tensor([1.0, 4.0, 0.5, 2.0, 0.1], dtype=torch.float64)


def weighted_cross_entropy(model: nn.Module) -> Tensor:
    """torch's own, which divides by the weights of the labels."""
    return functional.cross_entropy(model(inputs.double()), labels, weight=class_weights)


def sample_weighted(model: nn.Module) -> Tensor:
    losses = functional.cross_entropy(model(inputs.double()), labels, reduction="none")
    return (losses * weights.double()).sum() / weights.double().sum()


def several_labels(model: nn.Module) -> Tensor:
    return functional.binary_cross_entropy_with_logits(model(inputs.double()), several.double(), reduction="none").sum(1).mean()


def huber(model: nn.Module) -> Tensor:
    errors = (model(inputs.double()) - targets.double()).abs()
    return torch.where(errors <= 0.7, errors.square() / 2, 0.7 * (errors - 0.35)).mean()


CASES: dict[str, tuple[Task, Tree, Callable[[nn.Module], Tensor]]] = {
    "class weights": (Classification(5, class_weights=class_weights.tolist()), (inputs, labels), weighted_cross_entropy),
    "sample weights": (Classification(5, has_sample_weights=True), (inputs, labels, weights), sample_weighted),
    "soft labels": (
        Classification(5),
        (inputs, targets.softmax(1)),
        lambda model: -(targets.double().softmax(1) * model(inputs.double()).log_softmax(1)).sum(1).mean(),
    ),
    "several labels": (MultiLabel(), (inputs, several), several_labels),
    "mse": (Regression(), (inputs, targets), lambda model: (model(inputs.double()) - targets.double()).square().mean()),
    "huber": (Regression("huber", delta=0.7), (inputs, targets), huber),
}


@pytest.mark.parametrize("micro_batch_size", MICRO_BATCHES)
@pytest.mark.parametrize("case", CASES)
def test_every_split_gives_the_gradient_of_the_whole_batch(case: str, micro_batch_size: int) -> None:
    task, batch, loss = CASES[case]
    assert_same(gradient(task, perceptron(), batch, micro_batch_size), reference(perceptron, loss))


def test_samples_that_are_weighed_are_not_all_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """128 MiB of images in micro-batches of 1 MiB: their weights are known first, and what is read once more for it is the same."""
    images = torch.randn(1, 3, 64, 64, generator=generator(11))
    classes = torch.arange(2688) % 5
    alive, most = 0, 0

    class Fresh:
        def __init__(self, batch: Tree) -> None:
            pass

        def read(self, samples: Slice) -> Tree:
            nonlocal alive, most
            read = images * torch.arange(samples.start + 1, samples.stop + 1)[:, None, None, None] / 2688
            alive += read.nbytes
            most = max(most, alive)
            weakref.finalize(read, freed, read.nbytes)
            return read, classes[samples.start : samples.stop]

    def freed(num_bytes: int) -> None:
        nonlocal alive
        alive -= num_bytes

    def model() -> nn.Module:
        torch.manual_seed(4)
        return nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(48, 5))

    monkeypatch.setattr(sys.modules[__name__], "Stored", Fresh)
    found = gradient(Classification(5, class_weights=[1.0] * 5), model(), (classes,), 21)
    assert most <= 70 * 2**20
    plain = gradient(Classification(5), model(), (classes,), 21)
    assert found[0].loss == pytest.approx(plain[0].loss, rel=TOLERANCE)
    for own, other in zip(found[1], plain[1], strict=True):
        assert float((own - other).abs().max()) <= TOLERANCE * float(other.abs().max())


class TestTokens:
    """Padding and prompts: sequences whose tokens count are very different in number, one of them with none at all."""

    tokens = torch.randint(0, 20, (BATCH, 12), generator=generator(5))
    targets = torch.randint(0, 20, (BATCH, 12), generator=generator(6))
    lengths = torch.tensor([12, 1, 1, 0, 12, 3, 2, 1, 7, 12, 1, 1, 1, 1, 1, 1, 12, 12, 1, 2, 3, 4, 5, 6])
    targets[torch.arange(12) >= lengths[:, None]] = -100

    @staticmethod
    def model() -> nn.Module:
        torch.manual_seed(2)
        return decoder(vocabulary_size=20, sequence_length=12, width=16, depth=1, num_heads=2)

    @pytest.mark.parametrize("micro_batch_size", MICRO_BATCHES)
    def test_each_token_weighs_the_same(self, micro_batch_size: int) -> None:
        def loss(model: nn.Module) -> Tensor:
            logits = model(self.tokens)
            counted = self.targets != -100
            picked = logits.log_softmax(-1).gather(-1, self.targets.clamp(min=0)[..., None])[..., 0]
            return -picked[counted].sum() / counted.sum()

        assert_same(gradient(LanguageModelling(), self.model(), (self.tokens, self.targets), micro_batch_size), reference(self.model, loss))

    @pytest.mark.parametrize("micro_batch_size", [1, 7, 24])
    def test_masked_tokens(self, micro_batch_size: int) -> None:
        task = MaskedLanguageModelling(vocabulary_size=19, mask_token=19, masked_fraction=0.4)
        tokens = self.tokens.clamp(max=18)
        shown, hidden = task.prepared((tokens, tokens), 0, Slice(0, 0, BATCH), torch.device("cpu"))

        def loss(model: nn.Module) -> Tensor:
            return functional.cross_entropy(model(shown).reshape(-1, 20), hidden.reshape(-1), ignore_index=-100)

        assert_same(gradient(task, self.model(), (tokens, tokens), micro_batch_size), reference(self.model, loss))

    def test_a_batch_without_any_weight_is_no_divergence(self) -> None:
        nothing = torch.full_like(self.targets, -100)
        with pytest.raises(DataError, match="the 24 samples of step 1 weigh 0 together"):
            gradient(LanguageModelling(), self.model(), (self.tokens, nothing), 7)


class Towers(nn.Module):
    """Two towers with a temperature of their own to learn, and a bias."""

    def __init__(self, normalises: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(3)
        norm: list[nn.Module] = [nn.BatchNorm1d(16)] if normalises else []
        self.first = nn.Sequential(nn.Linear(8, 16), *norm, nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 6))
        self.second = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 6))
        self.log_scale = nn.Parameter(torch.tensor(math.log(8.0)))
        self.bias = nn.Parameter(torch.tensor(-2.0))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.first(first), self.second(second), self.log_scale, self.bias


def contrastive_loss(kind: str, model: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    """The mean over the whole batch, in one piece."""
    first, second, log_scale, bias = model(first, second)
    first, second = functional.normalize(first, dim=1), functional.normalize(second, dim=1)
    number, scale = len(first), log_scale.exp()
    if kind == "siglip":
        signs = 2 * torch.eye(number, dtype=first.dtype) - 1
        return functional.softplus(-signs * (first @ second.T * scale + bias)).sum() / number
    if kind == "clip":
        similarities = first @ second.T * scale + bias
        own = torch.arange(number)
        return (functional.cross_entropy(similarities, own) + functional.cross_entropy(similarities.T, own)) / 2
    both = torch.cat([first, second])
    similarities = (both @ both.T * scale + bias).masked_fill(torch.eye(2 * number, dtype=torch.bool), -torch.inf)
    return functional.cross_entropy(similarities, torch.arange(2 * number).roll(number))


class TestContrastive:
    first = torch.randn(BATCH, 8, generator=generator(7))
    second = torch.randn(BATCH, 4, generator=generator(8))

    @pytest.mark.parametrize("micro_batch_size", MICRO_BATCHES)
    @pytest.mark.parametrize("kind", ["clip", "simclr", "siglip"])
    def test_the_whole_batch_is_compared(self, kind: str, micro_batch_size: int) -> None:
        expected = reference(Towers, lambda model: contrastive_loss(kind, model, self.first.double(), self.second.double()))
        assert_same(gradient(Contrastive(kind), Towers(), (self.first, self.second), micro_batch_size), expected)

    def test_a_large_batch_in_small_pieces(self) -> None:
        """1,024 samples in micro-batches of 16, several blocks of the matrix of similarities."""
        first, second = torch.randn(1024, 8, generator=generator(9)), torch.randn(1024, 4, generator=generator(10))
        expected = reference(Towers, lambda model: contrastive_loss("clip", model, first.double(), second.double()))
        assert_same(gradient(Contrastive(), Towers(), (first, second), 16), expected)

    def test_dropout_of_the_second_pass_is_the_firsts(self) -> None:
        """Otherwise the loss's gradient would be with respect to embeddings that the second pass does not have."""
        found = [gradient(Contrastive(), use_sample_dropout(Towers(dropout=0.5)), (self.first, self.second), size) for size in (7, 24)]
        assert found[0][0].loss == pytest.approx(found[1][0].loss, rel=TOLERANCE)
        for own, other in zip(found[0][1], found[1][1], strict=True):
            assert float((own - other).abs().max()) <= TOLERANCE * max(float(other.abs().max()), 1e-2)

    @pytest.mark.parametrize(("micro_batch_size", "num_passes"), [(24, 1), (12, 3), (7, 7)])
    def test_the_first_micro_batch_is_passed_once(self, micro_batch_size: int, num_passes: int) -> None:
        model, passes = Towers(), []
        model.register_forward_hook(lambda *_: passes.append(1))
        gradient(Contrastive(), model, (self.first, self.second), micro_batch_size)
        assert len(passes) == num_passes

    @pytest.mark.parametrize("micro_batch_size", [12, BATCH])
    def test_running_statistics_move_once_for_each_group(self, micro_batch_size: int) -> None:
        model = use_ghost_batch_norm(Towers(normalises=True), micro_batch_size)
        before = model.state_dict()["first.1.running_mean"].clone()
        state = state_of(model, torch.optim.SGD(model.parameters()), micro_batch_size, task=Contrastive())
        document = {
            "dataset": {"name": "digits"},
            "model": {"name": "mlp"},
            "batch": {"global_batch_size": BATCH},
            "optimizer": {"name": "sgd"},
            "learning_rate": {"base": 0.1},
            "stop": {"steps": 1},
            "gradient": {"noise_every_steps": 0},
        }
        plan = make_plan(build_spec({**document, "batch_norm": {"span": micro_batch_size}}), Facts(BATCH, True, micro_batch_size))
        accumulate(state, plan.spec, plan.step_at(Position(0, 0)), Stored((self.first, self.second)))
        state.buffers.settle(is_local=False)
        hidden = nn.functional.linear(self.first, model.first[0].weight, model.first[0].bias).detach()
        expected = before
        for group in hidden.split(micro_batch_size):
            expected = 0.9 * expected + 0.1 * group.mean(0)
        assert torch.allclose(model.state_dict()["first.1.running_mean"], expected, atol=1e-6)
        assert int(model.state_dict()["first.1.num_batches_tracked"]) == BATCH // micro_batch_size
