"""What exact batches cost for tasks beside classification, on small models.

language model   the engine's step on 16 sequences of 256 tokens and more, against plain torch on one ready batch
pairs            a contrastive step in any micro-batch, against one pass of the whole batch where both fit, and against the same micro-batches with
                 a loss of their own, which is another loss; with the towers of the recipe clip-tiny, and with two of convolutions alone
memory           what torch allocates at most within a contrastive step, of 1,024 pairs against 64 in the same micro-batch
"""

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from statistics import median
from typing import Any

import torch
from _report import in_turn, parser, publish, ratios, spread
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW
from torch.profiler import ProfilerActivity, profile

from largebatch.jobs.engine.clock import Clock
from largebatch.jobs.engine.ranks.all_reduce import AllReduce
from largebatch.jobs.engine.ranks.buffers import Buffers
from largebatch.jobs.engine.ranks.local_sgd import LocalSGD
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.models.sample_dropout import sample_dropouts
from largebatch.jobs.models.towers.clip import TwoTowers
from largebatch.jobs.models.transformer import decoder
from largebatch.jobs.optim.parameter_groups import build_optimizer
from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import rows
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.tasks.base import Task
from largebatch.jobs.tasks.contrastive import Contrastive
from largebatch.jobs.tasks.language_modelling import LanguageModelling

TOKENS, VOCABULARY = 256, 258
WORDS, CAPTION = 40, 8
CPU = torch.device("cpu")


class Ready:
    """One batch, read again and again."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def read(self, samples: Slice) -> Any:
        """See `Batches`."""
        return rows(self._batch, samples.start, samples.stop)


def ours(task: Task, model: nn.Module, batch: Any, micro_batch_size: int) -> Callable[[], float]:
    """Seconds of one optimizer step of the engine, noise scale and journal left out."""
    size = len(batch[0])
    document = {
        "dataset": {"name": "digits"}, "model": {"name": "mlp"}, "batch": {"global_batch_size": size, "micro_batch_size": micro_batch_size},
        "optimizer": {"name": "adamw"}, "learning_rate": {"base": 1e-9}, "stop": {"steps": 1}, "gradient": {"noise_every_steps": 0},
    }  # fmt: skip
    plan = make_plan(build_spec(document), Facts(size, False, micro_batch_size))
    optimizer, ranks = build_optimizer(model, plan.spec.optimizer), Ranks(CPU)
    state = TrainState(
        model=model, forward=model, task=task, metric=task.headline, optimizer=optimizer, seed=0, micro_batch_size=micro_batch_size,
        clock=Clock(CPU), ranks=ranks, all_reduce=AllReduce(model, ranks, plan.spec.reduction), local_sgd=LocalSGD(model, optimizer, ranks, []),
        buffers=Buffers(model, ranks), dropouts=sample_dropouts(model),
    )  # fmt: skip

    def step() -> float:
        began = time.perf_counter()
        optimizer_step(state, plan, plan.step_at(Position(0, 0)), Ready(batch), print)
        return time.perf_counter() - began

    return step


def peak_bytes(step: Callable[[], float]) -> float:
    """What one step holds at most of what torch allocates, beyond what was there before it."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        step()
    changes = sorted((event.start_ns(), event.nbytes()) for event in watched.profiler.kineto_results.events() if event.name() == "[memory]")
    return float(max(accumulate(change for _, change in changes)))


def plain(model: nn.Module, *losses: Callable[[nn.Module], Tensor]) -> Callable[[], float]:
    """Seconds of the same in plain torch, each loss passed by itself, torch's fused AdamW."""
    optimizer = AdamW(model.parameters(), lr=1e-9, fused=True)

    def step() -> float:
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        for loss in losses:
            loss(model).backward()
        optimizer.step()
        return time.perf_counter() - began

    return step


def _language_model(sequences: int, given: argparse.Namespace) -> dict[str, str]:
    tokens = torch.randint(VOCABULARY, (sequences, TOKENS + 1), generator=torch.Generator().manual_seed(0))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    model = decoder(VOCABULARY, TOKENS, width=128, depth=4, num_heads=4)

    def loss(model: nn.Module) -> Tensor:
        return functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    sides = {"ours": ours(LanguageModelling(), copy.deepcopy(model), (inputs, targets), sequences), "plain": plain(model, loss)}
    return _row(f"language model, {sequences} x {TOKENS} tokens", sides, given, "at least 0.95")


class Convolutions(nn.Module):
    """Two towers of two convolutions each."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, 16, 3), nn.GELU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                          nn.Linear(128, 64))
            for _ in range(2)
        )  # fmt: skip

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 64) of each side."""
        return self.sides[0](first), self.sides[1](second)


class RecipeTowers(TwoTowers):
    """The towers of `recipes/clip-tiny.yaml`, their scale left as it begins, as the other model's is."""

    def __init__(self) -> None:
        super().__init__(3, WORDS, CAPTION)

    def forward(self, images: Tensor, tokens: Tensor) -> Any:
        """(N, 64) of each side."""
        embeddings = super().forward(images, tokens)
        return embeddings["first"], embeddings["second"]


NAMES: dict[type[nn.Module], str] = {RecipeTowers: "recipe's towers", Convolutions: "convolutions"}


def _pictures(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def _pairs_of(towers: type[nn.Module], size: int) -> tuple[Tensor, Tensor]:
    if towers is RecipeTowers:
        return _pictures(size), torch.randint(1, WORDS, (size, CAPTION), generator=torch.Generator().manual_seed(1))
    return _pictures(size), _pictures(size, seed=1)


def _losses(towers: type[nn.Module], size: int, compared: int) -> list[Callable[[nn.Module], Tensor]]:
    """Plain torch's InfoNCE of `size` pairs, of `compared` pairs with each other at a time, each of them a pass."""
    first, second = _pairs_of(towers, size)

    def loss(model: nn.Module, start: int) -> Tensor:
        ends = [functional.normalize(end, dim=1) for end in model(first[start : start + compared], second[start : start + compared])]
        similarities, own = ends[0] @ ends[1].T / 0.07, torch.arange(compared)
        return (functional.cross_entropy(similarities, own) + functional.cross_entropy(similarities.T, own)) / 2

    return [partial(loss, start=start) for start in range(0, size, compared)]


def _pairs(towers: type[nn.Module], size: int, micro_batch_size: int, compared: int, given: argparse.Namespace) -> dict[str, str]:
    """Args: compared: pairs that plain torch compares with each other, and passes at once."""
    model = towers()
    sides = {
        "ours": ours(Contrastive(), copy.deepcopy(model), _pairs_of(towers, size), micro_batch_size),
        "plain": plain(model, *_losses(towers, size, compared)),
    }
    name = f"pairs, {NAMES[towers]}, {size:,} in micro-batches of {micro_batch_size}" + (", against losses of these" if compared < size else "")
    return _row(name, sides, given, "at least 0.625 (1.6 times the time)")


def _fewest_passes(towers: type[nn.Module], size: int, micro_batch_size: int, given: argparse.Namespace) -> dict[str, str]:
    """What no exact step of split pairs can beat: plain torch's passes alone, of each micro-batch but one without a gradient, and of all with one."""
    model = towers()
    losses = _losses(towers, size, micro_batch_size)
    with_gradient, one_pass = plain(model, *losses), plain(copy.deepcopy(model), *_losses(towers, size, size))

    def fewest() -> float:
        began = time.perf_counter()
        with torch.no_grad():
            for loss in losses[1:]:
                loss(model)
        return time.perf_counter() - began + with_gradient()

    return _row(f"{NAMES[towers]}: the fewest exact passes, plain torch, {size:,} in micro-batches of {micro_batch_size}",
                {"ours": fewest, "plain": one_pass}, given, "")  # fmt: skip


def _memory(size: int, small: int, micro_batch_size: int) -> dict[str, str]:
    many, few = (peak_bytes(ours(Contrastive(), Convolutions(), _pairs_of(Convolutions, number), micro_batch_size)) for number in (size, small))
    return {
        "measured": f"memory, {size:,} pairs against {small} in micro-batches of {micro_batch_size}",
        "ours": f"{many / 2**20:.1f} MiB",
        "other side": f"{few / 2**20:.1f} MiB",
        "ratio": f"{many / few:.3f}",
        "target": "at most 1.3",
    }


def _row(name: str, sides: dict[str, Callable[[], float]], given: argparse.Namespace, target: str) -> dict[str, str]:
    for side in sides.values():
        side()
    seconds = in_turn({name: partial(side) for name, side in sides.items()}, given.repetitions)
    return {
        "measured": f"speed: {name}",
        "ours": f"{median(seconds['ours']):.3f} s",
        "other side": f"{median(seconds['plain']):.3f} s",
        "ratio": spread(ratios(seconds["plain"], seconds["ours"])),
        "target": target,
    }


def main() -> None:
    given = parser(__doc__, repetitions=20).parse_args()
    table = [_language_model(sequences, given) for sequences in (16, 32)]
    for towers in (RecipeTowers, Convolutions):
        table += [_pairs(towers, *sizes, given) for sizes in ((256, 256, 256), (1024, 64, 1024), (256, 64, 256), (256, 32, 256), (256, 32, 32))]
        table += [_fewest_passes(towers, 256, micro_batch_size, given) for micro_batch_size in (64, 32)]
    table += [_memory(1024, 64, 32)]
    notes = [
        "Speed: *ours*: weigh, read, backward, gradient norm, AdamW; *other side*: one pass of the whole batch in plain torch and its fused AdamW. "
        "Against losses of these: plain torch adds up the gradients of a loss of each micro-batch alone: the same passes, but another loss.",
        "The language model is `transformer` with width 128 and 4 blocks. Recipe's towers: clip-tiny's, on 32 x 32 images and 8 words; "
        "convolutions: two in each tower, both on 32 x 32 images.",
        "256 pairs in one micro-batch take one pass; of k micro-batches all but the first are embedded twice. The fewest exact passes: of all but "
        "one micro-batch without a gradient, then of all with one; without the comparison of all samples, weights, gradient norm.",
        "Memory: the most that torch allocates within one step, by its profiler: a micro-batch's activations, embeddings, a block of similarities.",
    ]
    publish("Tasks: what exact batches cost", table, notes, given)


if __name__ == "__main__":
    main()
