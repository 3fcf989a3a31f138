"""One optimizer step, in the order of the mathematics.

    accumulate -> measure -> agree that all is finite -> set the learning rate -> clip -> update -> advance

Losses are summed over samples and divided once by the step's own number of samples, so k micro-batches, even
or uneven, on one rank or many, give the gradient of the one batch. The device is asked for numbers once per step.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from largebatch.jobs.data.keyed_random import key, sample_order, seed_draws
from largebatch.jobs.data.loaders import Batches
from largebatch.jobs.engine.noise_scale import estimate
from largebatch.jobs.engine.non_finite import FiniteBatches, diverged, non_finite_error, non_finite_gradient
from largebatch.jobs.engine.out_of_memory import make_room, ran_out_of_memory
from largebatch.jobs.engine.scalars import Scalar, on_device, on_host, scalar
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.entry_points import ANYTHING, failed
from largebatch.jobs.errors import FaultError, LargebatchError
from largebatch.jobs.models.sample_dropout import set_dropout_keys
from largebatch.jobs.optim.parameter_groups import set_learning_rate
from largebatch.jobs.plan.scaling_rules import adascale_gain
from largebatch.jobs.plan.train_plan import Slice, TrainPlan
from largebatch.jobs.run.records import StepRecord
from largebatch.jobs.spec.train_spec import TrainSpec


class Measured(NamedTuple):
    """What one accumulated gradient tells; numbers on the host."""

    loss: float
    squared_norm: float
    """|G_B|^2 of the whole batch's mean gradient; where ranks step alone, the mean over ranks of theirs."""
    own_squared_norm: float
    """The same of what is in `.grad`: another number only where ranks step alone."""
    mean_squared_norm: float
    """Squared gradient norms of the pieces, weighted by samples."""
    num_pieces: int
    """Micro-batches of one process, or ranks with samples; with one there is no noise to be seen."""

    @property
    def is_finite(self) -> bool:
        """Whether weights may be moved by it."""
        return math.isfinite(self.loss) and math.isfinite(self.squared_norm)


def optimizer_step(state: TrainState, plan: TrainPlan, batches: Batches, notify: Callable[[str], None]) -> StepRecord:
    """Train on the next global batch.

    Args: notify: told in words when memory ran out and the micro-batch was halved.
    Raises: DivergedError before anything is updated; FaultError when not even the smallest micro-batch fits, or the update does not.
    """
    progress = state.progress
    batch = plan.next_batch(progress.position)
    step = progress.step + 1
    steps_alone = plan.steps_alone_at(batch)
    measures_noise = plan.measures_noise_at(step) and not steps_alone
    measured = _finite_gradient(state, plan, batches, batch, measures_noise, notify)
    trace, norm_squared = None, None
    if measures_noise and measured.num_pieces > 1:
        trace, norm_squared = estimate(measured.mean_squared_norm, measured.squared_norm, batch.size, measured.num_pieces)
        state.noise.add(trace, norm_squared)
    gain = _gain(state, plan, batch, trace, norm_squared)
    advance = gain * plan.base_global_batch_size if gain is not None else float(batch.size)
    learning_rate = plan.learning_rate(progress.schedule_samples + advance / 2) * (gain or 1.0)
    set_learning_rate(state.optimizer, learning_rate)
    if plan.spec.gradient.clip_norm is not None:
        _clip(state.model, math.sqrt(measured.own_squared_norm), plan.spec.gradient.clip_norm)
    _update(state, plan.spec)
    if steps_alone:
        state.local.num_apart += 1
        if state.local.num_apart == plan.spec.reduction.local_steps:
            state.local.synchronise()
    if state.average:
        state.average.update()
    progress.step = step
    progress.epoch, progress.offset = batch.epoch, batch.stop
    progress.samples_seen += batch.size
    progress.schedule_samples += advance
    return StepRecord(
        step=step,
        epoch=batch.epoch + batch.stop / plan.num_train_samples,
        samples_seen=progress.samples_seen,
        global_batch_size=batch.size,
        loss=measured.loss,
        learning_rate=learning_rate,
        gradient_norm=math.sqrt(measured.squared_norm),
        covariance_trace=trace,
        gradient_norm_squared=norm_squared,
        gain=gain,
        schedule_samples=progress.schedule_samples if gain is not None else None,
        training_seconds=state.clock.read_training_s(),
    )


def accumulate(state: TrainState, plan: TrainPlan, batches: Batches, batch: Slice, micro_batches: list[Slice]) -> Measured | None:
    """Leave the mean gradient over all samples of `batch`, on all ranks, in `.grad`, and measure it.

    Where ranks step alone, the mean is over this rank's share.

    Args: micro_batches: this rank's share of the batch, cut up; maybe none.
    Returns: None if memory ran out on any rank.
    Raises: LargebatchError, the same on every rank, if something is wrong with any rank's samples.
    """
    ranks, steps_alone = state.ranks, plan.steps_alone_at(batch)
    gradients = state.local.gradients if steps_alone else state.gradients
    own_samples = sum(micro_batch.size for micro_batch in micro_batches)
    num_samples = own_samples if steps_alone else batch.size
    is_one_process = ranks.world_size == 1
    loss_sum: Scalar = 0.0
    error: LargebatchError | None = None
    ran_out = False
    doing = ("dataset", "")
    gradients.start()
    state.statistics.begin()
    try:
        for micro_batch in micro_batches:
            doing = ("dataset", f"at step {state.progress.step + 1}, reading {micro_batch.size} samples")
            inputs, labels = batches.read(micro_batch)
            doing = ("model", f"at step {state.progress.step + 1}, training on {micro_batch.size} samples")
            if micro_batch is not micro_batches[0]:
                state.begin_pass()
            gradients.before(is_last=micro_batch is micro_batches[-1])
            loss_sum = loss_sum + _backward(state, plan.spec, micro_batch, inputs, labels, num_samples)
            gradients.after(num_samples / micro_batch.size, measures=is_one_process and len(micro_batches) > 1)
        state.statistics.refuse_changed_settings()
    except ANYTHING as raised:  # a person's own model may raise anything
        if ran_out_of_memory(raised):
            ran_out = True
        else:
            error = failed(doing[0], raised, doing[1])
    # Every rank takes part in the reduction, also one that failed: the others wait for it there.
    mean_squared_norm, reached = gradients.finish(num_samples / own_samples if own_samples else 0.0)
    norm: Scalar = 0.0
    try:
        if not (ran_out or error):
            norm = gradients.squared_norm()
    except RuntimeError as found:
        if not ran_out_of_memory(found):
            raise
        ran_out = True
    sums = [loss_sum, norm, mean_squared_norm]
    # All ranks learn the same numbers here, before any of them acts on its own.
    if is_one_process:
        loss, norms, mean_norm = on_host(sums)
        own_norm, num_ran_out, num_errors, reached_by = norms, ran_out, error is not None, []
    else:
        told = torch.tensor([float(ran_out), float(error is not None)], dtype=torch.float64, device=ranks.device)
        summed = ranks.sum(torch.cat([on_device(sums, ranks.device), told, reached]))
        own_norm, loss, norms, mean_norm, num_ran_out, num_errors, *reached_by = torch.cat([on_device([norm], ranks.device), summed]).tolist()
    if num_errors:
        ranks.raise_first(error)
    if num_ran_out:
        return None
    gradients.leave_out(reached_by)
    pieces = len(micro_batches) if is_one_process else plan.num_sharing(batch)
    return Measured(loss / batch.size, norms / ranks.world_size, own_norm, mean_norm, pieces)


def _backward(state: TrainState, spec: TrainSpec, micro_batch: Slice, inputs: Tensor, labels: Tensor, num_samples: int) -> Scalar:
    """Add one micro-batch's part of the mean gradient; returns its summed loss."""
    set_dropout_keys(state.dropouts, spec.seed, micro_batch, inputs.device)
    # What a model draws from torch's generators belongs to the micro-batch, not to how many draws came before (reading makes some).
    seed_draws(key(spec.seed, "dropout", micro_batch.epoch, micro_batch.start), inputs.device)
    state.statistics.forward_pass.begin(micro_batch.size)
    loss = batch_loss(state.forward, spec, inputs, labels)
    state.statistics.forward_pass.end()  # activation checkpointing runs parts again
    (loss / num_samples).backward()  # type: ignore[no-untyped-call]
    return scalar(loss)


def batch_loss(forward: Callable[[Tensor], Tensor], spec: TrainSpec, inputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over the samples, in float32 whatever the model computes in."""
    with torch.autocast(inputs.device.type, torch.bfloat16) if spec.precision == "bfloat16" else nullcontext():
        logits = forward(inputs)
    return functional.cross_entropy(logits.float(), labels, reduction="sum", label_smoothing=spec.loss.label_smoothing)


def _finite_gradient(
    state: TrainState, plan: TrainPlan, batches: Batches, batch: Slice, measures_noise: bool, notify: Callable[[str], None]
) -> Measured:
    """Accumulate; a step that fails leaves the model's running statistics as they were before it.

    Where memory runs out the micro-batch is halved and the same step repeated from its beginning.
    """
    held = state.hold_buffers()  # batch-norm's move with every micro-batch
    share = plan.rank_share(batch, state.ranks.rank)
    at_least = 2 if measures_noise and plan.world_size == 1 else 1
    while (measured := accumulate(state, plan, batches, batch, plan.split(share, state.micro_batch_size, at_least))) is None:
        _put_back(state, held)
        _halve_micro_batch(state, plan.largest_share(batch), plan.span or 1, notify)
    if not measured.is_finite:
        parameter = non_finite_gradient(state.model)
        _put_back(state, held)
        _refuse_non_finite_samples(state, plan, batches, batch, plan.split(share, state.micro_batch_size, at_least))
        raise diverged(state.progress.step + 1, measured.loss, measured.squared_norm, parameter)
    steps_alone = plan.steps_alone_at(batch)
    state.statistics.settle(state.buffers(), held, steps_alone)
    if not steps_alone:
        state.gradients.keep()
    return measured


def _refuse_non_finite_samples(state: TrainState, plan: TrainPlan, batches: Batches, batch: Slice, micro_batches: list[Slice]) -> None:
    """Raise DataError, the same on every rank, if the step is finite but for samples that hold NaN, infinity or huge numbers."""
    held = state.hold_buffers()
    finite = FiniteBatches(batches)
    measured = accumulate(state, plan, finite, batch, micro_batches)
    _put_back(state, held)
    if measured is not None and measured.is_finite:
        order = sample_order(plan.spec.seed, batch.epoch, plan.num_train_samples)
        sizes = {int(order[place]): size for place, size in finite.replaced.items()}
        num_samples = sum(piece.size for piece in micro_batches)
        state.ranks.raise_first(non_finite_error("training", sizes, num_samples, f"the loss of step {state.progress.step + 1}"))


def _put_back(state: TrainState, held: list[Tensor]) -> None:
    """Undo what a failed step did to the model."""
    for parameter in state.model.parameters():
        parameter.grad = None
    for buffer, value in zip(state.buffers(), held, strict=True):
        buffer.copy_(value)


def _halve_micro_batch(state: TrainState, batch_size: int, unit: int, notify: Callable[[str], None]) -> None:
    """Half the micro-batch, in whole batch-norm groups of `unit`. Raises: FaultError if there is no smaller one, or none may be."""
    now = min(state.micro_batch_size, batch_size)
    if state.by_samples:
        raise FaultError(
            "batch.global_batch_size",
            f"{now} samples do not fit into this device's memory, and a step cannot be split: what becomes of {state.by_samples[0]} depends on that.",
            "Use a smaller batch, or a model that its forward pass does not change.",
        )
    smaller = max(now // 2 // unit, 1) * unit
    if smaller >= now:
        raise FaultError(
            "batch.micro_batch_size",
            f"not even {smaller} samples fit into this device's memory.",
            "Use a smaller model, precision bfloat16, or a smaller batch_norm.span.",
        )
    make_room()
    notify(f"Out of memory at step {state.progress.step + 1}: micro-batch {state.micro_batch_size} -> {smaller}; the step is repeated.")
    state.micro_batch_size = smaller


def _update(state: TrainState, spec: TrainSpec) -> None:
    """Move the weights. Raises: FaultError where memory runs out: what the update holds does not depend on the micro-batch."""
    try:
        state.optimizer.step()
    except RuntimeError as error:
        if not ran_out_of_memory(error):
            raise
        raise FaultError(
            "optimizer",
            f"{spec.optimizer.name}'s update at step {state.progress.step + 1} does not fit into this device's memory beside weights and gradients;"
            " a smaller micro-batch would not help.",
            "Use a smaller model, or an optimizer that keeps less, such as sgd.",
        ) from error


def _gain(state: TrainState, plan: TrainPlan, batch: Slice, trace: float | None, norm_squared: float | None) -> float | None:
    """AdaScale's gain for this step; None for every other rule.

    A short last batch is as many base batches as its own samples make, no more.
    """
    if not plan.scale_ratio:
        return None
    if trace is not None and norm_squared is not None:
        state.gain.add(trace / plan.base_global_batch_size, norm_squared, plan.scale_ratio)
    return adascale_gain(state.gain.variance, state.gain.squared_norm, batch.size / plan.base_global_batch_size)


def _clip(model: nn.Module, norm: float, max_norm: float) -> None:
    if norm > max_norm:
        torch._foreach_mul_([param.grad for param in model.parameters() if param.grad is not None], max_norm / norm)
