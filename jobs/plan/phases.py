"""The phases of a run whose batch changes: each batch with its steps, rates and micro-batches, and the steps that growing saves."""

import math
from typing import NamedTuple

from largebatch.jobs.plan.train_plan import TrainPlan


class Phase(NamedTuple):
    """Steps of one batch, one after the other, or all those of a batch warm-up; a step that an epoch's end cuts short belongs to its phase."""

    epoch: float
    """Where it begins."""
    first_batch_size: int
    """In force at its first step."""
    global_batch_size: int
    """In force at its last step."""
    num_steps: int
    num_samples: int
    first_learning_rate: float
    last_learning_rate: float
    """Of its last step."""
    last_step_samples: int
    """Of its last step, which an epoch's end may cut short."""
    num_micro_batches: int
    """Of a full step, on the rank with most of it."""


class Phases(NamedTuple):
    """All of a run."""

    phases: list[Phase]
    num_steps: int
    num_constant_steps: int
    """Of the same samples at global_batch_size throughout."""


def phases_of(plan: TrainPlan) -> Phases:
    """Walks through the whole budget."""
    made: list[Phase] = []
    samples_seen, is_warm_up = 0, False
    warmup = plan.spec.batch.schedule.warmup
    for batch in plan.batches():
        epoch = batch.epoch + batch.start / plan.num_train_samples
        in_force = plan.batch_size_at_epoch(epoch)
        rate = plan.learning_rate(samples_seen + batch.size / 2) * plan.rate_factor(batch)
        before, is_warm_up = is_warm_up, warmup is not None and epoch < warmup.epochs
        samples_seen += batch.size
        if made and (before == is_warm_up and (is_warm_up or made[-1].global_batch_size == in_force)):
            last = made[-1]
            made[-1] = last._replace(global_batch_size=in_force, num_steps=last.num_steps + 1, num_samples=last.num_samples + batch.size,
                                     last_learning_rate=rate, last_step_samples=batch.size)  # fmt: skip
        else:
            made.append(Phase(epoch, in_force, in_force, 1, batch.size, rate, rate, batch.size, 0))
    phases = [phase._replace(num_micro_batches=plan.num_micro_batches(plan.micro_batch_size, phase.global_batch_size)) for phase in made]
    return Phases(phases, sum(phase.num_steps for phase in phases), _constant_steps(plan, samples_seen))


def _constant_steps(plan: TrainPlan, num_samples: int) -> int:
    epochs, rest = divmod(num_samples, plan.samples_per_epoch)
    return epochs * math.ceil(plan.samples_per_epoch / plan.global_batch_size) + math.ceil(rest / plan.global_batch_size)
