"""Tasks, data and models of a person's own, named by entry points in tests: the examples of docs/tasks.md among them."""

import collections
import dataclasses
import math
import os
import re
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import largebatch
from largebatch.jobs.tasks.contrastive import Contrastive


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SHOWN: dict[str, Any] = {}
"""The classes of docs/tasks.md, as they stand there."""
for block in re.findall(r"```python\n(.*?)```", (Path(__file__).resolve().parent.parent / "docs" / "tasks.md").read_text(), flags=re.DOTALL):
    exec(block, SHOWN)
Focal, PairMatch, Denoise = SHOWN["Focal"], SHOWN["PairMatch"], SHOWN["Denoise"]


class Mean(Focal):
    """What the engine must refuse."""

    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        return super().loss_sum(model, batch) / len(batch[0])


class Vector(Focal):
    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        return model(batch[0]).sum(1)


class Detached(Focal):
    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        return super().loss_sum(model, batch).detach()


class Nameless(Focal):
    others = (largebatch.Metric("kappa", "higher"),)


class Worded(Focal):
    def metrics(self, sums: dict[str, float], weight: float) -> dict[str, Any]:
        return {"accuracy": "0.5"}


class FurtherWords(Focal):
    def metrics(self, sums: dict[str, float], weight: float) -> dict[str, Any]:
        return {**super().metrics(sums, weight), "verdict": "good"}


class Complex(Focal):
    def metric_sums(self, model: Any, batch: Any) -> dict[str, Tensor]:
        return {"accuracy": torch.tensor(1.0 + 2.0j)}


class Nothing(Focal):
    def prepare(self, batch: Any, draws: Any) -> Any:
        return ()


class NotANumber(Focal):
    def metric_sums(self, model: Any, batch: Any) -> dict[str, Tensor]:
        return {**super().metric_sums(model, batch), "accuracy": torch.tensor(math.nan)}


class Beyond(Focal):
    """More right answers than there are."""

    def metrics(self, sums: dict[str, float], weight: float) -> dict[str, float]:
        return {**super().metrics(sums, weight), "accuracy": 2.4}


class Unbounded(Focal):
    """A metric that is infinite while the loss is finite."""

    headline = largebatch.Metric("margin", "higher")

    def metrics(self, sums: dict[str, float], weight: float) -> dict[str, float]:
        return {**super().metrics(sums, weight), "margin": math.inf}


class Upward(Focal):
    headline = largebatch.Metric("accuracy", "up")  # type: ignore[arg-type]


class WithoutLoss(Focal):
    def metrics(self, sums: dict[str, float], weight: float) -> dict[str, float]:
        return {"accuracy": sums["accuracy"] / weight}


class Failing(Focal):
    def metric_sums(self, model: Any, batch: Any) -> dict[str, Tensor]:
        raise KeyError("labels")


class WeightedMean(Focal):
    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        inputs, labels = batch
        weights = inputs.flatten(1).sum(1).exp()
        return (weights * functional.cross_entropy(model(inputs), labels, reduction="none")).sum() / weights.sum()


class Preparing(Focal):
    """Its prepare gives other samples than it got, once so many were prepared together."""

    def __init__(self, kind: str, above: int = 0) -> None:
        super().__init__()
        self.kind, self.above = kind, above

    def prepare(self, batch: Any, draws: Any) -> Any:
        inputs, labels = batch
        if len(labels) <= self.above:
            return inputs, labels
        return {
            "doubled": lambda: (torch.cat([inputs, inputs]), torch.cat([labels, labels])),
            "uneven": lambda: (inputs, torch.cat([labels, labels])),
            "one": lambda: (inputs, labels.sum()),
            "no tensor": lambda: (inputs, labels.tolist()),
        }[self.kind]()


class OnTheObject(Focal):
    """What a method is can be said on an object, too: a weight of 2 for each sample, which changes no mean."""

    def __init__(self, of: str = "class") -> None:
        super().__init__()
        if of == "object":
            self.weight = self.double  # type: ignore[method-assign]
        if of == "number":
            self.weight = 2.0  # type: ignore[assignment, method-assign]

    def double(self, batch: Any) -> Tensor:
        return torch.tensor(2.0 * len(batch[1]))

    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        return 2 * super().loss_sum(model, batch)


class Balanced(Focal):
    """A term of the batch as a whole beside a sum: the square of a mean over it, as experts are balanced by; or a penalty once for each call."""

    def __init__(self, share: float = 0.1, kind: str = "mean") -> None:
        super().__init__()
        self.share, self.kind = share, kind

    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        logits = model(batch[0])
        term = {
            "mean": lambda: (logits.mean() - 3).square(),
            "weighted mean": lambda: len(logits) * logits.mean().square(),
            "constant": lambda: logits.new_ones(()),
            "twice over": lambda: (model(torch.cat([batch[0], batch[0]])).mean() - 3).square(),
            "dropout": lambda: functional.dropout(logits, 0.5).square().sum(),
        }[self.kind]
        return functional.cross_entropy(logits, batch[1], reduction="sum") + self.share * term()


class InADict(nn.Module):
    """What `classifier` gives, as the models of libraries give it: in a dict, a tuple, or an object."""

    def __init__(self, num_classes: int, kind: str = "dict") -> None:
        super().__init__()
        self.layers, self.kind = classifier(num_classes), kind

    def forward(self, inputs: Tensor) -> Any:
        logits = self.layers(inputs)
        return {"dict": {"logits": logits}, "tuple": (logits,), "object": Output(logits)}[self.kind]


@dataclasses.dataclass(frozen=True)
class Output:
    logits: Tensor


class Seen(largebatch.Task):
    """What a task is given: the types of the numbers that it sees."""

    headline = largebatch.Metric("loss", "lower")
    types: ClassVar[set[torch.dtype]] = set()

    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        given = model(batch[0])
        logits = given["logits"] if isinstance(given, dict) else given[0] if isinstance(given, tuple) else given.logits
        Seen.types.add(logits.dtype)
        return functional.cross_entropy(logits, batch[1], reduction="sum")

    def metric_sums(self, model: Any, batch: Any) -> dict[str, Tensor]:
        return {"loss": self.loss_sum(model, batch)}


class Undefined(Focal):
    def metrics(self, sums: dict[str, float], weight: float) -> dict[str, float]:
        return {**super().metrics(sums, weight), "accuracy": float("nan")}


class Broadcast(largebatch.Task):
    """Outputs (n, 1) less targets (n,) are (n, n)."""

    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        return ((model(batch[0]) - batch[1]) ** 2).sum()

    def metric_sums(self, model: Any, batch: Any) -> dict[str, Tensor]:
        return {"rmse": self.loss_sum(model, batch)}


class Flat(Broadcast):
    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        return ((model(batch[0])[:, 0] - batch[1]) ** 2).sum()


class Unheaded(Focal):
    headline = "f1"  # type: ignore[assignment]


class Breaking(Focal):
    """Its loss fails on so many samples, once they have come often enough, behind a model that can take them."""

    def __init__(self, at: int = 8, after: int = 0) -> None:
        super().__init__()
        self.at, self.left = at, after

    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        loss = super().loss_sum(model, batch)
        self.left -= len(batch[0]) == self.at
        if self.left < 0:
            raise KeyError("mask")
        return loss


class Owing(Focal):
    """A sample of class 1 weighs less than nothing; all together weigh something."""

    def weight(self, batch: Any) -> Tensor:
        return torch.where(batch[1] == 1, -1.0, 2.0).sum()


class Endless(Focal):
    """More samples than the model is tried with weigh infinitely much."""

    def weight(self, batch: Any) -> Tensor:
        return torch.tensor(float("inf") if len(batch[0]) > 8 else float(len(batch[0])))


class EndlessInEvaluation(Focal):
    """Samples that are evaluated together weigh infinitely much."""

    def weight(self, batch: Any) -> Tensor:
        return torch.tensor(float("inf") if len(batch[0]) > 30 else float(len(batch[0])))


class Sinking(Focal):
    """More samples than the model is tried with weigh less than nothing."""

    def weight(self, batch: Any) -> Tensor:
        return torch.tensor(-1.0 if len(batch[0]) > 8 else float(len(batch[0])))


class VectorWeight(Focal):
    def weight(self, batch: Any) -> Tensor:
        return torch.ones(len(batch[0]))


class VectorMetric(Focal):
    def metric_sums(self, model: Any, batch: Any) -> dict[str, Any]:
        return {"accuracy": (model(batch[0]).argmax(1) == batch[1]).double()}


class Pairs(torch.utils.data.Dataset[Any]):
    """Two inputs and whether they are of one kind; read one by one, as a dict."""

    def __init__(self, size: int, seed: int) -> None:
        self.left = torch.randn(size, 6, generator=generator(seed))
        noise = torch.randn(size, 6, generator=generator(seed + 1))
        self.match = (torch.rand(size, generator=generator(seed + 2)) < 0.5).float()
        self.right = torch.where(self.match[:, None] > 0, self.left + 0.2 * noise, noise)

    def __len__(self) -> int:
        return len(self.match)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"left": self.left[index], "right": self.right[index].numpy(), "match": float(self.match[index])}


class Compare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 12), nn.Linear(12, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head((self.embed(left) - self.embed(right)).tanh().square())[:, 0]


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(17, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        return self.layers(torch.cat([noisy.flatten(1), time[:, None]], dim=1)).view_as(noisy)


class Coupled(Contrastive):
    """A loss of all samples together of a person's own."""


class OddBlocks(Contrastive):
    """Pieces of a loss that are not what they must be."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def loss_blocks(self, embeddings: Any, start: int, stop: int) -> Any:
        pieces = torch.stack(list(super().loss_blocks(embeddings, start, stop)))
        if self.how == "failing":
            raise KeyError("rows")
        yield {"mean": pieces.sum() / (stop - start), "detached": pieces.sum().detach(), "vector": pieces, "number": float(pieces.detach().sum())}[
            self.how
        ]


class WordyPairs(Contrastive):
    def coupled_metrics(self, *given: Any, **known: Any) -> dict[str, Any]:
        return {**super().coupled_metrics(*given, **known), "recall_at_1": "high"}


class Towers(nn.Module):
    """Two towers with a temperature to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))
        self.second = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.first(first), self.second(second), self.log_scale


class Encoder(nn.Module):
    """One network for both views; smooth, without norms."""

    def __init__(self, num_classes: int = 0) -> None:
        super().__init__()
        self.features, self.projection = nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.Tanh()), nn.Linear(16, 6)

    def forward(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        representation = self.features(first)
        return {"first": self.projection(representation), "second": self.projection(self.features(second)), "representation": representation}


class Named(Encoder):
    """Embeddings alone."""

    def forward(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        return {name: output for name, output in super().forward(first, second).items() if name != "representation"}


class Same(nn.Linear):
    """One output where a pair is asked for."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(16, 4)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return super().forward(images.flatten(1))


def pairs(num_train: int = 120, num_test: int = 40) -> tuple[Pairs, Pairs]:
    return Pairs(num_train, 1), Pairs(num_test, 11)


class Counted(torch.utils.data.Dataset[Any]):
    """A set that is read one by one, and counts in `num_reads` how often each sample was."""

    def __init__(self, part: TensorDataset) -> None:
        self.part, self.num_reads = part, collections.Counter[int]()

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> Any:
        self.num_reads[index] += 1
        return self.part[index]


def captioned() -> tuple[TensorDataset, TensorDataset]:
    """Pairs of which many have the same second input, one of six."""
    parts = views()
    for part in parts:
        part.tensors = (part.tensors[0], part.tensors[1][torch.arange(len(part)) % 6])
    return parts


def counted_views() -> tuple[Counted, Counted]:
    train, test = views()
    return Counted(train), Counted(test)


def views(num_train: int = 96, num_test: int = 32, labelled: bool = False) -> tuple[TensorDataset, TensorDataset]:
    """Samples and noisy copies of them, around a centre for each of three classes."""
    parts = []
    for size, seed in ((num_train, 1), (num_test, 2)):
        labels = torch.arange(size) % 3
        first = torch.randn(size, 6, generator=generator(seed))
        second = first.flip(1) + 0.1 * torch.randn(size, 6, generator=generator(seed + 10))
        first[:, :3] += 1.5 * functional.one_hot(labels, 3) if labelled else 0.0
        parts.append(TensorDataset(first, second, labels) if labelled else TensorDataset(first, second))
    return parts[0], parts[1]


def pictures(num_train: int = 64, num_test: int = 16) -> tuple[TensorDataset, TensorDataset]:
    return TensorDataset(torch.randn(num_train, 4, 4, generator=generator(3))), TensorDataset(torch.randn(num_test, 4, 4, generator=generator(4)))


def weighted(kind: str = "weights") -> tuple[TensorDataset, TensorDataset]:
    """(inputs, labels, weights), or labels as shares of three classes."""
    parts = []
    for size, seed in ((90, 1), (30, 2)):
        inputs, labels = torch.randn(size, 5, generator=generator(seed)), torch.arange(size) % 3
        inputs[:, :3] += 2 * functional.one_hot(labels, 3)
        if kind == "weights":
            parts.append(TensorDataset(inputs, labels, torch.rand(size, generator=generator(seed + 5))))
        else:
            parts.append(TensorDataset(inputs, 0.8 * functional.one_hot(labels, 3) + 0.2 / 3))
        parts[-1].num_outputs = 3  # type: ignore[attr-defined]
    return parts[0], parts[1]


def curve() -> tuple[TensorDataset, TensorDataset]:
    """Numbers to be told from others."""
    parts = []
    for size, seed in ((90, 1), (30, 2)):
        inputs = torch.rand(size, 2, generator=generator(seed))
        parts.append(TensorDataset(inputs, torch.stack([inputs.sum(1).sin(), inputs.prod(1)], dim=1)))
    return parts[0], parts[1]


def numbers() -> tuple[TensorDataset, TensorDataset]:
    """One number to be told, in a vector."""
    train, test = (TensorDataset(part.tensors[0], part.tensors[1][:, 0]) for part in curve())
    return train, test


class Unsteady(torch.utils.data.Dataset[Any]):
    """A set whose samples are others each time, whatever the seeds."""

    def __init__(self, part: Any) -> None:
        self._part, self.vocabulary_size, self.sequence_length = part, 9, 12

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        tokens, targets = self._part[index]
        return tokens, targets.masked_fill(torch.arange(12) > os.urandom(1)[0] % 12, -100)


def unsteady() -> tuple[Unsteady, Unsteady]:
    train, test = documents(one_by_one=True)
    return Unsteady(train), Unsteady(test)


class OneByOne(torch.utils.data.Dataset[Any]):
    """A set whose samples cannot be looked at together."""

    def __init__(self, tokens: Tensor, targets: Tensor) -> None:
        self._tokens, self._targets = tokens, targets
        self.vocabulary_size, self.sequence_length = 9, 12

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._tokens[index], self._targets[index]


def documents(
    num_train: int = 60,
    num_test: int = 20,
    weightless: str = "",
    one_by_one: bool = False,
    beyond: int | None = None,
    padding_token: Any = None,
    shift: int = 1,
) -> tuple[Any, Any]:
    """Sequences of very different length that count up, padded; a target of -100 does not count.

    Args:
        weightless: "training" or "test": the part whose targets do not count.
        beyond: a sample with an unknown token.
        shift: 0: a target is the token itself, not the next.
    """
    parts: list[Any] = []
    for size, seed in ((num_train, 1), (num_test, 2)):
        lengths = torch.randint(1, 13, (size,), generator=generator(seed))
        tokens = (torch.arange(12) + torch.randint(0, 9, (size, 1), generator=generator(seed + 1))) % 9
        targets = ((tokens + shift) % 9).masked_fill(torch.arange(12) >= lengths[:, None], -100)
        if weightless == ("training" if size == num_train else "test"):
            targets[:] = -100
        if beyond is not None and size > beyond:
            tokens[beyond, 3] = 9
        if one_by_one:
            parts.append(OneByOne(tokens, targets))
            continue
        parts.append(TensorDataset(tokens, targets))
        parts[-1].vocabulary_size, parts[-1].sequence_length = 9, 12  # type: ignore[attr-defined]
        parts[-1].padding_token = padding_token  # type: ignore[attr-defined]
    return parts[0], parts[1]


def nameless() -> tuple[TensorDataset, TensorDataset]:
    """The same, which do not say how long they are."""
    parts = documents()
    for part in parts:
        del part.sequence_length  # type: ignore[attr-defined]
    return parts


def linear(num_outputs: int, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.LazyLinear(width), nn.Tanh(), nn.Linear(width, num_outputs))


def one_number() -> nn.Module:
    return linear(1)


def classifier(num_classes: int, normalises: bool = False) -> nn.Module:
    norm = [nn.BatchNorm1d(12)] if normalises else []
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(12), *norm, nn.Tanh(), nn.Linear(12, num_classes))
