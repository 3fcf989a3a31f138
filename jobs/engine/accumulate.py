"""The mean gradient of one global batch: read, backward, reduce, agree.

Losses are summed over samples and divided once by the whole step's weight, its number of samples, so k micro-batches,
even or uneven, on one rank or many, give the gradient of the one batch. The device is asked for numbers once per step.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from largebatch.jobs.data.batches import Batches
from largebatch.jobs.data.keyed_random import key, seed_draws
from largebatch.jobs.engine.out_of_memory import ran_out_of_memory
from largebatch.jobs.engine.ranks.all_reduce import GradientSum
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.entry_points import ANYTHING, failed
from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.models.sample_dropout import set_dropout_keys
from largebatch.jobs.plan.step_plan import Slice, StepPlan
from largebatch.jobs.spec.train_spec import TrainSpec


class Measured(NamedTuple):
    """What one accumulated gradient tells; numbers on the host."""

    loss: float
    squared_norm: float
    """|G_B|^2 of the whole batch's mean gradient; of a local step, the mean over ranks of theirs."""
    own_squared_norm: float
    """The same of what is in `.grad`: another number only in a local step."""
    mean_squared_norm: float
    """Squared gradient norms of the pieces, weighted by samples."""
    num_pieces: int
    """Micro-batches of one process, or ranks with samples; with one there is no noise to be seen."""

    @property
    def is_finite(self) -> bool:
        """Whether weights may be moved by it."""
        return math.isfinite(self.loss) and math.isfinite(self.squared_norm)


@dataclass
class Share:
    """What one rank has to tell the others of its share of a step; numbers 0-d, float64, on the device until all are known."""

    micro_batches: list[Slice]
    """Maybe none."""
    loss_sum: Tensor
    squared_norm: Tensor
    has_run_out: bool = False
    error: LargebatchError | None = None
    """What went wrong with its samples, or in the model."""


def accumulate(state: TrainState, spec: TrainSpec, step: StepPlan, batches: Batches) -> Measured | None:
    """Leave the mean gradient over all samples of a step, on all ranks, in `.grad`, and measure it.

    In a local step, the mean is over this rank's share.
    Returns: None if memory ran out on any rank.
    Raises: LargebatchError, the same on every rank, if something is wrong with any rank's samples.
    """
    zero = torch.zeros((), dtype=torch.float64, device=state.ranks.device)
    share = Share(step.micro_batches(state.ranks.rank, state.micro_batch_size), loss_sum=zero, squared_norm=zero)
    total_weight = sum(map(_weight, share.micro_batches)) if step.is_local else _weight(step.samples)
    state.buffers.begin_step()
    with state.all_reduce.step(step, total_weight, len(share.micro_batches)) as gradient_sum:
        try:
            for micro_batch in share.micro_batches:
                inputs, labels = _read(batches, step, micro_batch)
                with gradient_sum.micro_batch(_weight(micro_batch)):
                    share.loss_sum = share.loss_sum + _backward(state, spec, step, micro_batch, inputs, labels, total_weight)
            state.buffers.refuse_changed_settings()
        except ANYTHING as error:
            _note(share, error)
    try:
        if not (share.has_run_out or share.error):
            share.squared_norm = gradient_sum.squared_norm()
    except RuntimeError as error:
        _note(share, error)
    return _agree(state, step, share, gradient_sum)


def _weight(samples: Slice) -> int:
    """What the mean over some samples divides by: each weighs 1."""
    return samples.size


def _note(share: Share, error: BaseException) -> None:
    """Keep what happened for the other ranks, who meet this one in the reduction first. Raises: what is neither lack of memory nor told in words."""
    if ran_out_of_memory(error):
        share.has_run_out = True
    elif isinstance(error, LargebatchError):
        share.error = error
    else:
        raise error


@contextmanager
def _in_words(field: str, step: StepPlan, doing: str) -> Iterator[None]:
    """Turn what a person's own data set or model raises into an error in words; lack of memory stays what it is."""
    try:
        yield
    except ANYTHING as error:
        if ran_out_of_memory(error):
            raise
        raise failed(field, error, f"at step {step.number}, {doing}") from error


def _read(batches: Batches, step: StepPlan, micro_batch: Slice) -> tuple[Tensor, Tensor]:
    with _in_words("dataset", step, f"reading {micro_batch.size} samples"):
        return batches.read(micro_batch)


def _backward(state: TrainState, spec: TrainSpec, step: StepPlan, micro_batch: Slice, inputs: Tensor, labels: Tensor, total_weight: float) -> Tensor:
    """Add one micro-batch's part of the mean gradient; returns its summed loss."""
    with _in_words("model", step, f"training on {micro_batch.size} samples"):
        state.buffers.begin_pass(micro_batch.size)
        set_dropout_keys(state.dropouts, spec.seed, micro_batch, inputs.device)
        # What a model draws from torch's generators belongs to the micro-batch, not to how many draws came before (reading makes some).
        seed_draws(key(spec.seed, "dropout", micro_batch.epoch, micro_batch.start), inputs.device)
        loss = batch_loss(state.forward, spec, inputs, labels)
        state.buffers.end_forward()
        (loss / total_weight).backward()  # type: ignore[no-untyped-call]
        return loss.detach().double()


def batch_loss(forward: Callable[[Tensor], Tensor], spec: TrainSpec, inputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over the samples, in float32 whatever the model computes in."""
    with torch.autocast(inputs.device.type, torch.bfloat16) if spec.precision == "bfloat16" else nullcontext():
        logits = forward(inputs)
    return functional.cross_entropy(logits.float(), labels, reduction="sum", label_smoothing=spec.loss.label_smoothing)


def _agree(state: TrainState, step: StepPlan, share: Share, gradient_sum: GradientSum) -> Measured | None:
    """Add up what the ranks have to tell: all learn the same numbers here, before any of them acts on its own."""
    ranks = state.ranks
    own = torch.stack([share.loss_sum, share.squared_norm, gradient_sum.mean_squared_norm])
    if ranks.world_size == 1:
        loss_sum, squared_norm, mean_squared_norm = own.tolist()
        own_squared_norm, num_run_out, num_errors, reached = squared_norm, share.has_run_out, share.error is not None, []
    else:
        troubles = torch.tensor([share.has_run_out, share.error is not None], dtype=torch.float64, device=ranks.device)
        summed = ranks.sum(torch.cat([own, troubles, gradient_sum.reached]))
        _, own_squared_norm, _, loss_sum, squared_norm, mean_squared_norm, num_run_out, num_errors, *reached = torch.cat([own, summed]).tolist()
    if num_errors:
        ranks.raise_first(share.error)
    if num_run_out:
        return None
    gradient_sum.leave_out(reached)
    num_pieces = len(share.micro_batches) if ranks.world_size == 1 else step.num_sharing
    return Measured(loss_sum / _weight(step.samples), squared_norm / ranks.world_size, own_squared_norm, mean_squared_norm, num_pieces)
