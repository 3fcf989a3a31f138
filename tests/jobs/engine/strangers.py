"""Models of strangers: inputs (n, 8) -> logits (n, 3), or something else that the engine must notice."""

import copy
import random
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from small_runs import Net, Samples
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.data import TensorDataset


def load(num_train: int = 300, num_test: int = 90, seed: int = 1) -> tuple[TensorDataset, TensorDataset]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_train + num_test) % 3
    inputs = torch.randn(len(labels), 8, generator=generator) + labels[:, None]
    return TensorDataset(inputs[:num_train], labels[:num_train]), TensorDataset(inputs[num_train:], labels[num_train:])


def stranger(forward: Callable[[Any, Tensor], Any], **parts: Any) -> Net:
    """One layer, other parts, and what `forward` says."""
    return Net(forward, layer=nn.Linear(8, 3), **parts)


Forward = Callable[[Any, Tensor], Any]


def _mixup(model: Any, x: Tensor) -> Tensor:
    return model.layer(0.7 * x + 0.3 * x[torch.randperm(len(x))] if model.training else x)


def _own_batch_norm(model: Any, x: Tensor) -> Tensor:
    return model.layer((x - x.mean(0)) / x.std(0) if model.training else x)


def _own_statistics(model: Any, x: Tensor) -> Tensor:
    logits: Tensor = model.layer(x - model.mean)
    if model.training:
        model.mean.lerp_(x.detach().mean(0), 0.1)
    return logits


def _counts(model: Any, x: Tensor) -> Tensor:
    model.calls += 1
    return model.layer(x) * (1.0 + model.calls)


def _keeps_graph(model: Any, x: Tensor) -> Tensor:
    logits: Tensor = model.layer(x)
    if model.training:
        logits = logits + 0.0 * getattr(model, "last", 0.0)
        model.last = logits.tanh().mean()
    return logits


def _grows(model: Any, x: Tensor) -> Tensor:
    if model.training:
        model.last = x.detach().clone()
    return model.layer(x + 0.01 * model.last.mean(0))


def _time_first(model: Any, x: Tensor) -> Tensor:
    return model.layer(model.recurrent(x[:, None, :])[0][:, 0])


EVALUATION: dict[str, tuple[Forward, str]] = {
    "tuple": (lambda m, x: m.layer(x) if m.training else (m.layer(x), x), "gives tuple for 8 samples .* in evaluation"),
    "classes": (lambda m, x: m.layer(x) if m.training else m.layer(x).argmax(1), r"gives \(8,\) int64 for 8 samples .* in evaluation"),
    "whole numbers": (lambda m, x: m.layer(x) if m.training else m.layer(x).long(), r"gives \(8, 3\) int64 .* in evaluation"),
    "softmax": (lambda m, x: m.layer(x) if m.training else m.layer(x).softmax(1), "gives probabilities in evaluation"),
    "one-hot": (
        lambda m, x: m.layer(x) if m.training else functional.one_hot(m.layer(x).argmax(1), 3).float(),
        "gives probabilities in evaluation",
    ),
    "sigmoid": (lambda m, x: m.layer(x) if m.training else m.layer(x).sigmoid(), "gives the sigmoid of its logits in evaluation"),
    "raises": (lambda m, x: m.layer(x) if m.training else {}[x], "cannot take 8 samples .* in evaluation: KeyError"),
    "dropout left on": (lambda m, x: m.layer(functional.dropout(x, 0.5)), "more in evaluation mode: it is random there"),
    "more rows": (lambda m, x: m.layer(x) if m.training else m.layer(torch.cat([x, -x])), r"gives \(16, 3\) for 8 samples"),
    "centred": (lambda m, x: m.layer(x if m.training else x - x.mean(0)), "a sample's logits in evaluation depend on which others"),
}
TRAINING: dict[str, tuple[Forward, str]] = {
    "dict": (lambda m, x: {"logits": m.layer(x)}, "gives dict for 8 samples .* in training"),
    "stops": (lambda m, x: next(iter(())) if m.training else m.layer(x), "cannot take 8 samples .* in training: StopIteration"),
    "detached": (lambda m, x: m.layer(x).detach(), "in training: RuntimeError: .* without torch.no_grad"),
    "kept graph": (_keeps_graph, r"in training: RuntimeError: .* Keep nothing of an earlier pass with its gradient"),
    "other type": (lambda m, x: functional.linear(x, m.layer.weight.half()), r"in training: RuntimeError: .* the samples \(float32\)"),
    "tiny coupling": (lambda m, x: m.layer(x + 2e-3 * x.mean(0)) if m.training else m.layer(x), r"gradient in training depends .*\(0\.0\d+% between"),
    "own batch-norm": (_own_batch_norm, "a sample's gradient in training depends on which others"),
    "divided by n": (lambda m, x: m.layer(x) / len(x) if m.training else m.layer(x), "a sample's gradient in training depends"),
    "mixup": (_mixup, "a sample's gradient in training depends on which others"),
    "python's chance": (lambda m, x: m.layer(x * random.random()) if m.training else m.layer(x), "draws random numbers from elsewhere than torch"),
}
GOOD: dict[str, Forward] = {
    "plain": lambda m, x: m.layer(x),
    "functional dropout": lambda m, x: m.layer(functional.dropout(x, 0.5, m.training)),
    "noise": lambda m, x: m.layer(x + torch.randn_like(x) if m.training else x),
    "in place": lambda m, x: m.layer(x.mul_(0.5)),
    "log-softmax": lambda m, x: m.layer(x).log_softmax(1),
    "needs no zeros": lambda m, x: m.layer(torch.linalg.inv(torch.diag_embed(x)).diagonal(dim1=1, dim2=2)),
}


def evaluating(num_classes: int, kind: str) -> nn.Module:
    return stranger(EVALUATION[kind][0])


def training(num_classes: int, kind: str) -> nn.Module:
    return stranger(TRAINING[kind][0])


def good(num_classes: int, kind: str) -> nn.Module:
    return stranger(GOOD[kind])


def counting(num_classes: int) -> nn.Module:
    return stranger(_counts, calls=0)


def growing(num_classes: int) -> nn.Module:
    return stranger(_grows, last=torch.zeros(1, 8))


def own_statistics(num_classes: int) -> nn.Module:
    return stranger(_own_statistics, mean=torch.zeros(8))


def time_first(num_classes: int) -> nn.Module:
    return stranger(_time_first, recurrent=nn.GRU(8, 8))


def zero_head(num_classes: int) -> nn.Module:
    """Logits of nothing, whose gradient alone tells that samples are mixed."""
    model = stranger(lambda m, x: m.layer(x - x.mean(0)))
    nn.init.zeros_(model.layer.weight)
    return model


def clipped_gradient(num_classes: int) -> nn.Module:
    model = stranger(GOOD["plain"])
    model.layer.weight.register_hook(lambda gradient: gradient / gradient.norm())
    return model


def squeezing(num_classes: int) -> nn.Module:
    return stranger(lambda m, x: m.layer(x[:, None]).squeeze())


def spectral(num_classes: int) -> nn.Module:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 16, dtype=torch.float32))
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(16, num_classes))


def renormed(num_classes: int) -> nn.Module:
    def forward(model: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            model.layer.weight.div_(model.layer.weight.norm(dim=1, keepdim=True))
        return model.layer(x)

    return stranger(forward)


def moving(num_classes: int, kind: str) -> nn.Module:
    """Its forward pass moves weights."""

    @torch.no_grad()
    def move(model: Any) -> None:
        if kind == "shrinking":
            model.layer.weight.mul_(0.999)
        else:
            for param, other in zip(model.copy.parameters(), model.encoder.parameters(), strict=True):
                param.lerp_(other, 0.001)

    def logits(model: Any, x: Tensor) -> Tensor:
        if model.training or kind == "in evaluation":
            move(model)
        return model.layer(model.encoder(x) + model.copy(x))

    encoder = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    return stranger(logits, encoder=encoder, copy=copy.deepcopy(encoder).requires_grad_(kind == "trainable follower"))


def changing_norm(num_classes: int, kind: str, at: int = 0) -> nn.Module:
    """Sets its norm's settings in the forward pass, from the nth in training on."""

    def forward(model: Any, x: Tensor) -> Tensor:
        h = model.body(x)
        if model.training:
            model.passes += 1
        if model.training and model.passes > at:
            if kind == "momentum":
                model.norm.momentum *= 0.99
            if kind == "eps":
                model.norm.eps *= 2
            if kind in ("mode", "frozen"):
                model.norm.eval()
            if kind == "mode between runs":
                h = model.norm(h)
                model.norm.eval()
                h = model.norm(h)
                model.norm.train()
        return model.layer(model.norm(h).relu())

    return stranger(forward, body=nn.Linear(8, 8), norm=nn.BatchNorm1d(8), passes=0)


def dropping(num_classes: int, kind: str) -> nn.Module:
    """Dropout over four steps of two numbers."""

    def forward(model: Any, x: Tensor) -> Tensor:
        steps = x.reshape(len(x), 4, 2)
        if kind in ("time first", "time first, noise"):
            steps = model.drop(steps.transpose(0, 1)).transpose(0, 1)
        if kind == "rows, time first":
            steps = model.drop(steps.transpose(0, 1).reshape(-1, 2)).reshape(4, len(x), 2).transpose(0, 1)
        if kind == "rows":
            steps = model.drop(steps.reshape(-1, 2)).reshape(len(x), 4, 2)
        if kind == "rows that count":
            keep = steps[:, :, 0] > 0
            steps = steps.masked_scatter(keep[:, :, None].expand_as(steps), model.drop(steps[keep]))
        if kind == "sample by sample":
            steps = torch.stack([model.drop(each) for each in steps])
        if kind == "positions":
            steps = steps + model.drop(model.positions)
        if kind in ("samples", "samples, noise"):
            steps = model.drop(steps)
        if kind.endswith("noise") and model.training:
            steps = steps + torch.randn_like(steps)
        return model.layer(steps.flatten(1))

    # Behind another one, which is named only where it is at fault.
    return nn.Sequential(nn.Dropout(0.1), stranger(forward, drop=nn.Dropout(0.3), positions=torch.ones(1, 4, 2)))


def checkpointed(num_classes: int) -> nn.Module:
    """Runs a part again in the backward pass, the reentrant way."""
    part = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())
    return stranger(lambda m, x: m.layer(checkpoint(m.part, m.body(x), use_reentrant=True)), body=nn.Linear(8, 8), part=part)


def reading_statistics(num_classes: int, kind: str) -> nn.Module:
    """Reads its norm's running statistics in training, too, beside the norm."""

    def forward(model: Any, x: Tensor) -> Tensor:
        beside: Any = 0.0
        if kind == "by hand":
            beside = x - model.norm.running_mean.clone()
        if kind == "in evaluation mode":
            beside = functional.batch_norm(x, model.norm.running_mean.clone(), model.norm.running_var.clone())
        return model.layer(model.norm(x) + beside)

    return stranger(forward, norm=nn.BatchNorm1d(8))


def clipped_table(num_classes: int) -> nn.Module:
    table = nn.Embedding(20, 8, max_norm=1.0)
    return stranger(lambda m, x: m.layer(m.table((x[:, :2].abs() * 5).long().clamp(max=19)).mean(1)), table=table)


def softmaxed(num_classes: int) -> nn.Module:
    return stranger(lambda m, x: m.layer(x).softmax(1))


def scaled(num_classes: int) -> nn.Module:
    return stranger(lambda m, x: m.layer(x) if m.training else m.layer(x) / 2)


def wrapped(num_classes: int, how: str) -> nn.Module:
    model = nn.Linear(8, num_classes)
    if how == "parallel":
        return nn.DataParallel(model)
    if how == "scripted":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that torch.jit goes
            return nn.Sequential(torch.jit.script(model))
    # What torch.compile returns, without its three seconds of imports.
    kind = type("OptimizedModule", (nn.Sequential,), {"__module__": "torch._dynamo.eval_frame"})
    return kind(model)


class Extra(nn.Module):
    """Keeps something besides tensors."""

    def __init__(self, num_classes: int, value: Any) -> None:
        super().__init__()
        self.layer, self.value = nn.Linear(8, num_classes), value

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs)

    def get_extra_state(self) -> Any:
        return self.value

    def set_extra_state(self, state: Any) -> None:
        if state == "refused":
            raise KeyError("scale")
        self.value = state


def extra(num_classes: int, kind: str) -> nn.Module:
    values = {"plain": {"scale": 2.0, "table": torch.arange(3), "names": ["a", None]}, "object": object(), "refused": "refused"}
    return Extra(num_classes, values[kind])


def failing(num_classes: int, when: str = "", at: int = 0) -> nn.Module:
    """Raises in a pass of so many samples, or from the nth pass in training on."""

    def forward(model: Any, x: Tensor) -> Tensor:
        model.passes += model.training
        if (when == "training" and model.passes >= at) or (when == "evaluation" and not model.training and len(x) == at):
            raise KeyError("boom")
        return model.layer(x)

    return stranger(forward, passes=0)


class Late(nn.Module):
    """Makes things when the first samples come."""

    def __init__(self, num_classes: int, kind: str) -> None:
        super().__init__()
        self.body, self.kind, self.num_classes = nn.Linear(8, 16), kind, num_classes
        self.head: nn.Module | None = None
        self.mean: Any = None

    def forward(self, inputs: Tensor) -> Tensor:
        if self.head is None:
            self.head = nn.Linear(16, self.num_classes)
            if self.kind == "buffer":
                self.register_buffer("table", torch.arange(8.0) / 100)
            if self.kind == "buffer of samples":
                self.register_buffer("table", inputs.mean(0))
            if self.kind == "weight of samples":
                self.scale = nn.Parameter(inputs.std(0))
            if self.kind == "attribute of samples":
                self.mean = inputs.mean(0)
        if hasattr(self, "table"):
            inputs = inputs + self.table
        return self.head(self.body(inputs if self.mean is None else inputs - self.mean).relu())


def midway(num_classes: int, kind: str) -> nn.Module:
    """Changes what trains in a pass of training that is none of the check."""

    def forward(model: Any, x: Tensor) -> Tensor:
        model.passes += model.training
        if model.passes == 16:
            if kind == "new":
                model.other = nn.Linear(8, 3)
            elif kind == "replaced":
                model.layer.weight = nn.Parameter(model.layer.weight.detach().clone())
            else:
                model.spare.requires_grad_(True)
        return model.layer(x)

    return stranger(forward, spare=nn.Linear(8, num_classes).requires_grad_(False), passes=0)


class Unswitchable(nn.Linear):
    def __init__(self, num_classes: int) -> None:
        super().__init__(8, num_classes)

    def train(self, mode: bool = True) -> Any:
        raise RuntimeError("use fit()...")


def lazy(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.LazyLinear(16), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(num_classes))


def unreached_lazy(num_classes: int) -> nn.Module:
    return stranger(GOOD["plain"], spare=nn.LazyLinear(3))


def exiting(num_classes: int, at: int = 0) -> nn.Module:
    """Calls sys.exit() where it is told to: in the nth pass, or as it is built."""

    def forward(model: Any, x: Tensor) -> Tensor:
        model.passes += 1
        if model.passes == at:
            sys.exit(0)
        return model.layer(x)

    if not at:
        sys.exit()
    return stranger(forward, passes=0)


def exiting_samples() -> tuple[Any, Any]:
    """The fiftieth calls sys.exit()."""
    return Samples(100, lambda index: sys.exit(0) if index == 50 else (torch.full((8,), float(index % 3)), index % 3)), load()[1]


class Counting(Extra):
    """Counts its passes in training, and saves how many they were."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, 0)

    def forward(self, inputs: Tensor) -> Tensor:
        self.value += self.training
        return super().forward(inputs)
