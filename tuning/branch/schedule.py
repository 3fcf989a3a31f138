"""The batch schedule that a run's critical batch allows, as a recipe: the batch doubles where the critical batch has doubled.

From a checkpoint on, the batch is the run's own times the largest power of two that no critical batch from there on is below; so it never
shrinks, and never grows before it was measured that it may. Where a critical batch is above all that was tried, the largest that was
tried stands for it.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import yaml

from largebatch.jobs.plan.learning_rate import FOLLOWS
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.spec_base import LONGEST_NAME
from largebatch.tuning.branch.critical import BranchedBatch
from largebatch.tuning.results.answers import Answer
from largebatch.tuning.sweep.space import with_fields

GROWN = "-grown"
"""Ends the name of the recipe that is written."""


class BatchSchedule(Answer):
    """A batch that grows."""

    growth: list[tuple[float, int]]
    """(epoch, factor of the run's batch), by rising epoch."""
    places: list[int]
    """The same moments in samples seen."""
    rate_follows: str
    num_steps: int
    """Of the whole run under it."""
    num_constant_steps: int
    """Of the whole run at its own batch."""

    @property
    def saved(self) -> float:
        """The share of steps that it saves."""
        return 1 - self.num_steps / self.num_constant_steps


def batch_schedule(plan: TrainPlan, batches: Sequence[tuple[int, BranchedBatch]], power: float) -> tuple[BatchSchedule, TrainSpec] | None:
    """The schedule, and the run's spec with it; None where the batch never may double.

    Args:
        plan: the run's.
        batches: (samples seen, critical batch) by rising samples.
        power: of the batch that the rate followed in the branches.
    """
    allowed = [_allowed(batch) for _, batch in batches]
    growth, places, factor = list[tuple[float, int]](), list[int](), 1
    for number, (samples, _) in enumerate(batches):
        doubled = 2 ** int(math.log2(max(min(allowed[number:]) / plan.global_batch_size, 1.0)))
        if doubled > factor:
            growth.append((_epoch(plan, samples), doubled))
            places.append(samples)
            factor = doubled
    if not growth:
        return None
    follows = next(name for name, value in FOLLOWS.items() if value == power)
    fields: dict[str, Any] = {
        "name": plan.spec.name.encode()[: LONGEST_NAME - len(GROWN)].decode(errors="ignore") + GROWN,
        "batch.schedule": {"growth": [{"epoch": epoch, "factor": float(factor)} for epoch, factor in growth], "rate_follows": follows},
    }
    if short := plan.spec.batch.schedule.short_sequences:
        fields["batch.schedule"]["short_sequences"] = short.model_dump(mode="json")
    if plan.spec.stop.steps is not None:  # steps of a larger batch would be more samples
        fields |= {"stop.steps": None, "stop.epochs": _epoch(plan, int(plan.total_progress))}
    spec = with_fields(plan.spec, fields)
    steps = replace(plan, spec=spec).total_steps
    return BatchSchedule(growth=growth, places=places, rate_follows=follows, num_steps=steps, num_constant_steps=plan.total_steps), spec


def _allowed(batch: BranchedBatch) -> float:
    return max(batch.excess) if batch.critical_batch_size is None else batch.critical_batch_size


def _epoch(plan: TrainPlan, samples: int) -> float:
    """Samples seen as epochs, as positions count them."""
    epoch, offset = divmod(samples, plan.samples_per_epoch)
    return epoch + offset / plan.num_train_samples


def as_yaml(spec: TrainSpec, comments: Sequence[str]) -> str:
    """A recipe's file, without what is as it would be anyhow."""
    document = spec.model_dump(mode="json", exclude_defaults=True)
    return "".join(f"# {line}\n" for line in comments) + str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
