"""Passes of evaluation: which samples a rank passes forward, how many at once, with which weights, and what the task makes of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from largebatch.jobs.data.batches import Batches
from largebatch.jobs.engine.gradient.precision import in_precision
from largebatch.jobs.engine.out_of_memory import make_room, ran_out_of_memory
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.engine.state import EVALUATION_BATCH, TrainState
from largebatch.jobs.entry_points import ANYTHING, failed
from largebatch.jobs.errors import FaultError, PlanError
from largebatch.jobs.models.modes import evaluation_mode
from largebatch.jobs.models.snapshot import restored
from largebatch.jobs.samples.sample_draws import EVALUATION
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.tasks.base import Batch, Forward, Task, is_of_task
from largebatch.jobs.tasks.contrastive import CoupledTask, Embeddings
from largebatch.jobs.tasks.nearest_neighbours import Labelled

SMALLEST_FIRST_TRY = 64
"""Samples that evaluation tries at once even where a training step takes fewer: it keeps nothing for a backward pass."""
WEIGHT = "weight of all samples"
"""Beside a task's own sums: what they are divided by."""


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


class Seen(NamedTuple):
    """What some samples give to a task that compares them all."""

    embeddings: Embeddings
    labelled: Labelled | None
    partners: Tensor | None
    """See `CoupledTask.partner_keys`."""


def seen_if_it_fits(state: TrainState, batches: Batches, samples: Slice, precision: str) -> dict[str, Tensor] | Seen | None:
    """A task's sums over some samples, and what they weigh; of a task that couples samples their embeddings; None if memory ran out."""
    task, device = state.task, state.ranks.device
    try:
        batch = task.prepared(batches.read(samples), state.seed, samples._replace(epoch=EVALUATION), device)
        state.buffers.forward_pass.begin(samples.size)
        forward = in_precision(state.model, precision, device)
        if isinstance(task, CoupledTask):
            return Seen(*task.embed_labelled(forward, batch), task.partner_keys(batch))
        return sums_of(task, forward, batch, device)
    except ANYTHING as error:  # a person's own model may raise anything
        if not ran_out_of_memory(error):
            field = "task" if is_of_task(error, task, state.model) else "model"
            raise failed(field, error, f"after step {state.progress.step}, evaluating {samples.size} samples") from error
    return None


def sums_of(task: Task, forward: Forward, batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """A task's sums over a batch, the loss always among them, and what its samples weigh; 0-d, of our own tasks also (n,) for n of a kind.

    Raises: PlanError for what is no single number in a person's own.
    """
    sums = dict(task.metric_sums(forward, batch) or {})
    if "loss" not in sums:
        sums = {**sums, "loss": task.loss_sum(forward, batch)}
    sums[WEIGHT] = task.weight(batch)
    are_ours = type(task).__module__.startswith("largebatch.")
    return {name: _exact(name, value, device, are_ours) for name, value in sums.items()}


def _exact(name: str, value: Tensor | float, device: torch.device, may_be_many: bool = False) -> Tensor:
    """A sum in the widest numbers of its device, so that adding up loses nothing. Raises: PlanError for what is no single number."""
    is_one = isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex())
    if not is_one and not (may_be_many and isinstance(value, Tensor) and value.ndim == 1):
        form = f"{tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        if isinstance(value, Tensor) and value.is_complex():
            form += " of complex numbers"
        raise PlanError("task", f"its sum {name} over a batch is {form}; it must be one number.", "End it with .sum().")
    exact = torch.as_tensor(value, device=device).to(torch.float32 if device.type == "mps" else torch.float64)
    return exact.reshape(()) if is_one else exact


def halve(state: TrainState, size: int, unit: int, notify: Callable[[str], Any]) -> None:
    """Evaluate half as many samples at once from here on. Raises: FaultError if there is no smaller number."""
    if size <= unit + (unit > 1):
        fewest = "one sample" if size == 1 else f"{size} samples, a batch-norm group,"
        raise FaultError("model", f"evaluation runs out of memory even with {fewest} at a time.", "Use a smaller model, or precision bfloat16.")
    make_room()
    notify(f"Out of memory in evaluation: {size} -> {size // 2} samples at once.")
    state.evaluation_batch_size = size // 2


def evaluation_share(num_samples: int, ranks: Ranks, unit: int = 1, of_rank: int | None = None) -> Slice:
    """The samples that this rank evaluates, or another.

    Args: unit: samples that share statistics (`evaluation_unit`); a share is whole groups of them. A last group of a single
        sample, which would have no variance, is part of the group before it.
    """
    number = ranks.rank if of_rank is None else of_rank
    groups = num_samples if unit == 1 else max((num_samples + unit - 2) // unit, 1)
    first, last = (groups * rank // ranks.world_size for rank in (number, number + 1))
    return Slice(0, first * unit, num_samples if last == groups else last * unit)


def whole_groups(share: Slice, start: int, size: int, unit: int) -> Slice:
    """The next `size` samples of a share, more or fewer to make whole groups."""
    stop = min(start + max(size // unit, 1) * unit, share.stop)
    return Slice(0, start, share.stop if unit > 1 and share.stop - stop == 1 else stop)


def samples_at_once(micro_batch_size: int, most: int = EVALUATION_BATCH) -> int:
    """How many samples evaluation passes forward at once, where memory allows."""
    return min(max(micro_batch_size, SMALLEST_FIRST_TRY), most)
