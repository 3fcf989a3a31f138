"""One optimizer step, in the order of the mathematics.

    accumulate -> measure -> agree that all is finite -> set the learning rate -> clip -> update -> advance

Losses are summed over samples and divided once by the step's own number of samples, so k micro-batches, even
or uneven, give the gradient of the one batch. The device is asked for numbers once per step.
"""

import gc
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from jobs.data.batches import Batches
from jobs.data.draws import key, seed_draws
from jobs.engine.noise_scale import estimate
from jobs.engine.state import TrainState
from jobs.errors import DivergedError, FaultError
from jobs.optim.table import set_learning_rate
from jobs.plan import Slice, TrainPlan
from jobs.records import StepRecord
from jobs.scaling_rules import adascale_gain
from jobs.spec import TrainSpec


class Measured(NamedTuple):
    """What one accumulated gradient tells; numbers on the host."""

    loss: float
    squared_norm: float
    """|G_B|^2 of the whole batch's mean gradient."""
    mean_squared_norm: float | None
    """Micro-batches' squared gradient norms, weighted by samples; None if there was but one."""
    num_micro_batches: int


def optimizer_step(state: TrainState, plan: TrainPlan, batches: Batches, notify: Callable[[str], None]) -> StepRecord:
    """Train on the next global batch.

    The record's training seconds are those before this step; the loop fills in the clock's.

    Args: notify: told in words when memory ran out and the micro-batch was halved.
    Raises: DivergedError before anything is updated; FaultError when not even the smallest micro-batch fits.
    """
    progress = state.progress
    batch = plan.next_batch(progress.position)
    step = progress.step + 1
    measured = _finite_gradient(state, plan, batches, batch, plan.measures_noise_at(step), notify)
    trace, norm_squared = None, None
    if measured.mean_squared_norm is not None:
        trace, norm_squared = estimate(measured.mean_squared_norm, measured.squared_norm, batch.size, measured.num_micro_batches)
        state.noise.add(trace, norm_squared)
    gain = _gain(state, plan, trace, norm_squared)
    advance = gain * plan.base_global_batch_size if gain is not None else float(batch.size)
    learning_rate = plan.learning_rate(progress.schedule_samples + advance / 2) * (gain or 1.0)
    set_learning_rate(state.optimizer, learning_rate)
    if plan.spec.gradient.clip_norm is not None:
        _clip(state.model, math.sqrt(measured.squared_norm), plan.spec.gradient.clip_norm)
    state.optimizer.step()
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
        training_seconds=state.clock.training_s,
    )


def accumulate(state: TrainState, plan: TrainPlan, batches: Batches, micro_batches: list[Slice]) -> Measured:
    """Leave the mean gradient over all samples of `micro_batches` in `.grad`, and measure it.

    Each micro-batch's gradient arrives in a fresh `.grad` and is added up beside it: no more arithmetic than
    autograd's own adding, and its norm can be taken on the way.
    """
    params = [param for param in state.model.parameters() if param.requires_grad]
    num_samples = sum(micro_batch.size for micro_batch in micro_batches)
    total: list[Tensor | None] = [None] * len(params)
    loss_sum = torch.zeros((), device=params[0].device)
    squared_norms = []
    for micro_batch in micro_batches:
        for param in params:
            param.grad = None
        inputs, labels = batches.read(micro_batch)
        # Dropout's draws belong to the samples' place, not to how many draws came before (reading makes some).
        seed_draws(key(plan.spec.seed, "dropout", micro_batch.epoch, micro_batch.start), params[0].device)
        loss = batch_loss(state.forward, plan.spec, inputs, labels)
        (loss / num_samples).backward()  # type: ignore[no-untyped-call]
        loss_sum += loss.detach()
        if len(micro_batches) > 1:
            # |g_i|^2 b_i / B, where .grad holds g_i b_i / B.
            squared_norms.append(squared_norm(params) * (num_samples / micro_batch.size))
        total = _added(total, [param.grad for param in params])
    for param, gradient in zip(params, total, strict=True):
        param.grad = gradient
    numbers = [loss_sum / num_samples, squared_norm(params)]
    if squared_norms:
        numbers.append(torch.stack(squared_norms).sum())
    loss_mean, norm, *mean_norm = torch.stack([number.to(torch.float64) for number in numbers]).tolist()
    return Measured(loss_mean, norm, mean_norm[0] if mean_norm else None, len(micro_batches))


def batch_loss(forward: Callable[[Tensor], Tensor], spec: TrainSpec, inputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over the samples, in float32 whatever the model computes in."""
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=spec.precision == "bfloat16"):
        logits = forward(inputs)
    return functional.cross_entropy(logits.float(), labels, reduction="sum", label_smoothing=spec.loss.label_smoothing)


def squared_norm(params: list[nn.Parameter]) -> Tensor:
    """Squared L2 norm of all gradients together, 0-d, on the device; float32, or float64 where a gradient is."""
    gradients = [param.grad for param in params if param.grad is not None]
    if all(gradient.device.type == "cpu" and gradient.dtype == torch.float32 for gradient in gradients):
        # Reading the gradients once more costs 5 % of a small step; BLAS reads them at half the cost of a norm.
        flat = [gradient.reshape(-1) for gradient in gradients]
        return torch.stack([torch.dot(gradient, gradient) for gradient in flat]).sum()
    dtype = torch.float64 if any(gradient.dtype == torch.float64 for gradient in gradients) else torch.float32
    return torch.stack(torch._foreach_norm(gradients, 2, dtype=dtype)).square().sum()


def _added(total: list[Tensor | None], gradients: list[Tensor | None]) -> list[Tensor | None]:
    """The running sum; a parameter that some micro-batch did not reach counts as zero there."""
    both = [(t, g) for t, g in zip(total, gradients, strict=True) if t is not None and g is not None]
    if both:
        torch._foreach_add_([t for t, _ in both], [g for _, g in both])
    return [gradient if sum_so_far is None else sum_so_far for sum_so_far, gradient in zip(total, gradients, strict=True)]


def _finite_gradient(
    state: TrainState, plan: TrainPlan, batches: Batches, batch: Slice, measures_noise: bool, notify: Callable[[str], None]
) -> Measured:
    """Accumulate; a step that fails leaves the model's running statistics as they were before it.

    Where memory runs out the micro-batch is halved and the same step repeated from its beginning.
    """
    held = [buffer.clone() for buffer in state.model.buffers()]  # batch-norm's move with every micro-batch
    while True:
        try:
            measured = accumulate(state, plan, batches, plan.split(batch, state.micro_batch_size, 2 if measures_noise else 1))
            break
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not ran_out_of_memory(error):
                raise
        # Outside the handler: the error holds the failed pass's tensors.
        _put_back(state.model, held)
        _halve_micro_batch(state, batch.size, plan.span or 1, notify)
    if not (math.isfinite(measured.loss) and math.isfinite(measured.squared_norm)):
        _put_back(state.model, held)
        raise DivergedError(
            "",
            f"the loss is {measured.loss} and the squared gradient norm {measured.squared_norm} at step {state.progress.step + 1}.",
            "Lower learning_rate.base, lengthen the warm-up, or set gradient.clip_norm.",
        )
    return measured


def _put_back(model: nn.Module, held: list[Tensor]) -> None:
    """Undo what a failed step did to the model."""
    for parameter in model.parameters():
        parameter.grad = None
    for buffer, value in zip(model.buffers(), held, strict=True):
        buffer.copy_(value)


def _halve_micro_batch(state: TrainState, batch_size: int, unit: int, notify: Callable[[str], None]) -> None:
    """Half the micro-batch, in whole batch-norm groups of `unit`. Raises: FaultError if there is no smaller one."""
    now = min(state.micro_batch_size, batch_size)
    smaller = max(now // 2 // unit, 1) * unit
    if smaller >= now:
        raise FaultError(
            "batch.micro_batch_size",
            f"not even {smaller} samples fit into this device's memory.",
            "Use a smaller model, precision bfloat16, or a smaller batch_norm.span.",
        )
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    notify(f"Out of memory at step {state.progress.step + 1}: micro-batch {state.micro_batch_size} -> {smaller}; the step is repeated.")
    state.micro_batch_size = smaller


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error is the allocator's, on an accelerator or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _gain(state: TrainState, plan: TrainPlan, trace: float | None, norm_squared: float | None) -> float | None:
    """AdaScale's gain for this step; None for every other rule."""
    if not plan.scale_ratio:
        return None
    if trace is not None and norm_squared is not None:
        state.gain.add(trace / plan.base_global_batch_size, norm_squared, plan.scale_ratio)
    return adascale_gain(state.gain.variance, state.gain.squared_norm, plan.scale_ratio)


def _clip(model: nn.Module, norm: float, max_norm: float) -> None:
    if norm > max_norm:
        torch._foreach_mul_([param.grad for param in model.parameters() if param.grad is not None], max_norm / norm)
