"""TrainPlan: a spec on a given data set, model and machine, as arithmetic alone.

What the plan must know of the world comes in as numbers (`Facts`). Everything that follows from them is
decided here, before step 0: which samples feed which step, how a step is split, the learning rate at any
progress, when to evaluate. Positions are the only clock: the same position always gives the same answer,
so a resumed run, another micro-batch or another world size cannot drift.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, NoReturn

from jobs.errors import PlanError
from jobs.optim.schedules import learning_rate_fraction
from jobs.scaling_rules import ScaledRate, scale
from jobs.spec import TrainSpec

AUTO_SPANS = range(128, 31, -1)
"""Spans that "auto" weighs, best first where they waste equally little; Hoffer et al. use 128."""


class Facts(NamedTuple):
    """What the plan needs to know of data, model and machine."""

    num_train_samples: int
    has_batch_norm: bool
    micro_batch_size: int
    """The largest micro-batch to use, found by trying; the spec's own number if it gives one."""
    world_size: int = 1


class Position(NamedTuple):
    """A place in the stream of training samples."""

    epoch: int
    offset: int
    """Samples of this epoch that were used already."""


class Slice(NamedTuple):
    """Samples `start` to `stop` of an epoch's order."""

    epoch: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of samples."""
        return self.stop - self.start


def resolve_global_batch_size(spec: TrainSpec, num_train_samples: int) -> int:
    """Samples per step as a number. Raises: PlanError if the training set has fewer."""
    asked = spec.batch.global_batch_size
    if asked == "full":
        return num_train_samples
    if asked > num_train_samples:
        raise PlanError(
            "batch.global_batch_size",
            f"{asked} is more than the {num_train_samples} samples of the training set.",
            f'The largest is {num_train_samples}, or "full".',
        )
    return asked


def resolve_span(spec: TrainSpec, global_batch_size: int) -> int:
    """Samples that share batch-norm statistics. Raises: PlanError for a span that cannot be kept."""
    span = spec.batch_norm.span
    if span == "global" or (span == "auto" and global_batch_size <= AUTO_SPANS[0]):
        return global_batch_size
    if span == "auto":
        # The last group holds what is left over; take the span that leaves it fullest.
        return min(AUTO_SPANS, key=lambda candidate: -global_batch_size % candidate)
    if global_batch_size % span and span < global_batch_size:
        divisors = [n for n in range(2, global_batch_size + 1) if global_batch_size % n == 0]
        near = sorted(divisors, key=lambda n: abs(n - span))[:2]
        below = global_batch_size // span * span
        raise PlanError(
            "batch_norm.span",
            f"{span} does not divide global_batch_size {global_batch_size}: the last group of every batch would be cut short.",
            f"Nearest spans that fit: {' or '.join(map(str, sorted(near)))}. Nearest batches: {below} or {below + span}.",
        )
    return min(span, global_batch_size)


@dataclass(frozen=True)
class TrainPlan:
    """Everything about a run that follows from its spec by arithmetic.

    Build with `make_plan`; the constructor checks nothing.
    """

    spec: TrainSpec
    num_train_samples: int
    world_size: int
    global_batch_size: int
    micro_batch_size: int
    span: int | None
    """Samples that share batch-norm statistics; None where the model has no batch-norm."""

    # ---- which samples feed a step ------------------------------------------------------------

    def batch_size_at(self, position: Position) -> int:
        """Samples of the step that begins at `position`, unless the epoch ends before."""
        schedule = self.spec.batch.schedule
        epoch = position.epoch + position.offset / self.num_train_samples
        if schedule.warmup and epoch < schedule.warmup.epochs:
            start = schedule.warmup.start
            grown = start + (self.global_batch_size - start) * epoch / schedule.warmup.epochs
            return self._whole_spans(grown)
        factors = [milestone.factor for milestone in schedule.growth if milestone.epoch <= epoch]
        return self._whole_spans(self.global_batch_size * factors[-1]) if factors else self.global_batch_size

    def _whole_spans(self, samples: float) -> int:
        """The nearest batch that batch-norm groups fill exactly and the training set holds."""
        unit = self.span or 1
        return min(max(round(samples / unit), 1), self.num_train_samples // unit) * unit

    def next_batch(self, position: Position) -> Slice:
        """The samples of the step that begins at `position`; moves to the next epoch where this one is used up."""
        size = self.batch_size_at(position)
        left = self.num_train_samples - position.offset
        if left >= size or (left > 0 and self.spec.batch.last == "keep"):
            return Slice(position.epoch, position.offset, position.offset + min(size, left))
        return self.next_batch(Position(position.epoch + 1, 0))

    def split(self, batch: Slice, micro_batch_size: int, at_least: int = 1) -> list[Slice]:
        """A step's samples as micro-batches, in order, every sample once.

        Cuts fall between batch-norm groups only, so the statistics do not depend on `micro_batch_size`.

        Args:
            at_least: aim for this many micro-batches (the noise scale needs two); fewer where groups do not allow it.
        """
        unit = self.span or 1
        size = min(micro_batch_size, max(math.ceil(batch.size / at_least / unit), 1) * unit)
        starts = range(batch.start, batch.stop, size)
        return [Slice(batch.epoch, start, min(start + size, batch.stop)) for start in starts]

    def rank_share(self, batch: Slice, rank: int) -> Slice:
        """The samples of a step that `rank` works on: contiguous, whole batch-norm groups, as even as these allow.

        Empty where a short batch has fewer groups than there are ranks.
        """
        unit = self.span or 1
        groups = math.ceil(batch.size / unit)
        first, last = groups * rank // self.world_size, groups * (rank + 1) // self.world_size
        return Slice(batch.epoch, min(batch.start + first * unit, batch.stop), min(batch.start + last * unit, batch.stop))

    def batch_norm_groups(self, batch: Slice) -> list[int]:
        """How many groups of a step each rank sees."""
        return [math.ceil(self.rank_share(batch, rank).size / (self.span or 1)) for rank in range(self.world_size)]

    def num_sharing(self, batch: Slice) -> int:
        """How many ranks have samples in a step."""
        return sum(groups > 0 for groups in self.batch_norm_groups(batch))

    def largest_share(self, batch: Slice) -> int:
        """Samples of the rank that has most of a step: the last one, where shares are uneven."""
        return self.rank_share(batch, self.world_size - 1).size

    def shares_from(self, epoch: int, rank: int) -> Iterator[Slice]:
        """What `rank` works on from the beginning of `epoch`, step by step, for ever."""
        position = Position(epoch, 0)
        while True:
            batch = self.next_batch(position)
            yield self.rank_share(batch, rank)
            position = Position(batch.epoch, batch.stop)

    @property
    def gradient_accumulation_steps(self) -> int:
        """Micro-batches in one full step of the rank with the largest share."""
        return math.ceil(self.largest_share(Slice(0, 0, self.global_batch_size)) / self.micro_batch_size)

    # ---- how long -----------------------------------------------------------------------------

    @property
    def samples_per_epoch(self) -> int:
        """Samples used in one epoch at the nominal batch; fewer than the set where the last batch is dropped."""
        if self.spec.batch.last == "keep":
            return self.num_train_samples
        return self.num_train_samples // self.global_batch_size * self.global_batch_size

    def batches(self) -> Iterator[Slice]:
        """The samples of every step from the first to the last of the budget, AdaScale's gain left out."""
        position, epochs, steps = Position(0, 0), self.spec.stop.epochs, self.spec.stop.steps
        step = 0
        while steps is None or step < steps:
            batch = self.next_batch(position)
            if epochs is not None and batch.epoch + batch.start / self.num_train_samples >= epochs - 1e-9:
                return
            yield batch
            position, step = Position(batch.epoch, batch.stop), step + 1

    @cached_property
    def _totals(self) -> tuple[int, int]:
        """(steps, samples) of the whole budget."""
        if not self.has_batch_schedule:
            steps = self._steps_without_schedule()
            whole, rest = divmod(steps, math.ceil(self.samples_per_epoch / self.global_batch_size))
            return steps, whole * self.samples_per_epoch + min(rest * self.global_batch_size, self.samples_per_epoch)
        steps = samples = 0
        for batch in self.batches():
            steps, samples = steps + 1, samples + batch.size
        return steps, samples

    def _steps_without_schedule(self) -> int:
        """Steps that begin before the budget's epochs are over, at most the budget's steps."""
        epochs, steps = self.spec.stop.epochs, self.spec.stop.steps
        if epochs is None:
            assert steps is not None
            return steps
        whole = int(epochs)
        per_epoch = math.ceil(self.samples_per_epoch / self.global_batch_size)
        begun = max(math.ceil((epochs - whole - 1e-9) * self.num_train_samples / self.global_batch_size), 0)
        possible = whole * per_epoch + min(begun, per_epoch)
        return possible if steps is None else min(possible, steps)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole budget; under AdaScale the most that can be needed."""
        return self._totals[0] if not self.scale_ratio else math.ceil(self.total_progress / self.base_global_batch_size)

    @property
    def total_progress(self) -> float:
        """Where the schedules end, in samples. Under AdaScale, steps of the budget are steps at the base batch."""
        if self.scale_ratio and self.spec.stop.steps is not None:
            at_base = float(self.spec.stop.steps * self.base_global_batch_size)
            if self.spec.stop.epochs is None:
                return at_base
            return min(at_base, self.spec.stop.epochs * self.num_train_samples)
        if self.scale_ratio and self.spec.stop.epochs is not None:
            return self.spec.stop.epochs * self.num_train_samples
        return float(self._totals[1])

    @property
    def has_batch_schedule(self) -> bool:
        """Whether the batch changes while training."""
        schedule = self.spec.batch.schedule
        return schedule.warmup is not None or bool(schedule.growth)

    # ---- learning rate ------------------------------------------------------------------------

    @cached_property
    def scaled_rate(self) -> ScaledRate:
        """Peak learning rate and warm-up for this batch."""
        return scale(self.spec.learning_rate, self.global_batch_size)

    @property
    def base_global_batch_size(self) -> int:
        """The batch that the base learning rate was tuned at."""
        return self.spec.learning_rate.base_global_batch_size or self.global_batch_size

    @property
    def scale_ratio(self) -> float:
        """AdaScale's S, the batch over the base batch; 0 for every other rule."""
        if self.spec.learning_rate.scaling != "adascale":
            return 0.0
        return self.global_batch_size / self.base_global_batch_size

    def learning_rate(self, progress: float) -> float:
        """The learning rate at `progress` samples (half-way through a step's own samples)."""
        peak, warmup_epochs, _ = self.scaled_rate
        fraction = learning_rate_fraction(
            self.spec.learning_rate,
            progress,
            total=self.total_progress,
            warmup=warmup_epochs * self.samples_per_epoch,
            epoch=self.samples_per_epoch,
        )
        return peak * fraction

    # ---- what happens along the way -----------------------------------------------------------

    def evaluates_between(self, samples_before: int, samples_after: int) -> bool:
        """Whether an evaluation is due after the step that went from one count of samples to the other."""
        every = self.spec.evaluation.every_epochs * self.samples_per_epoch
        # The small push forgives the rounding of fractions such as 0.1 epochs.
        return math.floor(samples_after / every + 1e-9) > math.floor(samples_before / every + 1e-9)

    @cached_property
    def noise_every_steps(self) -> int:
        """Steps between measurements of the gradient noise scale; 0: it cannot be, or should not be measured."""
        asked = self.spec.gradient.noise_every_steps
        if self.scale_ratio:
            return 1
        if asked == 0 or self.global_batch_size <= (self.span or 1):
            return 0
        if asked == "auto":
            return 1 if self.global_batch_size > self.micro_batch_size else 10
        return asked

    def measures_noise_at(self, step: int) -> bool:
        """Whether step number `step` (the first is 1) measures the noise scale."""
        return self.noise_every_steps > 0 and step % self.noise_every_steps == 0

    def steps_alone_at(self, batch: Slice) -> bool:
        """Whether ranks take the step on `batch` each by itself (post-local SGD)."""
        reduction = self.spec.reduction
        epoch = batch.epoch + batch.start / self.num_train_samples
        return self.world_size > 1 and reduction.local_steps > 1 and epoch >= reduction.local_from_epoch


def make_plan(spec: TrainSpec, facts: Facts) -> TrainPlan:
    """The plan of `spec` given the facts. Raises: PlanError for what cannot be kept."""
    num_samples = facts.num_train_samples
    global_batch_size = resolve_global_batch_size(spec, num_samples)
    span = resolve_span(spec, global_batch_size) if facts.has_batch_norm else None
    unit = span or 1
    groups = math.ceil(global_batch_size / unit)
    if groups < facts.world_size:
        _refuse_idle_ranks(facts.world_size, global_batch_size, span, groups)
    micro_batch_size = min(facts.micro_batch_size, math.ceil(groups / facts.world_size) * unit)
    if span:
        micro_batch_size = _in_whole_spans(spec, micro_batch_size, span, global_batch_size)
    plan = TrainPlan(
        spec=spec,
        num_train_samples=num_samples,
        world_size=facts.world_size,
        global_batch_size=global_batch_size,
        micro_batch_size=micro_batch_size,
        span=span,
    )
    _refuse_impossible(plan)
    return plan


def _refuse_idle_ranks(world_size: int, global_batch_size: int, span: int | None, groups: int) -> NoReturn:
    if span is None:
        raise PlanError("--workers", f"{world_size} workers cannot share a batch of {global_batch_size} samples.", f"Use at most {groups} workers.")
    raise PlanError(
        "batch_norm.span",
        f"batches of {global_batch_size} hold {groups} group{'s' if groups > 1 else ''} of {span} samples, and {world_size} workers need one each: "
        "a group's statistics are never shared between workers.",
        f"Set batch_norm.span to at most {global_batch_size // world_size}, or use at most {groups} worker{'s' if groups > 1 else ''}.",
    )


def _in_whole_spans(spec: TrainSpec, micro_batch_size: int, span: int, global_batch_size: int) -> int:
    if micro_batch_size % span == 0:
        return micro_batch_size
    if spec.batch.micro_batch_size == "auto" and micro_batch_size > span:
        return micro_batch_size // span * span
    if micro_batch_size >= global_batch_size:
        return math.ceil(micro_batch_size / span) * span
    below, above = micro_batch_size // span * span, (micro_batch_size // span + 1) * span
    near = f"{below} or {above}" if below else str(above)
    if spec.batch.micro_batch_size == "auto":
        raise PlanError(
            "batch_norm.span",
            f"{span} samples must share statistics, and this machine holds only {micro_batch_size} at a time.",
            f"Set batch_norm.span to at most {micro_batch_size}.",
        )
    raise PlanError(
        "batch_norm.span",
        f"{span} does not divide micro_batch_size {micro_batch_size}: some groups would be cut short.",
        f"Nearest micro-batches that fit: {near}. Or set batch_norm.span to a divisor of {micro_batch_size}.",
    )


def _refuse_impossible(plan: TrainPlan) -> None:
    spec = plan.spec
    sizes = [plan.global_batch_size * milestone.factor for milestone in spec.batch.schedule.growth]
    if sizes and max(sizes) > plan.num_train_samples:
        raise PlanError(
            "batch.schedule.growth",
            f"the batch would grow to {max(sizes):g}, more than the {plan.num_train_samples} samples of the training set.",
            f"The largest factor is {plan.num_train_samples / plan.global_batch_size:g}.",
        )
    warmup = spec.batch.schedule.warmup
    if warmup and warmup.start > plan.global_batch_size:
        raise PlanError(
            "batch.schedule.warmup.start",
            f"{warmup.start} is above global_batch_size {plan.global_batch_size}.",
            "Warm-up grows the batch; give a smaller start.",
        )
    for field, size in _scheduled_sizes(plan):
        if plan.span and (size < plan.span or size % plan.span):
            raise PlanError(
                field,
                f"a batch of {size:g} is not a whole number of batch-norm groups of {plan.span}.",
                "Set batch_norm.span to a divisor of every batch of the schedule.",
            )
    if plan.span and _shortest_group(plan) == 1:
        raise PlanError(
            "batch.last",
            "the last batch-norm group of an epoch would hold a single sample, which has no variance.",
            "Set batch.last to drop, or change global_batch_size by one.",
        )
    if plan.scale_ratio and plan.scale_ratio < 1:
        raise PlanError(
            "learning_rate.base_global_batch_size",
            f"AdaScale scales up from the base batch, and {plan.base_global_batch_size} is above {plan.global_batch_size}.",
        )
    if plan.scale_ratio and (plan.global_batch_size <= (plan.span or 1)):
        raise PlanError(
            "learning_rate.scaling",
            "AdaScale measures the gradient's variance between micro-batches, and this batch cannot be split in two.",
            "Use a larger batch, or a batch_norm.span of at most half of it.",
        )
    if plan.scale_ratio and plan.has_batch_schedule:
        raise PlanError("batch.schedule", "AdaScale adapts to one batch; it cannot follow a changing one.", "Use one of the two.")
    if plan.total_progress <= 0:
        raise PlanError("stop", "the budget ends before the first step.", "Give more epochs or steps.")


def _scheduled_sizes(plan: TrainPlan) -> list[tuple[str, float]]:
    """The batches that the schedule names, with their fields; between them a warm-up moves in whole groups."""
    schedule = plan.spec.batch.schedule
    grown = [("batch.schedule.growth", plan.global_batch_size * milestone.factor) for milestone in schedule.growth]
    return [*([("batch.schedule.warmup.start", schedule.warmup.start)] if schedule.warmup else []), *grown]


def _shortest_group(plan: TrainPlan) -> int:
    """Samples in the smallest batch-norm group of the run's first epoch's last batch (of all batches where they change)."""
    span = plan.span or 1
    if plan.has_batch_schedule:
        return min((batch.size % span or span for batch in plan.batches()), default=span)
    if plan.spec.batch.last == "drop":
        return plan.global_batch_size % span or span
    tail = plan.num_train_samples % plan.global_batch_size
    sizes = [plan.global_batch_size % span or span, tail % span or span]
    return min(sizes)
