"""How much of the machine's speed the engine reaches, on Keskar's F1 and MNIST.

ours    the product's own loop: samples in the plan's order, every optimizer step measured and in the journal
limit   the same model, batch-norm span, micro-batches and optimizer on one ready batch again and again, in plain torch
loader  the usual loop: torchvision's MNIST, ToTensor, Normalize and a DataLoader with two processes; same model and optimizer
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from jobs.data.batches import Batches
from jobs.engine.clock import Clock
from jobs.engine.loop import train
from jobs.engine.state import TrainState
from jobs.job import Prepared, training_batches
from jobs.optim.table import build_optimizer, set_learning_rate
from jobs.records import Record
from jobs.spec import TrainSpec
from jobs.tracking.journal import Journal

LEARNING_RATE = 0.001
WINDOW_SAMPLES = 2**15
"""Samples per measurement; at most as many steps as `MOST_STEPS`."""
MOST_STEPS = 150
LOADER_PROCESSES = 2


def _spec(global_batch_size: int) -> TrainSpec:
    return TrainSpec.model_validate(
        {
            "name": "throughput",
            "dataset": {"name": "mnist"},
            "model": {"name": "keskar-f1"},
            "batch": {"global_batch_size": global_batch_size},
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
        model = copy.deepcopy(self.job.model)
        self._state = TrainState(
            model, model, build_optimizer(model, self.job.spec.optimizer), Clock(self.job.device), self.job.plan.micro_batch_size
        )
        self._batches: Batches = training_batches(self.job)

    def write(self, record: Record) -> None:
        """The loop's tracker: the journal alone."""
        self.journal.write(record)

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
    """A loop in plain torch: same model, same optimizer, batches from anywhere, split as the plan would."""

    job: Prepared
    learning_rate: float

    def __post_init__(self) -> None:
        self._model = copy.deepcopy(self.job.model)
        self._optimizer = build_optimizer(self._model, self.job.spec.optimizer)
        set_learning_rate(self._optimizer, self.learning_rate)

    def step(self, micro_batches: list[tuple[Tensor, Tensor]]) -> None:
        """One update on one global batch."""
        num_samples = sum(len(labels) for _, labels in micro_batches)
        self._optimizer.zero_grad(set_to_none=True)
        for inputs, labels in micro_batches:
            loss = functional.cross_entropy(self._model(inputs), labels, reduction="sum") / num_samples
            loss.backward()
        self._optimizer.step()


def _never() -> object:
    raise AssertionError("the window holds no evaluation")


def _limit(job: Prepared) -> Callable[[int], None]:
    """Steps on one ready batch, with the micro-batches that ours has at the same step number."""
    # Rate 0: the arithmetic is the same, and a batch learnt by heart would end in vanishing, slower numbers.
    plain, batches, plan = Plain(job, learning_rate=0.0), training_batches(job), job.plan
    first = plan.next_batch(plan_start())
    ready = {pieces: [batches.read(piece) for piece in plan.split(first, plan.micro_batch_size, pieces)] for pieces in (1, 2)}
    done = 0

    def run(num_steps: int) -> None:
        nonlocal done
        for _ in range(num_steps):
            done += 1
            plain.step(ready[2 if plan.measures_noise_at(done) else 1])

    return run


def plan_start() -> "object":
    raise NotImplementedError
