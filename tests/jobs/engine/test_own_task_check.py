"""What a person's own task prepares, weighs and measures belongs to its samples, or is refused before training.

Each of these trained without a word: with micro-batches of 16 for 64 a weight that is a mean made a loss of 4.4 of one of 106, a mixed batch
weights that were 3 % apart, and an F1 score of each piece was the mean of the pieces' scores.
"""

from typing import Any

import pytest
import small_runs
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import largebatch
from largebatch.jobs.errors import PlanError


class Counting(largebatch.Task):
    """Counts right answers."""

    headline = largebatch.Metric("accuracy", "higher", is_fraction=True)

    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    def metric_sums(self, model: Any, batch: Any) -> dict[str, Tensor]:
        return {"accuracy": (model(batch[0]).argmax(1) == batch[1]).sum()}


class Preparing(Counting):
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def prepare(self, batch: Any, draws: Any) -> Any:
        inputs, labels = batch
        kinds = {
            "mixed": lambda: 0.7 * inputs + 0.3 * inputs[torch.randperm(len(inputs))],
            "noisy": lambda: inputs + 1e-3 * torch.randn_like(inputs),
            "centred": lambda: inputs - inputs.mean(0),
            "centred in evaluation": lambda: inputs - inputs.mean(0) if draws.in_evaluation else inputs,
            "rolled": lambda: torch.lerp(inputs, inputs.roll(1, 0), draws.uniform("share")[:, None]),
            "drawn": lambda: inputs + draws.normal("noise", *inputs.shape[1:]),
            "turned": lambda: inputs @ torch.full((8, 8), 0.1),
        }
        return kinds[self.kind](), labels


class Weighing(Counting):
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def weight(self, batch: Any) -> Tensor:
        counts = (batch[1] > 0).float()
        return counts.mean() if self.kind == "mean" else counts.sum()

    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        return (functional.cross_entropy(model(batch[0]), batch[1], reduction="none") * (batch[1] > 0)).sum()


class Scoring(Counting):
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def metric_sums(self, model: Any, batch: Any) -> dict[str, Tensor]:
        is_right = model(batch[0]).argmax(1) == batch[1]
        if self.kind == "mean":
            return {"accuracy": is_right.float().mean(), "pieces": torch.ones(())}
        if self.kind == "f1":
            hits = torch.stack([(is_right & (batch[1] == label)).sum() / (batch[1] == label).sum().clamp(min=1) for label in range(3)])
            return {"accuracy": hits.mean() * len(is_right)}
        if self.kind == "largest":
            return {"accuracy": is_right.sum(), "largest": model(batch[0]).max()}
        if self.kind == "residual":
            return {"accuracy": is_right.sum(), "residual": (model(batch[0]) - model(batch[0]).mean(1, keepdim=True)).sum()}
        return {"accuracy": is_right.sum(), "noise": torch.randn(())}


class Keeping(Counting):
    """An accuracy of all that was measured since its metrics were made, or ever: the first had the samples of the trial in it."""

    def __init__(self, kind: str) -> None:
        self.kind, self.right = kind, [torch.zeros(0)]

    def metric_sums(self, model: Any, batch: Any) -> dict[str, Tensor]:
        right = (model(batch[0]).argmax(1) == batch[1]).float()
        self.right.append(right)
        return {"right": right.sum()}

    def metrics(self, sums: dict[str, float], weight: float) -> dict[str, float]:
        kept = torch.cat(self.right)
        if self.kind == "begins anew":
            self.right = [torch.zeros(0)]
        if self.kind == "forgets":
            self.right = []
        return {"accuracy": sums["right"] / weight if self.kind == "unread" else float(kept.sum() + 1) / (len(kept) + 1)}


def load() -> tuple[TensorDataset, TensorDataset]:
    parts = []
    for size, seed in ((64, 1), (40, 2)):
        parts.append(TensorDataset(torch.randn(size, 8, generator=torch.Generator().manual_seed(seed)), torch.arange(size) % 3))
        parts[-1].num_classes = 3  # type: ignore[attr-defined]
    return parts[0], parts[1]


def build(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, num_classes))


def prepare(name: str, kind: str) -> None:
    own = {"dataset": {"entry_point": f"{__name__}:load"}, "model": {"entry_point": f"{__name__}:build"}}
    small_runs.prepared(**own, task={"entry_point": f"{__name__}:{name}", "arguments": {"kind": kind}})


@pytest.mark.parametrize(
    ("name", "kind", "sentence"),
    [
        (
            "Preparing",
            "mixed",
            "its prepare gives another 0 when it prepares the same 16 samples once more in training: it draws random numbers itself",
        ),
        ("Preparing", "noisy", r"draws random numbers itself.*Draw by its argument, such as draws\.uniform"),
        ("Preparing", "centred", "its prepare makes of a sample's 0 what depends on the others that it prepares with it in training"),
        ("Preparing", "centred in evaluation", "what depends on the others that it prepares with it in evaluation"),
        ("Preparing", "rolled", "what depends on the others that it prepares with it in training"),
        ("Weighing", "mean", r"its weight is no sum over samples: 8 samples weigh 0\.625 together and 5 one by one"),
        ("Scoring", "mean", "its accuracy is no sum over samples: with the same outputs of the model, 8 samples give"),
        ("Scoring", "f1", "its accuracy is no sum over samples"),
        ("Scoring", "largest", "its largest is no sum over samples"),
        *(("Keeping", kind, "its accuracy is made of more than the sums that its metrics are given") for kind in ("keeps", "begins anew", "forgets")),
    ],
)
def test_what_follows_from_the_split_is_refused(name: str, kind: str, sentence: str) -> None:
    with pytest.raises(PlanError, match=f"task: .*{sentence}"):
        prepare(name, kind)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("Preparing", "drawn"), ("Preparing", "turned"), ("Weighing", "sum"), ("Scoring", "residual"), ("Scoring", "noise"), ("Keeping", "unread")],
)
def test_what_belongs_to_the_samples_is_not(name: str, kind: str) -> None:
    """Terms that cancel, and a sum that draws at random, which nothing can be told of, among them."""
    prepare(name, kind)
