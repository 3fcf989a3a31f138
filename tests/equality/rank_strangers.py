"""Models and data of the tests of ranks, which look for them by their names here."""

import os
import random
import signal
from typing import Any

import own_tasks
import torch
from small_runs import Net, Samples
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.data import TensorDataset


def branching(num_classes: int) -> nn.Module:
    """The second layer is for batches that hold a sample of class-like brightness; the third is never used."""

    def forward(m: Any, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        logits, bright = m.always(flat), flat.mean(1) > 0.25
        return logits + torch.where(bright[:, None], m.sometimes(flat), 0.0) if bool(bright.any()) else logits

    return Net(forward, **{name: nn.Linear(64, num_classes) for name in ("always", "sometimes", "never")})


class OncePassed(own_tasks.Towers):
    """Refuses to pass 17 samples, a third of a batch, without a gradient while it trains."""

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert torch.is_grad_enabled() or not self.training or len(first) != 17
        return super().forward(first, second)


def is_last_rank() -> bool:
    return torch.distributed.get_rank() == torch.distributed.get_world_size() - 1


def out_of_memory(num_classes: int, fits: int = 1000, evaluates: int = 1000) -> nn.Module:
    """The last rank's passes of more than `fits` samples in training, or `evaluates` in evaluation, fail as an allocator does."""

    def forward(m: Any, images: Tensor) -> Tensor:
        if len(images) > (fits if m.training else evaluates) and is_last_rank():
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate a lot")
        return m.layer(images.flatten(1))

    torch.manual_seed(0)
    return Net(forward, layer=nn.Linear(64, num_classes))


def dropping(num_classes: int) -> nn.Module:
    """Smooth, with dropout of elements and of channels."""
    convolution = [nn.Conv2d(1, 6, 3, stride=2), nn.GELU(), nn.Dropout2d(0.2)]
    return nn.Sequential(*convolution, nn.Flatten(), nn.Linear(54, 24), nn.GELU(), nn.Dropout(0.5), nn.Linear(24, num_classes))


def hooked(num_classes: int) -> nn.Module:
    """Its hooks make gradients smaller once they are added up: one where it lies, one by another in its place."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.GELU(), nn.Linear(24, num_classes))

    def put(param: Tensor) -> None:
        param.grad = None if param.grad is None else 0.5 * param.grad

    def scale(param: Tensor) -> None:
        if param.grad is not None:
            param.grad.mul_(0.1)

    model[1].weight.register_post_accumulate_grad_hook(scale)
    model[3].weight.register_post_accumulate_grad_hook(put)
    return model


class LaidOut(nn.Module):
    """Parameters that lie in memory in every way but row by row, one of them in float64."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        whole = torch.randn(64, 48) / (8 + torch.distributed.get_rank())  # rank 0's count, also where the others draw other ones
        self.sliced = nn.Parameter(whole[:, :24])
        self.strided = nn.Parameter(whole[:24, 24::2].t())
        self.transposed = nn.Parameter((torch.randn(num_classes, 12) / 4).t())
        self.convolution = nn.Conv3d(1, 2, 3, padding=1, dtype=torch.float64).to(memory_format=torch.channels_last_3d)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of (n, 1, 8, 8)."""
        hidden = self.convolution(images[:, :, None].double()).sum(1).float()
        return functional.gelu(functional.gelu(hidden.flatten(1) @ self.sliced) @ self.strided.t()) @ self.transposed


def in_float64(num_classes: int) -> nn.Module:
    """Two hidden matrices, one of them a convolution's, and a head."""
    layers = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(54, 24), nn.Tanh(), nn.Linear(24, num_classes))
    return Net(lambda m, images: m.layers(images.double()), layers=layers.double())


def in_bfloat16(num_classes: int) -> nn.Module:
    """A layer of zeros, so that after a step at rate 1 its weights are the gradient."""
    layer = nn.Linear(64, num_classes)
    for param in layer.parameters():
        nn.init.zeros_(param)
    return Net(lambda m, images: m.layer(images.flatten(1).bfloat16()), layer=layer.bfloat16())


def linear_in_bfloat16() -> nn.Module:
    """No bias, and weights of zeros: half a unit above targets of -0.5 its gradient is the mean of the inputs."""
    layer = nn.Linear(4, 1, bias=False)
    nn.init.zeros_(layer.weight)
    return Net(lambda m, inputs: m.layer(inputs.bfloat16()), layer=layer.bfloat16())


def one_large_among_small() -> tuple[TensorDataset, TensorDataset]:
    """Four samples, each with 256 in a column of its own, and 1 in the others: bfloat16 holds either, and not 257."""
    inputs = torch.ones(4, 4) + 255.0 * torch.eye(4)
    return TensorDataset(inputs, torch.full((4,), -0.5)), TensorDataset(inputs, torch.full((4,), -0.5))


class Activated(nn.BatchNorm2d):
    """A batch-norm with a forward and an activation of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.gelu(super().forward(input))


class Normalising(nn.Module):
    """Every use of a norm: run again in the backward pass, over nine places of each sample, under two names, of plain averages, over instances."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.images = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), Activated(6))
        self.instances = nn.InstanceNorm2d(6, track_running_stats=True)  # a bias before a norm would hold rounding alone
        self.places, self.between = nn.BatchNorm1d(6), nn.Linear(6, 6)
        self.again = self.places
        self.average = nn.BatchNorm1d(54, momentum=None)
        self.last = nn.Linear(54, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.instances(checkpoint(self.images, images, use_reentrant=False))
        places = self.places(features.flatten(2).transpose(1, 2).reshape(-1, 6)).tanh()
        places = self.again(self.between(places)).tanh()
        return self.last(self.average(places.reshape(len(images), -1)))


class Differing(nn.Linear):
    """Keeps in a buffer what differs from rank to rank."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(64, num_classes)
        self.register_buffer("rank", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.rank.fill_(torch.distributed.get_rank())  # type: ignore[operator]
        return super().forward(images.flatten(1))


def with_a_gap() -> tuple[TensorDataset, TensorDataset]:
    """Training sample 3 holds what is no number."""
    inputs = torch.zeros(300, 1, 8, 8)
    inputs[3, 0, 1, 1] = torch.nan
    return TensorDataset(inputs, torch.arange(300) % 10), TensorDataset(torch.zeros(50, 1, 8, 8), torch.arange(50) % 10)


def failing(num_classes: int) -> nn.Module:
    """On the last rank it raises when its weights have moved: in the second step."""

    def forward(m: Any, images: Tensor) -> Tensor:
        if m.training and len(images) == 50:
            m.first = m.layer.weight.detach().clone() if m.first is None else m.first
            if is_last_rank() and not torch.equal(m.first, m.layer.weight):
                raise KeyError("boom")
        return m.layer(images.flatten(1))

    return Net(forward, layer=nn.Linear(64, num_classes), first=None)


class WithExtraState(nn.Linear):
    """Keeps which process made it."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(64, num_classes)
        self.scale = 1.0 + torch.distributed.get_rank()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of (n, 1, 8, 8)."""
        return super().forward(images.flatten(1)) * self.scale

    def get_extra_state(self) -> dict[str, float]:
        """For checkpoints."""
        return {"scale": self.scale}

    def set_extra_state(self, state: dict[str, float]) -> None:
        """From checkpoints."""
        self.scale = state["scale"]


GOES_AT = 17
"""The sample that a reading process of rank 1 dies of."""


def samples(num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_samples, 8, generator=generator), torch.randint(0, 3, (num_samples,), generator=generator)


def held(kind: str) -> tuple[TensorDataset, TensorDataset]:
    """Another order, another length or other numbers of the classes on rank 1."""
    (inputs, labels), test, differs = samples(300, 1), samples(90, 2), torch.distributed.get_rank() == 1
    if differs and kind == "order":
        order = torch.randperm(300)
        inputs, labels = inputs[order], labels[order]
    if differs and kind == "length":
        inputs, labels = inputs[:299], labels[:299]
    if differs and kind == "classes":
        test = test[0], 2 - test[1]
    return TensorDataset(inputs, labels), TensorDataset(*test)


def read(kind: str) -> list[Samples]:
    """Read sample by sample; `augments` beyond any seed's reach, `dies` in a process of rank 1 that reads."""
    dies = kind == "dies" and torch.distributed.get_rank() == 1
    scale = random.SystemRandom().random if kind == "augments" else lambda: 1.0

    def part(num_samples: int, seed: int) -> Samples:
        inputs, labels = samples(num_samples, seed)

        def sample(index: int) -> tuple[Tensor, int]:
            if dies and index == GOES_AT and torch.utils.data.get_worker_info() is not None:
                os.kill(os.getpid(), signal.SIGKILL)
            return inputs[index] * scale(), int(labels[index])

        return Samples(num_samples, sample)

    return [part(300, 1), part(90, 2)]
