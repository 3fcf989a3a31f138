"""Evaluation on a whole part of a data set: sums and counts, divided once."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from largebatch.jobs.data.batches import Batches
from largebatch.jobs.engine.non_finite import FiniteBatches, non_finite_error
from largebatch.jobs.engine.out_of_memory import make_room, ran_out_of_memory
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.engine.state import EVALUATION_BATCH, TrainState
from largebatch.jobs.entry_points import ANYTHING, failed
from largebatch.jobs.errors import FaultError
from largebatch.jobs.models.modes import evaluation_mode
from largebatch.jobs.models.norms.ghost_batch_norm import evaluation_unit
from largebatch.jobs.models.snapshot import restored
from largebatch.jobs.plan.step_plan import Slice

SMALLEST_FIRST_TRY = 64
"""Samples that evaluation tries at once even where a training step takes fewer: it keeps nothing for a backward pass."""


class Score(NamedTuple):
    """Accuracy as a fraction, and mean cross-entropy without label smoothing."""

    accuracy: float
    loss: float


@contextmanager
def evaluation_weights(state: TrainState) -> Iterator[None]:
    """The model in evaluation mode, with averaged weights where the run keeps them; what its passes do to buffers is undone."""
    with evaluation_mode(state.model):
        if state.average:
            state.average.swap()
        try:
            with restored(state.model, weights=False):
                yield
        finally:
            if state.average:
                state.average.swap()


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
    unit = evaluation_unit(state.model)
    share = evaluation_share(num_samples, state.ranks, unit)
    device = next(state.model.parameters()).device
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)

    def count() -> None:
        nonlocal correct, loss
        start = share.start
        while start < share.stop:
            size = samples_at_once(state.micro_batch_size, state.evaluation_batch_size)
            samples = _whole_groups(share, start, size, unit)
            sums = _sums_if_they_fit(state, batches, samples, bfloat16)
            if sums is None:
                _halve(state, samples.size, unit, notify)
                continue
            correct, loss, start = correct + sums[0], loss + sums[1], samples.stop
            on_progress(start - share.start)

    with evaluation_weights(state):
        state.ranks.agreed(count)
    state.buffers.forward_pass.forget()
    num_correct, loss_sum = state.ranks.sum_numbers(float(correct), float(loss))
    return Score(num_correct / num_samples, loss_sum / num_samples)


def refuse_non_finite_samples(state: TrainState, batches: Batches, num_samples: int, bfloat16: bool) -> None:
    """Raise DataError, the same on every rank, if the loss on test samples is finite but for those that hold NaN or infinity."""
    finite = FiniteBatches(batches)
    if math.isfinite(evaluate(state, finite, num_samples, bfloat16).loss):
        num_read = evaluation_share(num_samples, state.ranks).size
        state.ranks.raise_first(non_finite_error("test", finite.replaced, num_read, "the test loss"))


def _sums_if_they_fit(state: TrainState, batches: Batches, samples: Slice, bfloat16: bool) -> tuple[Tensor, Tensor] | None:
    """(right answers, summed loss) of some samples; None if memory ran out."""
    try:
        inputs, labels = batches.read(samples)
        state.buffers.forward_pass.begin(samples.size)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bfloat16):
            logits: Tensor = state.model(inputs)
        return (logits.argmax(1) == labels).sum(), functional.cross_entropy(logits.float(), labels, reduction="sum")
    except ANYTHING as error:  # a person's own model may raise anything
        if not ran_out_of_memory(error):
            raise failed("model", error, f"after step {state.progress.step}, evaluating {samples.size} samples") from error
    return None


def _halve(state: TrainState, size: int, unit: int, notify: Callable[[str], Any]) -> None:
    """Evaluate half as many samples at once from here on. Raises: FaultError if there is no smaller number."""
    if size <= unit + (unit > 1):
        fewest = "one sample" if size == 1 else f"{size} samples, a batch-norm group,"
        raise FaultError("model", f"evaluation runs out of memory even with {fewest} at a time.", "Use a smaller model, or precision bfloat16.")
    make_room()
    notify(f"Out of memory in evaluation: {size} -> {size // 2} samples at once.")
    state.evaluation_batch_size = size // 2


def evaluation_share(num_samples: int, ranks: Ranks, unit: int = 1) -> Slice:
    """The samples that this rank evaluates.

    Args: unit: samples that share statistics (`evaluation_unit`); a share is whole groups of them. A last group of a single
        sample, which would have no variance, is part of the group before it.
    """
    groups = num_samples if unit == 1 else max((num_samples + unit - 2) // unit, 1)
    first, last = (groups * rank // ranks.world_size for rank in (ranks.rank, ranks.rank + 1))
    return Slice(0, first * unit, num_samples if last == groups else last * unit)


def _whole_groups(share: Slice, start: int, size: int, unit: int) -> Slice:
    """The next `size` samples of a share, more or fewer to make whole groups."""
    stop = min(start + max(size // unit, 1) * unit, share.stop)
    return Slice(0, start, share.stop if unit > 1 and share.stop - stop == 1 else stop)


def samples_at_once(micro_batch_size: int, most: int = EVALUATION_BATCH) -> int:
    """How many samples evaluation passes forward at once, where memory allows."""
    return min(max(micro_batch_size, SMALLEST_FIRST_TRY), most)
