"""Evaluation on a whole part of a data set: sums and counts, divided once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from jobs.data.batches import Batches
from jobs.engine.group import Group
from jobs.engine.state import TrainState
from jobs.plan import Slice

EVALUATION_BATCH = 1024


class Score(NamedTuple):
    """Accuracy as a fraction, and mean cross-entropy without label smoothing."""

    accuracy: float
    loss: float


@contextmanager
def evaluation_weights(state: TrainState) -> Iterator[None]:
    """The model in evaluation mode, with averaged weights where the run keeps them."""
    state.model.eval()
    if state.average:
        state.average.swap()
    try:
        yield
    finally:
        if state.average:
            state.average.swap()
        state.model.train()


@torch.no_grad()
def evaluate(state: TrainState, batches: Batches, num_samples: int, bfloat16: bool, on_progress: Callable[[int], Any] = lambda done: None) -> Score:
    """The score on samples 0 ... num_samples - 1, every one once, each rank counting its share.

    Args: on_progress: told how many samples are done.
    """
    share = evaluation_share(num_samples, state.group)
    device = next(state.model.parameters()).device
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
    size = min(max(state.micro_batch_size, 64), EVALUATION_BATCH)
    with evaluation_weights(state):
        for start in range(share.start, share.stop, size):
            inputs, labels = batches.read(Slice(0, start, min(start + size, share.stop)))
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                logits: Tensor = state.model(inputs)
            loss += functional.cross_entropy(logits.float(), labels, reduction="sum")
            correct += (logits.argmax(1) == labels).sum()
            on_progress(min(start + size, share.stop) - share.start)
    num_correct, loss_sum = state.group.sum_numbers(float(correct), float(loss))
    return Score(num_correct / num_samples, loss_sum / num_samples)


def evaluation_share(num_samples: int, group: Group) -> Slice:
    """The samples that this rank evaluates."""
    return Slice(0, num_samples * group.rank // group.world_size, num_samples * (group.rank + 1) // group.world_size)
