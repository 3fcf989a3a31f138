"""Evaluation on a whole part of a data set: sums and counts, divided once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from jobs.data.batches import Batches
from jobs.engine.group import Group
from jobs.engine.memory import make_room, ran_out_of_memory
from jobs.engine.state import TrainState
from jobs.errors import FaultError
from jobs.plan import Slice

SMALLEST_FIRST_TRY = 64
"""Samples that evaluation tries at once even where a training step takes fewer: it keeps nothing for a backward pass."""


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
def evaluate(
    state: TrainState,
    batches: Batches,
    num_samples: int,
    bfloat16: bool,
    on_progress: Callable[[int], Any] = lambda done: None,
    notify: Callable[[str], Any] = lambda text: None,
) -> Score:
    """The score on samples 0 ... num_samples - 1, every one once, each rank counting its share.

    Args:
        on_progress: told how many samples are done.
        notify: told in words when memory ran out and fewer samples are passed forward at once.
    Raises: LargebatchError, the same on every rank, for a sample that cannot be read or where not even one fits.
    """
    share = evaluation_share(num_samples, state.group)
    device = next(state.model.parameters()).device
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)

    def count() -> None:
        nonlocal correct, loss
        start = share.start
        while start < share.stop:
            size = min(max(state.micro_batch_size, SMALLEST_FIRST_TRY), state.evaluation_batch_size)
            samples = Slice(0, start, min(start + size, share.stop))
            found = _score_if_it_fits(state, batches, samples, bfloat16)
            if found is None:
                _halve(state, samples.size, notify)
                continue
            correct, loss, start = correct + found[0], loss + found[1], samples.stop
            on_progress(start - share.start)

    with evaluation_weights(state):
        state.group.agreed(count)
    num_correct, loss_sum = state.group.sum_numbers(float(correct), float(loss))
    return Score(num_correct / num_samples, loss_sum / num_samples)


def _score_if_it_fits(state: TrainState, batches: Batches, samples: Slice, bfloat16: bool) -> tuple[Tensor, Tensor] | None:
    """(right answers, summed loss) of some samples; None if memory ran out."""
    try:
        inputs, labels = batches.read(samples)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bfloat16):
            logits: Tensor = state.model(inputs)
        return (logits.argmax(1) == labels).sum(), functional.cross_entropy(logits.float(), labels, reduction="sum")
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not ran_out_of_memory(error):
            raise
    return None


def _halve(state: TrainState, now: int, notify: Callable[[str], Any]) -> None:
    """Evaluate half as many samples at once from here on. Raises: FaultError if there is no smaller number."""
    if now == 1:
        raise FaultError("model", "evaluation runs out of memory even with one sample at a time.", "Use a smaller model, or precision bfloat16.")
    make_room()
    notify(f"Out of memory in evaluation: {now} -> {now // 2} samples at once.")
    state.evaluation_batch_size = now // 2


def evaluation_share(num_samples: int, group: Group) -> Slice:
    """The samples that this rank evaluates."""
    return Slice(0, num_samples * group.rank // group.world_size, num_samples * (group.rank + 1) // group.world_size)
