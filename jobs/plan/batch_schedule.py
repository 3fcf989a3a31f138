"""The batch schedule: by what multiple of global_batch_size the batch has grown, at any place of a run; and which schedules cannot be kept.

A place is told in epochs from the start; what is told in samples or tokens is compared in whole samples, so that a step begins to be larger
at the very sample that was named. Nothing but the place decides, so a resumed run, another micro-batch or another world size changes nothing.
"""

import math
from typing import NamedTuple

from largebatch.jobs.errors import PlanError
from largebatch.jobs.optim.config_base import OptimizerConfig
from largebatch.jobs.optim.configs.own import OwnOptimizerConfig
from largebatch.jobs.optim.configs.two_rules import TwoRulesConfig
from largebatch.jobs.plan.learning_rate import learning_rate_fraction
from largebatch.jobs.spec.schedules import PlaceSpec
from largebatch.jobs.spec.train_spec import LearningRateSpec, TrainSpec

ENDING_DECAYS = frozenset({"cosine", "polynomial"})
"""Those that end with the run."""
ROUNDING = 1e-9
"""Forgives the rounding of products and powers such as 3 x 0.1 epochs or 0.1^2."""


class Milestone(NamedTuple):
    """From a place on, the batch is a multiple of global_batch_size."""

    epoch: float | None
    """The place in epochs; None: it is told in samples."""
    samples: int
    """The place in samples, where it is."""
    factor: float

    def is_behind(self, epoch: float, samples: int) -> bool:
        """Whether a step that begins at this place has passed it."""
        return self.samples <= samples if self.epoch is None else self.epoch <= epoch


def milestones(spec: TrainSpec, tokens_per_sample: int | None) -> list[Milestone]:
    """Those that the schedule names, by rising place. Raises: PlanError for what a place cannot be told in."""
    schedule = spec.batch.schedule
    if schedule.doubling is not None:
        doubling = schedule.doubling
        return [_milestone(spec, doubling, "doubling", number, 2.0**number, tokens_per_sample) for number in range(1, doubling.times + 1)]
    return [_milestone(spec, growth, "growth", 1, growth.factor, tokens_per_sample) for growth in schedule.growth]


def _milestone(spec: TrainSpec, place: PlaceSpec, name: str, times: int, factor: float, tokens_per_sample: int | None) -> Milestone:
    """Args: times: how many stretches as long as `place` lie before it."""
    field = f"batch.schedule.{name}"
    if place.tokens is not None:
        if tokens_per_sample is None:
            raise PlanError(field, "tokens: this task and its data do not count in tokens.", "Tell the place in samples, or in epochs (epoch).")
        return Milestone(None, -(-place.tokens * times // tokens_per_sample), factor)
    if place.samples is not None:
        return Milestone(None, place.samples * times, factor)
    if place.epoch is not None:
        return Milestone(place.epoch * times - (ROUNDING if times > 1 else 0.0), 0, factor)
    assert place.fraction is not None  # the spec gives one of the four
    return Milestone(place.fraction * times * _whole_length(spec, field, "fraction is a share of stop.epochs") - ROUNDING, 0, factor)


def _whole_length(spec: TrainSpec, field: str, reason: str) -> float:
    """Epochs of the whole run. Raises: PlanError where it ends after a number of steps."""
    if spec.stop.epochs is None or spec.stop.steps is not None:
        raise PlanError(field, f"{reason}, and how far stop.steps go depends on the batch.", "Give stop.epochs alone.")
    return spec.stop.epochs


def followed_multiple(spec: TrainSpec, epoch: float, warmup_epochs: float) -> int:
    """The multiple of `batch.schedule.follows_rate` at a place: see `FollowsRateSpec`. Args: warmup_epochs: of the learning rate, as scaled."""
    follows, rate = spec.batch.schedule.follows_rate, spec.learning_rate
    assert follows is not None
    left = _left_of_peak(rate, epoch, spec.stop.epochs or math.inf, warmup_epochs)
    if left * follows.largest_factor <= 1 + ROUNDING:
        return follows.largest_factor
    most = 1 / left * (1 + ROUNDING)
    if rate.decay == "step":
        return int(most)
    by = follows.by or 2
    return int(by ** int(math.log(most, by) + ROUNDING))


def _left_of_peak(rate: LearningRateSpec, epoch: float, last: float, warmup_epochs: float) -> float:
    """What the decay has left of the peak. While the rate rises nothing has fallen."""
    if epoch < warmup_epochs:
        return 1.0
    return learning_rate_fraction(rate, epoch, total=last, warmup=warmup_epochs, milestones=rate.decay_milestones)


def reads_the_end(spec: TrainSpec) -> bool:
    """Whether the batches before the end depend on where it is."""
    schedule = spec.batch.schedule
    places: list[PlaceSpec] = [*schedule.growth, *([schedule.doubling] if schedule.doubling else [])]
    return any(place.fraction is not None for place in places) or (schedule.follows_rate is not None and spec.learning_rate.decay in ENDING_DECAYS)


def refuse_followed_rate(spec: TrainSpec, warmup_epochs: float, *, couples_samples: bool) -> None:
    """Raise PlanError where a batch cannot follow the rate. Args: couples_samples: whether the loss looks at all samples of a batch together."""
    follows, rate, optimizer = spec.batch.schedule.follows_rate, spec.learning_rate, spec.optimizer
    if follows is None:
        return
    field, by_hand = "batch.schedule.follows_rate", "Grow the batch by growth or doubling, with a rate_follows of your own."
    if optimizer.averages:
        problem = f"there is nothing to follow: under {optimizer.name} an average takes the place of a rate that falls."
        raise PlanError(field, problem, by_hand)
    if unruled := without_rule(optimizer):
        raise PlanError(field, f"how the rate follows the batch is not known of {unruled}.", by_hand)
    if couples_samples:
        raise PlanError(field, "this task's loss compares all samples of a batch, so that another batch is another loss.", by_hand)
    if rate.scaling == "adascale":
        raise PlanError(field, "AdaScale adapts to one batch; it cannot follow a changing one.", "Use one of the two.")
    if rate.restart is not None:
        problem = "the rate begins again (learning_rate.restart), and a batch that follows it would shrink there."
        raise PlanError(field, problem, "Leave one of them out.")
    if spec.batch.last == "drop":
        problem = "the rate is a function of the samples that are used, and with batch.last=drop their number would depend on the batch."
        raise PlanError(field, problem, "Set batch.last=keep.")
    if rate.decay == "step":
        if rate.decay_fractions:
            raise PlanError(field, "decay_fractions may begin below the peak and rise, where a batch would shrink.", "Give decay_factor instead.")
        if follows.by is not None:
            raise PlanError(f"{field}.by", "decay step falls at its own milestones by decay_factor.", "Leave it out.")
        fallen = rate.decay_factor ** sum(milestone < (spec.stop.epochs or math.inf) for milestone in rate.decay_milestones)
    else:
        if rate.decay in ENDING_DECAYS:
            _whole_length(spec, field, f"the {rate.decay} decay ends with the run")
        fallen = 1.0 if rate.decay == "constant" else rate.final_fraction
    if spec.stop.epochs is not None and warmup_epochs >= spec.stop.epochs:
        fallen = 1.0
    by = 2 if rate.decay == "step" else min(follows.by or 2, follows.largest_factor)
    if fallen * by > 1 + ROUNDING:
        problem = (
            f"there is nothing to follow: decay {rate.decay} leaves {fallen:g} of the peak, and the batch grows where it has fallen to 1 / {by}."
        )
        raise PlanError(field, problem, "Choose a decay that falls further: cosine, polynomial, step.")


def without_rule(optimizer: OptimizerConfig) -> str | None:
    """What of an optimizer keeps one power of the batch from being its rule; None: nothing does."""
    if isinstance(optimizer, OwnOptimizerConfig):
        return "an optimizer of your own"
    if isinstance(optimizer, TwoRulesConfig) and optimizer.other.batch_power != optimizer.batch_power:
        return f"{optimizer.name} beside {optimizer.other.name}, whose rules differ"
    if optimizer.accumulates and optimizer.half_lives:
        return f"{optimizer.name} with a half-life of its momentum: steps add up to rate / (1 - momentum), which then changes with the batch"
    return None
