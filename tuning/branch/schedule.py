"""The batch schedule that a run's critical batch allows, as a recipe: the batch doubles where the critical batch has doubled.

From a checkpoint on, the batch is the run's own times the largest power of two that no critical batch from there on is below; so it never
shrinks, and never grows before it was measured that it may. Where a critical batch is above all that was tried, the largest that was
tried stands for it.

The recipe trains as the branches did, also in what a recipe tells by steps or by the batch in force: an average of weights keeps its half-life in
samples, a rate that begins again is the one that the run's own batch has, the end is where the run's is. Momentum is per step in both, and so are the
last steps of batch-norm statistics. How often checkpoints are written and noise is measured stays in steps, which changes no weights.
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
    num_more_samples: int
    """That it trains on beside the run's: what its last step brings beyond the run's end; below 0 where short last batches are dropped, of
    which a grown batch's leaves out more."""

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
    allowed = [max(batch.excess) if batch.critical_batch_size is None else batch.critical_batch_size for _, batch in batches]
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
    if plan.spec.ema and plan.spec.ema.base_global_batch_size is None:  # else its half-life in samples would grow with the batch
        fields["ema.base_global_batch_size"] = plan.global_batch_size
    spec = _beginning_again_as_branched(plan, with_fields(plan.spec, fields))
    grown = replace(plan, spec=spec)
    schedule = BatchSchedule(
        growth=growth, places=places, rate_follows=follows, num_steps=grown.total_steps, num_constant_steps=plan.total_steps,
        num_more_samples=_samples_of(grown) - _samples_of(plan),
    )  # fmt: skip
    return schedule, spec


def _samples_of(plan: TrainPlan) -> int:
    """That a run trains on, those that it leaves out apart."""
    return sum(batch.size for batch in plan.batches()) if plan.spec.batch.last == "drop" else int(plan.total_progress)


def _beginning_again_as_branched(plan: TrainPlan, spec: TrainSpec) -> TrainSpec:
    """The grown spec, whose second phase of the learning rate is scaled as the run's own.

    A restart is scaled for the batch in force; in the branches it was for the run's own.
    """
    restart = spec.learning_rate.restart
    if restart is None:
        return spec
    own, grown = (each.rate_phases[1].scaled for each in (plan, replace(plan, spec=spec)))
    fields: dict[str, Any] = {"learning_rate.restart.base": restart.base * own.peak / grown.peak}
    if grown.warmup_epochs:
        fields["learning_rate.restart.warmup_epochs"] = restart.warmup_epochs * own.warmup_epochs / grown.warmup_epochs
    return with_fields(spec, fields)


def _epoch(plan: TrainPlan, samples: int) -> float:
    """Samples seen as epochs, as positions count them."""
    epoch, offset = divmod(samples, plan.samples_per_epoch)
    return epoch + offset / plan.num_train_samples


def as_yaml(spec: TrainSpec, comments: Sequence[str]) -> str:
    """A recipe's file, without what is as it would be anyhow."""
    document = spec.model_dump(mode="json", exclude_defaults=True)
    return "".join(f"# {line}\n" for line in comments) + str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
