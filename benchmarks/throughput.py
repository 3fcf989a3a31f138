"""How much of the machine's speed the engine reaches, on Keskar's F1 and MNIST.

ours    the product's own loop: samples in the plan's order, every optimizer step measured and in the journal
limit   the same model, batch-norm span and micro-batches on one ready batch again and again, in plain torch with torch's AdamW
loader  the usual loop: torchvision's MNIST, ToTensor, Normalize and a DataLoader with two processes; same model, torch's AdamW
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from _report import in_turn, parser, publish, ratios, spread
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader

from largebatch.jobs.data.batches import Batches
from largebatch.jobs.engine.evaluation.evaluate import Scores
from largebatch.jobs.engine.loop import train
from largebatch.jobs.job import prepare
from largebatch.jobs.optim.parameter_groups import build_optimizer, set_learning_rate
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.preparing.batches import training_batches
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.run.journal import Journal
from largebatch.jobs.run.records import Record
from largebatch.jobs.spec.train_spec import TrainSpec

LEARNING_RATE = 0.001
LOADER_PROCESSES = 2
BLOCK = 8192
"""Samples; about half a second. A noisy machine slows both sides of a pair of short blocks alike, not those of a pair of epochs."""


def spec_of(global_batch_size: int) -> TrainSpec:
    return TrainSpec.model_validate(
        {
            "name": "throughput",
            "dataset": {"name": "mnist"},
            "model": {"name": "keskar-f1"},
            "batch": {"global_batch_size": global_batch_size, "last": "drop"},
            "optimizer": {"name": "adamw"},
            "learning_rate": {"base": LEARNING_RATE},
            "stop": {"epochs": 10_000},
            "evaluation": {"every_epochs": 10_000},
            "checkpoint": {"every_seconds": None},
        }
    )


@dataclass
class Ours:
    """The product's loop, some steps at a time."""

    job: Prepared
    journal: Journal

    def __post_init__(self) -> None:
        self._state = new_state(replace(self.job, model=copy.deepcopy(self.job.model)))
        self._batches: Batches = training_batches(self.job)

    def write(self, record: Record) -> None:
        """The loop's tracker: the journal alone."""
        self.journal.write(record)

    def notice(self, text: str) -> None:
        """Nobody listens."""

    def run(self, num_steps: int) -> None:
        """Go on for so many steps."""
        last = self._state.progress.step + num_steps
        train(
            self._state,
            self.job.plan,
            self._batches,
            evaluate=_never,
            tracker=self,
            save=lambda is_best: None,
            should_stop=lambda: self._state.progress.step >= last,
        )


@dataclass
class Plain:
    """A loop in plain torch: same model, batches from anywhere, split as the plan would; torch's AdamW, or ours (the same arithmetic)."""

    job: Prepared
    learning_rate: float
    has_our_optimizer: bool = False

    def __post_init__(self) -> None:
        self._model = copy.deepcopy(self.job.model)
        spec = self.job.spec.optimizer
        self._optimizer: Optimizer = AdamW(self._model.parameters(), betas=(spec.beta1, spec.beta2), weight_decay=spec.weight_decay, fused=True)
        if self.has_our_optimizer:
            self._optimizer = build_optimizer(self._model, spec)
        set_learning_rate(self._optimizer, self.learning_rate)

    def step(self, micro_batches: list[tuple[Tensor, Tensor]]) -> None:
        """One update on one global batch."""
        num_samples = sum(len(labels) for _, labels in micro_batches)
        self._optimizer.zero_grad(set_to_none=True)
        for inputs, labels in micro_batches:
            loss = functional.cross_entropy(self._model(inputs), labels, reduction="sum") / num_samples
            loss.backward()
        self._optimizer.step()


def _never() -> Scores:
    raise AssertionError("the window holds no evaluation")


def _limit(job: Prepared, has_our_optimizer: bool = False) -> Callable[[int], None]:
    """Steps on one ready batch, with the micro-batches that ours has at the same step number."""
    # Rate 0: the arithmetic is the same, and a batch learnt by heart would end in vanishing, slower numbers.
    plain, batches, plan = Plain(job, 0.0, has_our_optimizer), training_batches(job), job.plan
    batch = plan.next_batch(Position(0, 0))
    ready = {pieces: [batches.read(piece) for piece in batch.split(plan.micro_batch_size, plan.unit, pieces)] for pieces in (1, 2)}
    done = 0

    def run(num_steps: int) -> None:
        nonlocal done
        for _ in range(num_steps):
            done += 1
            plain.step(ready[2 if plan.step_at(Position(0, 0, step=done - 1)).measures_noise else 1])

    return run


def _loader(job: Prepared, data_dir: Path) -> Callable[[], None]:
    """An epoch of the usual loop, the start of its reading processes included."""
    from torchvision import transforms
    from torchvision.datasets import MNIST

    plain = Plain(job, LEARNING_RATE)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(job.dataset.mean, job.dataset.std)])
    samples = MNIST(str(data_dir), train=True, transform=transform)
    loader = DataLoader(samples, job.plan.global_batch_size, shuffle=True, drop_last=True, num_workers=LOADER_PROCESSES)

    def run() -> None:
        for batch in loader:
            plain.step([batch])

    return run


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _row(global_batch_size: int, data_dir: Path, given: argparse.Namespace) -> dict[str, str]:
    """One batch size: many short blocks of ours and the limit in turn, then epochs of ours and the loader."""
    job = prepare(spec_of(global_batch_size), torch.device("cpu"), data_dir)
    steps_in_block, steps_in_epoch = max(BLOCK // global_batch_size, 1), len(job.dataset.train) // global_batch_size
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
        ours, loader = Ours(job, journal), _loader(job, data_dir)
        sides = {"ours": ours.run, "limit": _limit(job), "limit with our AdamW": _limit(job, has_our_optimizer=True)}
        for run in sides.values():
            run(steps_in_block)
        blocks = in_turn({name: partial(_seconds, partial(run, steps_in_block)) for name, run in sides.items()}, given.blocks)
        epochs = in_turn({"ours": lambda: _seconds(lambda: ours.run(steps_in_epoch)), "loader": lambda: _seconds(loader)}, given.repetitions)
    return {
        "global batch": f"{global_batch_size:,}",
        "ours, samples/s": f"{steps_in_block * global_batch_size / median(blocks['ours']):,.0f}",
        "ours / limit": f"{sum(blocks['limit']) / sum(blocks['ours']):.3f}",
        "pair by pair": spread(ratios(blocks["limit"], blocks["ours"])),
        "target": "0.90" if global_batch_size < 256 else "0.95",
        "with our AdamW": f"{sum(blocks['limit with our AdamW']) / sum(blocks['ours']):.3f}",
        "ours / loader": spread(ratios(epochs["loader"], epochs["ours"]), ".2f"),
        "target ": "2.3",
    }


def main() -> None:
    arguments = parser(__doc__, repetitions=5)
    arguments.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024, 8192], help="global batch sizes")
    arguments.add_argument("--blocks", type=int, default=40, help="blocks of each side against the limit (default 40)")
    arguments.add_argument("--data-dir", type=Path, default=Path("data"))
    given = arguments.parse_args()
    rows = [_row(batch, given.data_dir, given) for batch in given.batches]
    notes = [
        "*ours*: the whole training loop with order, selection, normalisation, gradient norm, noise scale every thirtieth step and journal;"
        " wall seconds, a ratio above 1 means ours is faster.",
        f"*limit*: plain torch on one ready batch, split into the same micro-batches, torch's fused AdamW, learning rate 0; {given.blocks} blocks of"
        f" {BLOCK:,} samples a side. *With our AdamW*: that limit with our optimizer.",
        f"*loader*: torchvision's MNIST, ToTensor, Normalize, DataLoader with {LOADER_PROCESSES} processes that start with every epoch;"
        " one epoch is one measurement.",
        "All: Keskar's F1 (784, five times 512 with batch-norm, 10), ghost batch-norm as in the plan, float32.",
    ]
    publish("Throughput: F1 on MNIST", rows, notes, given)


if __name__ == "__main__":
    main()
