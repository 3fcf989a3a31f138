"""One optimizer step, in the order of the mathematics.

    accumulate and reduce -> measure -> set the learning rate and what follows the samples -> clip -> update

The rate comes after the measurement, for AdaScale's follows from it; under every other rule it is the plan's.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from largebatch.jobs.data.batches import Batches
from largebatch.jobs.engine.gradient.accumulate import Measured, accumulate
from largebatch.jobs.engine.noise_scale import estimate, estimate_by_samples, estimate_in_dual_norm
from largebatch.jobs.engine.non_finite import FiniteBatches, diverged, non_finite_error, non_finite_gradient
from largebatch.jobs.engine.out_of_memory import ran_out_of_memory, smaller_micro_batch
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.entry_points import ANYTHING, failed
from largebatch.jobs.errors import FaultError
from largebatch.jobs.optim.config_base import OptimizerConfig
from largebatch.jobs.optim.configs.own import OwnOptimizerConfig
from largebatch.jobs.optim.parameter_groups import set_in_all_groups, set_learning_rate, set_options
from largebatch.jobs.plan.learning_rate import adascale_gain
from largebatch.jobs.plan.step_plan import StepPlan
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.run.records import StepRecord
from largebatch.jobs.samples.keyed_random import sample_order


def optimizer_step(state: TrainState, plan: TrainPlan, step: StepPlan, batches: Batches, notify: Callable[[str], None]) -> StepRecord:
    """Train on one global batch.

    Args:
        step: the plan's, at the state's position.
        notify: told in words when memory ran out and the micro-batch was halved.
    Raises: DivergedError before anything is updated; FaultError when not even the smallest micro-batch fits, or the update does not.
    """
    measured = finite_gradient(state, plan, step, batches, notify)
    trace, norm_squared = None, None
    if step.measures_noise and measured.num_pieces > 1:
        trace, norm_squared = estimate(measured.mean_squared_norm, measured.squared_norm, step.samples.size, measured.num_pieces)
        state.noise.add(trace, norm_squared)
    of_norms = estimate_by_samples(measured.norms, step.samples.size) if measured.norms else None
    if of_norms:
        state.noise.add(*of_norms)
    in_dual_norm = estimate_in_dual_norm(*measured.dual_norms, step.samples.size) if measured.dual_norms else None
    if in_dual_norm:
        state.dual_noise.add(*in_dual_norm)
    if plan.scale_ratio:
        step = plan.with_gain(step, _gain(state, plan, step, trace, norm_squared))
    set_learning_rate(state.optimizer, step.learning_rate)
    set_in_all_groups(state.optimizer, step.options_by_progress)
    set_options(state.optimizer, step.options)
    _clip(state.model, math.sqrt(measured.own_squared_norm), plan.spec.gradient.clip_norm)
    with _errors_in_words(plan.spec.optimizer, step):
        state.optimizer.step()
    if step.is_local:
        state.local_sgd.count_step(plan.spec.reduction.local_steps)
    if state.average:
        state.average.update(step.average_power)
    end = step.end
    state.progress.go_to(end)
    return StepRecord(
        step=step.number,
        epoch=step.samples.epoch + step.samples.stop / plan.num_train_samples,
        samples_seen=end.samples_seen,
        tokens_seen=step.tokens_seen,
        global_batch_size=step.samples.size,
        loss=measured.loss,
        learning_rate=step.learning_rate,
        gradient_norm=math.sqrt(measured.squared_norm),
        covariance_trace=trace,
        gradient_norm_squared=norm_squared,
        norms_covariance_trace=of_norms and of_norms[0],
        norms_gradient_norm_squared=of_norms and of_norms[1],
        dual_variance=in_dual_norm and in_dual_norm[0],
        dual_norm_squared=in_dual_norm and in_dual_norm[1],
        gain=step.gain,
        schedule_samples=None if step.gain is None else end.schedule_samples,
        training_seconds=state.clock.read_training_s(),
    )


def finite_gradient(state: TrainState, plan: TrainPlan, step: StepPlan, batches: Batches, notify: Callable[[str], None]) -> Measured:
    """Accumulate, and repeat the same step with half the micro-batch where memory runs out.

    A step that fails leaves the model's buffers as they were before it.
    """
    while (measured := accumulate(state, plan.spec, step, batches)) is None:
        _put_back(state)
        smaller = smaller_micro_batch(state.micro_batch_size, step, state.by_samples)
        notify(f"Out of memory at step {step.number}: micro-batch {state.micro_batch_size} -> {smaller}; the step is repeated.")
        state.micro_batch_size = smaller
    if not measured.is_finite:
        parameter = non_finite_gradient(state.model)
        _put_back(state)
        _refuse_non_finite_samples(state, plan, step, batches)
        raise diverged(step.number, measured.loss, measured.squared_norm, parameter)
    state.buffers.settle(step.is_local)
    return measured


def _put_back(state: TrainState) -> None:
    """Undo what a failed step did to the model."""
    for parameter in state.model.parameters():
        parameter.grad = None
    state.buffers.put_back()


def _refuse_non_finite_samples(state: TrainState, plan: TrainPlan, step: StepPlan, batches: Batches) -> None:
    """Raise DataError, the same on every rank, if the step is finite but for samples that hold NaN, infinity or huge numbers."""
    finite = FiniteBatches(batches)
    measured = accumulate(state, plan.spec, step, finite)
    _put_back(state)
    if measured is not None and measured.is_finite:
        order = sample_order(plan.spec.seed, step.samples.epoch, plan.num_train_samples)
        sizes = {int(order[index]): size for index, size in finite.replaced.items()}
        num_samples = step.share(state.ranks.rank).size
        state.ranks.raise_first(non_finite_error("training", sizes, num_samples, f"the loss of step {step.number}"))


def _gain(state: TrainState, plan: TrainPlan, step: StepPlan, trace: float | None, norm_squared: float | None) -> float:
    """AdaScale's gain. A short last batch is as many base batches as its own samples make, no more."""
    if trace is not None and norm_squared is not None:
        state.gain.add(trace / plan.base_global_batch_size, norm_squared, plan.scale_ratio)
    return adascale_gain(state.gain.variance, state.gain.squared_norm, step.samples.size / plan.base_global_batch_size)


def _clip(model: nn.Module, norm: float, max_norm: float | None) -> None:
    if max_norm is not None and norm > max_norm:
        for param in model.parameters():
            if param.grad is not None:
                param.grad.mul_(max_norm / norm)


@contextmanager
def _errors_in_words(optimizer: OptimizerConfig, step: StepPlan) -> Iterator[None]:
    """Raise FaultError where memory runs out, for what an update holds does not depend on the micro-batch; CodeError for a person's own optimizer."""
    try:
        yield
    except ANYTHING as error:
        if not ran_out_of_memory(error):
            if isinstance(optimizer, OwnOptimizerConfig):
                raise failed("optimizer.entry_point", error, f"at step {step.number}, updating the weights") from error
            raise
        raise FaultError(
            "optimizer",
            f"{optimizer.label}'s update at step {step.number} does not fit into this device's memory beside weights and gradients;"
            " a smaller micro-batch would not help.",
            "Use a smaller model, or an optimizer that keeps less, such as sgd.",
        ) from error
