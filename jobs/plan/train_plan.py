"""TrainPlan: a spec on a given data set, model and machine, as arithmetic alone.

Everything that follows from a few numbers is decided here, before step 0: which samples feed which step, how a step
is split, the learning rate at any progress, when to evaluate. Positions are the only clock: the same position always
gives the same answer, so a resumed run, another micro-batch or another world size cannot drift. `make_plan` builds it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, takewhile

from largebatch.jobs.optim.by_samples.options import StepSize
from largebatch.jobs.plan.batch_schedule import Milestone, followed_multiple, milestones
from largebatch.jobs.plan.epochs import Epochs
from largebatch.jobs.plan.learning_rate import FOLLOWS, RatePhase, ScaledRate, of_second_phase, scale
from largebatch.jobs.plan.step_plan import Position, StepPlan
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.spec.train_spec import LearningRateSpec, TrainSpec

USUAL_NOISE_EVERY = 30
"""Steps; cutting one of them in two costs an eighth of it at a batch of 256 on a CPU."""
NORM_SAMPLES = 2048
"""Of the training samples: their mean is 2 % of a standard deviation from that of all, and passing them forward is seldom much of an epoch."""


@dataclass(frozen=True)
class TrainPlan:
    """Everything about a run that follows from its spec by arithmetic.

    Build with `largebatch.jobs.plan.make.make_plan`; the constructor checks nothing.
    """

    spec: TrainSpec
    num_train_samples: int
    world_size: int
    global_batch_size: int
    micro_batch_size: int
    span: int | None
    """Samples that share batch-norm statistics; None where the model has no batch-norm."""
    couples_samples: bool = False
    """Whether the loss looks at all samples of a global batch together: its gradient is no mean of independent ones, so there is no noise scale."""
    tokens_per_sample: int | None = None
    """Of sequences of tokens, padding included, where the task counts in them."""

    @property
    def unit(self) -> int:
        """Samples that a split of a step must leave together."""
        return self.span or 1

    @property
    def num_norm_samples(self) -> int | None:
        """Training samples, whole groups, of which batch-norms take statistics at the average of the weights that is evaluated; None: none do."""
        if self.span is None or not self.spec.optimizer.averages:
            return None
        return max(min(NORM_SAMPLES, self.num_train_samples) // self.span, 1) * self.span

    def in_tokens(self, num_samples: int) -> int | None:
        """So many samples in tokens; None where the task does not count in them."""
        return None if self.tokens_per_sample is None else num_samples * self.tokens_per_sample

    # ---- one step -----------------------------------------------------------------------------

    def step_at(self, position: Position) -> StepPlan:
        """The step that begins at `position`."""
        samples = self.next_batch(position)
        is_local = self._is_local(samples)
        number, every = position.step + 1, self.spec.checkpoint.every_steps
        middle, samples_seen = position.schedule_samples + samples.size / 2, position.samples_seen + samples.size
        learning_rate = self.learning_rate(middle) * self.rate_factor(samples)
        measures = self.noise_every_steps > 0 and number % self.noise_every_steps == 0 and not is_local
        step = StepPlan(
            begin=position,
            samples=samples,
            world_size=self.world_size,
            unit=self.unit,
            sequence_length=self.sequence_length_of(samples),
            learning_rate=learning_rate,
            options=self.options_at(samples, position.schedule_samples),
            options_by_progress=self._options_by_progress(middle, learning_rate),
            average_power=self.average_power(samples),
            advance=float(samples.size),
            gain=None,
            is_local=is_local,
            measures_noise=measures and self.measures_pieces,
            measures_norms=measures and not self.measures_pieces,
            measures_dual=measures and self.measures_dual_norm,
            tokens_seen=self.in_tokens(samples_seen),
            evaluates=self._evaluates_between(position.samples_seen, samples_seen),
            saves=every is not None and number % every == 0,
        )
        return self.with_gain(step, 1.0) if self.scale_ratio else step

    def with_gain(self, step: StepPlan, gain: float) -> StepPlan:
        """The same step under AdaScale, whose learning rate and progress follow from the gain that the step has measured."""
        advance = gain * self.base_global_batch_size
        middle = step.begin.schedule_samples + advance / 2
        learning_rate = self.learning_rate(middle) * gain
        options = self._options_by_progress(middle, learning_rate)
        return replace(step, learning_rate=learning_rate, options_by_progress=options, advance=advance, gain=gain)

    # ---- which samples feed a step ------------------------------------------------------------

    def batch_size_at(self, position: Position) -> int:
        """Samples of the step that begins at `position`, unless the epoch ends before."""
        return self.batch_size_at_epoch(position.epoch + position.offset / self.num_train_samples)

    def batch_size_at_epoch(self, epoch: float) -> int:
        """Samples of a step that begins so many epochs from the start."""
        if not self.has_batch_schedule:
            return self.global_batch_size
        schedule = self.spec.batch.schedule
        if schedule.warmup and epoch < schedule.warmup.epochs:
            start = schedule.warmup.start
            grown = start + (self.global_batch_size - start) * epoch / schedule.warmup.epochs
            return self._whole_spans(grown)
        if schedule.follows_rate:
            return self._whole_spans(self.global_batch_size * followed_multiple(self.spec, epoch, self.scaled_rate.warmup_epochs))
        samples = round(epoch * self.num_train_samples)
        factors = [milestone.factor for milestone in self.milestones if milestone.is_behind(epoch, samples)]
        return self._whole_spans(self.global_batch_size * factors[-1]) if factors else self.global_batch_size

    def average_power(self, batch: Slice) -> float:
        """How many steps at the batch that `ema.decay` was tuned at a step counts for: see `counted_size`."""
        base = self.spec.ema.base_global_batch_size if self.spec.ema else None
        return self.counted_size(batch) / base if base else 1.0

    def counted_size(self, batch: Slice) -> int:
        """The samples that a step counts as, for its rate and for an average of weights: those of a step that an epoch's end cuts short are its own
        as far as the schedule has grown; below that it counts as a full step, as without a schedule.
        """
        if not self.has_batch_schedule:
            return self.global_batch_size
        in_force = self.batch_size_at_epoch(batch.epoch + batch.start / self.num_train_samples)
        return max(batch.size, min(in_force, self.global_batch_size))

    @cached_property
    def milestones(self) -> list[Milestone]:
        """The places from which on the batch is a multiple of global_batch_size. Raises: PlanError for what they cannot be told in."""
        return milestones(self.spec, self.tokens_per_sample)

    @property
    def largest_batch_size(self) -> int:
        """The largest that the schedule names."""
        return (
            self._whole_spans(self.global_batch_size * self.spec.batch.schedule.largest_factor) if self.has_batch_schedule else self.global_batch_size
        )

    def _whole_spans(self, samples: float) -> int:
        """The nearest batch that batch-norm groups fill exactly and the training set holds."""
        return min(max(round(samples / self.unit), 1), self.num_train_samples // self.unit) * self.unit

    def sequence_length_of(self, batch: Slice) -> int | None:
        """Tokens of each sequence that a batch's samples are cut into; None: they stay whole."""
        short = self.spec.batch.schedule.short_sequences
        if short is None or batch.epoch + batch.start / self.num_train_samples >= short.epochs:
            return None
        return short.length

    def next_batch(self, position: Position) -> Slice:
        """The samples of the step that begins at `position`; moves to the next epoch where this one is used up."""
        size = self.batch_size_at(position)
        left = self.num_train_samples - position.offset
        if left >= size or (left > 0 and self.spec.batch.last == "keep"):
            return Slice(position.epoch, position.offset, position.offset + min(size, left))
        return self.next_batch(Position(position.epoch + 1, 0))

    def shares_from(self, epoch: int, rank: int) -> Iterator[Slice]:
        """What `rank` works on from the beginning of `epoch`, step by step, for ever."""
        return (batch.share(rank, self.world_size, self.unit) for batch in self._batches_from(Position(epoch, 0)))

    def _batches_from(self, position: Position) -> Iterator[Slice]:
        while True:
            batch = self.next_batch(position)
            yield batch
            position = Position(batch.epoch, batch.stop)

    def num_micro_batches(self, micro_batch_size: int, batch_size: int | None = None) -> int:
        """Of the rank with the largest share of a step, the last one. Args: batch_size: of the step; None: global_batch_size."""
        full = Slice(0, 0, batch_size or self.global_batch_size)
        return math.ceil(full.share(self.world_size - 1, self.world_size, self.unit).size / micro_batch_size)

    @property
    def gradient_accumulation_steps(self) -> int:
        """Micro-batches in one full step of the rank with the largest share."""
        return self.num_micro_batches(self.micro_batch_size)

    # ---- how long -----------------------------------------------------------------------------

    @cached_property
    def samples_per_epoch(self) -> int:
        """Samples used in one epoch at the nominal batch; fewer than the set where the last batch is dropped."""
        if self.spec.batch.last == "keep":
            return self.num_train_samples
        return self.num_train_samples // self.global_batch_size * self.global_batch_size

    @cached_property
    def epochs(self) -> Epochs:
        """In samples: where short last batches are dropped, a batch that changes leaves out more of some epochs than of others."""
        if not self.has_batch_schedule or self.spec.batch.last == "keep":
            return Epochs(self.samples_per_epoch)
        num_epochs, starts = max(batch.epoch for batch in self.batches()) + 1, [0]
        for batch in takewhile(lambda made: made.epoch < num_epochs, self._batches_from(Position(0, 0))):
            if batch.start == 0:
                starts.append(starts[-1])
            starts[-1] += batch.size
        return Epochs(self.num_train_samples, starts)

    def batches(self) -> Iterator[Slice]:
        """The samples of every step from the first to the last of the budget, AdaScale's gain left out."""
        epochs = self.spec.stop.epochs
        for batch in islice(self._batches_from(Position(0, 0)), self.spec.stop.steps):
            if epochs is not None and batch.epoch + batch.start / self.num_train_samples >= epochs - 1e-9:
                return
            yield batch

    def kinds_of_batch(self) -> list[Slice]:
        """A step of every size, and length of sequences, that the budget has, in the order in which they come."""
        if self.has_batch_schedule or self.spec.batch.schedule.short_sequences:
            return list({(batch.size, self.sequence_length_of(batch)): batch for batch in self.batches()}.values())
        first = self.next_batch(Position(0, 0))
        short = self.num_train_samples % self.global_batch_size
        reaches_the_end = self.total_progress > self.num_train_samples - short + 1e-6 or bool(self.scale_ratio)
        if not short or self.spec.batch.last == "drop" or not reaches_the_end:
            return [first]
        return [first, Slice(0, self.num_train_samples - short, self.num_train_samples)]

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
        return self._most_steps_under_adascale() if self.scale_ratio else self._totals[0]

    def _most_steps_under_adascale(self) -> int:
        """Steps of a run whose gain is 1 throughout; a last batch shorter than the base batch counts as its own samples."""
        base = self.base_global_batch_size
        full = self.num_train_samples // self.global_batch_size
        short = min(self.num_train_samples % self.global_batch_size, base) if self.spec.batch.last == "keep" else 0
        epochs, rest = divmod(self.total_progress, full * base + short)
        left = math.ceil(rest / base - 1e-9) if rest <= full * base else full + 1
        return int(epochs) * (full + (short > 0)) + left

    @cached_property
    def total_progress(self) -> float:
        """Where the schedules end, in samples. Under AdaScale, steps of the budget are steps at the base batch."""
        if not self.scale_ratio:
            return float(self._totals[1])
        epochs, steps = self.spec.stop.epochs, self.spec.stop.steps
        by_steps = math.inf if steps is None else float(steps * self.base_global_batch_size)
        return by_steps if epochs is None else min(by_steps, epochs * self.samples_per_epoch)

    @cached_property
    def has_batch_schedule(self) -> bool:
        """Whether the batch changes while training."""
        return self.spec.batch.schedule.changes_batch

    # ---- learning rate ------------------------------------------------------------------------

    @cached_property
    def scaled_rate(self) -> ScaledRate:
        """Peak learning rate and warm-up for this batch."""
        return scale(self.spec.learning_rate, self.global_batch_size, self.base_global_batch_size)

    @cached_property
    def rate_phases(self) -> list[RatePhase]:
        """One for the whole run, or two where the rate begins again."""
        spec, restart = self.spec.learning_rate, self.spec.learning_rate.restart
        if restart is None:
            return [self._phase(spec, self.scaled_rate, 0.0, self.total_progress)]
        second, start = of_second_phase(spec, restart), self.epochs.samples_in(restart.epoch)
        scaled = scale(second, self.batch_size_at_epoch(restart.epoch), self.base_global_batch_size)
        return [self._phase(spec, self.scaled_rate, 0.0, start), self._phase(second, scaled, restart.epoch, self.total_progress)]

    def _phase(self, spec: LearningRateSpec, scaled: ScaledRate, epoch: float, stop: float) -> RatePhase:
        """A phase in samples. Args: epoch: where it begins."""
        milestones = tuple(self.epochs.samples_in(milestone) for milestone in spec.decay_milestones)
        return RatePhase(spec, scaled, self.epochs.samples_in(epoch), stop, self.epochs.samples_in(scaled.warmup_epochs, epoch), milestones)

    @cached_property
    def base_global_batch_size(self) -> int:
        """The batch that the base learning rate was tuned at."""
        rate = self.spec.learning_rate
        in_tokens = (rate.base_global_batch_tokens or 0) // (self.tokens_per_sample or 1)
        return rate.base_global_batch_size or in_tokens or self.global_batch_size

    @cached_property
    def scale_ratio(self) -> float:
        """AdaScale's S, the batch over the base batch; 0 for every other rule."""
        if self.spec.learning_rate.scaling != "adascale":
            return 0.0
        return self.global_batch_size / self.base_global_batch_size

    @property
    def rate_power(self) -> float:
        """The power of the batch that the rate follows while the batch changes."""
        schedule = self.spec.batch.schedule
        return self.spec.optimizer.batch_power if schedule.follows_rate else FOLLOWS[schedule.rate_follows]

    def rate_factor(self, batch: Slice) -> float:
        """What the batch in force multiplies the learning rate by: see `counted_size`."""
        return float((self.counted_size(batch) / self.global_batch_size) ** self.rate_power) if self.has_batch_schedule else 1.0

    def learning_rate(self, progress: float) -> float:
        """The learning rate at `progress` samples (half-way through a step's own samples)."""
        return self._rate_phase(progress).rate(progress)

    def _rate_phase(self, progress: float) -> RatePhase:
        return next(phase for phase in reversed(self.rate_phases) if progress >= phase.start)

    def options_at(self, batch: Slice, progress: float) -> dict[str, float]:
        """The optimizer's options that follow the samples of a step: of its own, also where an epoch's end cuts it short, so that the past fades
        by the samples seen alone. Args: progress: of the schedules, where the step begins.
        """
        if not self._options_follow_samples:
            return {}
        highest = self._rate_phase(progress + batch.size / 2).highest * self.rate_factor(batch)
        return self.spec.optimizer.options_at(StepSize(batch.size, self.tokens_per_sample, batch.size / self.total_progress, highest))

    @cached_property
    def _options_follow_samples(self) -> bool:
        return bool(self.spec.optimizer.half_lives or self.spec.optimizer.time_scales)

    def _options_by_progress(self, progress: float, learning_rate: float) -> dict[str, float]:
        """See `StepPlan`. Args: progress: of the schedules at the middle of the step."""
        return self.spec.optimizer.options_by_progress(self.epochs.at(progress), learning_rate)

    # ---- what happens along the way -----------------------------------------------------------

    def _evaluates_between(self, samples_before: int, samples_after: int) -> bool:
        """Whether an evaluation is due after the step that went from one count of samples to the other."""
        every = self.spec.evaluation.every_epochs
        # The small push forgives the rounding of fractions such as 0.1 epochs.
        after, before = (math.floor(self.epochs.at(samples) / every + 1e-9) for samples in (samples_after, samples_before))
        return after > before

    @cached_property
    def noise_every_steps(self) -> int:
        """Steps between measurements of the gradient noise scale; 0: it cannot be, or should not be measured."""
        every_steps = self.spec.gradient.noise_every_steps
        if self.couples_samples:
            return 0
        if self.scale_ratio:
            return 1
        if every_steps == 0 or self.global_batch_size <= self.unit:
            return 0
        if every_steps == "auto":
            return 1 if self.global_batch_size > self.micro_batch_size else USUAL_NOISE_EVERY
        return every_steps

    @property
    def measures_pieces(self) -> bool:
        """Whether noise is measured between the pieces of a step, the gradient of all parameters; else sample by sample, of the norms' alone."""
        return self.spec.gradient.noise_from == "all"

    @property
    def measures_dual_norm(self) -> bool:
        """Whether noise is measured in the optimizer's own norm besides."""
        return self.spec.gradient.noise_norm == "optimizer"

    @property
    def cut_every_steps(self) -> int:
        """Steps between those that the noise scale wants cut in two at least; 0: none is."""
        return self.noise_every_steps if self.measures_pieces else 0

    def _is_local(self, batch: Slice) -> bool:
        reduction = self.spec.reduction
        if self.world_size == 1 or reduction.local_steps == 1:
            return False
        return batch.epoch + batch.start / self.num_train_samples >= reduction.local_from_epoch
