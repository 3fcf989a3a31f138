"""Makes a plan: chooses what the spec leaves open, and refuses what cannot be kept before anything starts.

What the plan must know of the world comes in as numbers (`Facts`).
"""

import math
from typing import NamedTuple, NoReturn

from largebatch.jobs.errors import PlanError
from largebatch.jobs.plan.batch_schedule import refuse_followed_rate
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.spec.train_spec import TrainSpec

AUTO_SPANS = range(128, 31, -1)
"""Spans that "auto" weighs, best first where they waste equally little; Hoffer et al. use 128."""

MOST_STEPS = 200_000
"""Of a half-life: beyond, float32, in which optimizers keep their moving averages, cannot tell the decay from 1 well enough for the half-life to
be right to one per cent."""

FEWEST_FOR_NORMS = 3
"""Samples of a batch, such that none has half of the weight where all weigh the same."""


class Facts(NamedTuple):
    """The numbers of data, model and machine that a plan follows from."""

    num_train_samples: int
    has_batch_norm: bool
    micro_batch_size: int
    """The largest micro-batch to use, found by trying; the spec's own number if it gives one."""
    world_size: int = 1
    couples_samples: bool = False
    tokens_per_sample: int | None = None
    """Of sequences of tokens, where the task counts in them."""


class TrainingSet(NamedTuple):
    """How much there is to train on."""

    num_samples: int
    tokens_per_sample: int | None = None
    """Of sequences of tokens, padding included, where the task counts in them."""


def resolve_global_batch_size(spec: TrainSpec, training_set: TrainingSet) -> int:
    """Samples per step as a number. Raises: PlanError if the training set has fewer, or tokens do not make whole sequences."""
    num_train_samples, tokens_per_sample = training_set
    size, tokens = spec.batch.global_batch_size, spec.batch.global_batch_tokens
    if size == "full":
        return num_train_samples
    if size is None and tokens is not None:
        field, size = "batch.global_batch_tokens", whole_sequences("batch.global_batch_tokens", tokens, tokens_per_sample)
        most = f"The largest is {num_train_samples * (tokens_per_sample or 1)}."
    else:
        field, most = "batch.global_batch_size", f'The largest is {num_train_samples}, or "full".'
    assert size is not None  # the spec gives one of the two
    if size > num_train_samples:
        amount = f"{size}" if tokens is None else f"{tokens} tokens are {size} sequences, which"
        raise PlanError(field, f"{amount} is more than the {num_train_samples} samples of the training set.", most)
    return size


def whole_sequences(field: str, tokens: int, tokens_per_sample: int | None) -> int:
    """How many sequences so many tokens are. Raises: PlanError where they are no whole number, or where nothing counts in tokens."""
    if tokens_per_sample is None:
        in_samples = field.replace("_tokens", "_size")
        raise PlanError(field, "this task and its data do not count in tokens.", f"Give {in_samples}, in samples.")
    sequences, rest = divmod(tokens, tokens_per_sample)
    if rest:
        near = [number * tokens_per_sample for number in (sequences, sequences + 1) if number]
        problem = f"{tokens} tokens are no whole number of sequences of {tokens_per_sample} tokens."
        raise PlanError(field, problem, f"Nearest: {' or '.join(map(str, near))}.")
    return sequences


def resolve_span(spec: TrainSpec, global_batch_size: int) -> int:
    """Samples that share batch-norm statistics. Raises: PlanError for a span that cannot be kept."""
    span = spec.batch_norm.span
    if span == "global" or (span == "auto" and global_batch_size <= AUTO_SPANS[0]):
        return global_batch_size
    if span == "auto":
        # The last group holds what is left over; take the span that leaves it fullest.
        return min(AUTO_SPANS, key=lambda candidate: -global_batch_size % candidate)
    if span > global_batch_size:
        problem = f"{span} samples cannot share statistics: a batch holds global_batch_size {global_batch_size}."
        hint = f"Set batch_norm.span=auto (or global, or a divisor of {global_batch_size}), or batch.global_batch_size to a multiple of {span}."
        raise PlanError("batch_norm.span", problem, hint)
    if global_batch_size % span:
        divisors = [n for n in range(2, global_batch_size + 1) if global_batch_size % n == 0]
        near = sorted(divisors, key=lambda n: abs(n - span))[:2]
        below = global_batch_size // span * span
        problem = f"{span} does not divide global_batch_size {global_batch_size}: the last group of every batch would be cut short."
        hint = f"Nearest spans that fit: {' or '.join(map(str, sorted(near)))}. Nearest batches: {below} or {below + span}."
        raise PlanError("batch_norm.span", problem, hint)
    return span


def make_plan(spec: TrainSpec, facts: Facts) -> TrainPlan:
    """The plan of `spec` given the facts. Raises: PlanError for what cannot be kept."""
    num_samples = facts.num_train_samples
    global_batch_size = resolve_global_batch_size(spec, TrainingSet(num_samples, facts.tokens_per_sample))
    if spec.learning_rate.base_global_batch_tokens is not None:
        whole_sequences("learning_rate.base_global_batch_tokens", spec.learning_rate.base_global_batch_tokens, facts.tokens_per_sample)
    span = resolve_span(spec, global_batch_size) if facts.has_batch_norm else None
    unit = span or 1
    groups = math.ceil(global_batch_size / unit)
    if groups < facts.world_size:
        _refuse_idle_ranks(facts.world_size, global_batch_size, span, groups)
    most = min(round(global_batch_size * spec.batch.schedule.largest_factor), num_samples)
    micro_batch_size = min(facts.micro_batch_size, math.ceil(math.ceil(most / unit) / facts.world_size) * unit)
    if span:
        micro_batch_size = _in_whole_spans(spec, micro_batch_size, span, global_batch_size)
    plan = TrainPlan(spec, num_samples, facts.world_size, global_batch_size, micro_batch_size, span, facts.couples_samples, facts.tokens_per_sample)
    if plan.couples_samples:
        _refuse_taken_apart(spec)
    _refuse_schedule(plan)
    if plan.span:
        _refuse_single_samples(plan)
    if plan.scale_ratio:
        _refuse_adascale(plan)
    if not plan.measures_pieces:
        _refuse_noise_from_norms(plan)
    if plan.measures_dual_norm:
        _refuse_dual_norm(plan)
    if plan.total_progress <= 0:
        raise PlanError("stop", "the budget ends before the first step.", "Give more epochs or steps.")
    _refuse_restart(plan)
    _refuse_half_lives(plan)
    _refuse_time_scales(plan)
    return plan


def _refuse_idle_ranks(world_size: int, global_batch_size: int, span: int | None, groups: int) -> NoReturn:
    if span is None:
        raise PlanError("--workers", f"{world_size} workers cannot share a batch of {global_batch_size} samples.", f"Use at most {groups} workers.")
    plural = "s" if groups > 1 else ""
    problem = f"batches of {global_batch_size} hold {groups} group{plural} of {span} samples, and {world_size} workers need one each"
    hint = f"Set batch_norm.span to at most {global_batch_size // world_size}, or use at most {groups} worker{plural}."
    raise PlanError("batch_norm.span", f"{problem}: a group's statistics are never shared between workers.", hint)


def _in_whole_spans(spec: TrainSpec, micro_batch_size: int, span: int, global_batch_size: int) -> int:
    if micro_batch_size % span == 0:
        return micro_batch_size
    if spec.batch.micro_batch_size == "auto" and micro_batch_size > span:
        return micro_batch_size // span * span
    if micro_batch_size >= global_batch_size:
        return max(micro_batch_size // span, math.ceil(global_batch_size / span)) * span
    if spec.batch.micro_batch_size == "auto":
        problem = f"{span} samples must share statistics, and this machine holds only {micro_batch_size} at a time."
        raise PlanError("batch_norm.span", problem, f"Set batch_norm.span to at most {micro_batch_size}.")
    below = micro_batch_size // span * span
    near = f"{below} or {below + span}" if below else str(span)
    problem = f"{span} does not divide micro_batch_size {micro_batch_size}: some groups would be cut short."
    hint = f"Nearest micro-batches that fit: {near}. Or set batch_norm.span to a divisor of {micro_batch_size}."
    raise PlanError("batch_norm.span", problem, hint)


def _refuse_taken_apart(spec: TrainSpec) -> None:
    """Raise PlanError for what takes a person's own loss apart that looks at all samples of a batch together; of one of ours the spec tells."""
    if spec.reduction.local_steps > 1:
        problem = "each worker would compare its own samples alone, and this task's loss compares all samples of the global batch."
        raise PlanError("reduction.local_steps", problem, "Leave it out.")
    if spec.learning_rate.scaling == "adascale":
        problem = "adascale measures the variance between parts of a batch, and this task's loss has no such parts."
        raise PlanError("learning_rate.scaling", problem, "Choose another scaling.")


def _refuse_schedule(plan: TrainPlan) -> None:
    """Look at the batches that the schedule names; between them a warm-up moves in whole groups."""
    schedule, size = plan.spec.batch.schedule, plan.global_batch_size
    refuse_followed_rate(plan.spec, plan.scaled_rate.warmup_epochs, couples_samples=plan.couples_samples)
    named = "follows_rate.largest_factor" if schedule.follows_rate else "doubling" if schedule.doubling else "growth"
    factors = [float(schedule.follows_rate.largest_factor)] if schedule.follows_rate else [milestone.factor for milestone in plan.milestones]
    grown = [(f"batch.schedule.{named}", size * factor) for factor in factors]
    for field, grown_size in grown:
        if grown_size > plan.num_train_samples:
            problem = f"the batch would grow to {grown_size:g}, more than the {plan.num_train_samples} samples of the training set."
            raise PlanError(field, problem, _largest(plan, plan.num_train_samples / size))
    warmup = schedule.warmup
    started = [("batch.schedule.warmup.start", warmup.start)] if warmup else []
    if warmup and warmup.start > size:
        problem = f"{warmup.start} is above global_batch_size {size}."
        raise PlanError("batch.schedule.warmup.start", problem, "Warm-up grows the batch; give a smaller start.")
    for field, scheduled_size in (*started, *grown):
        if scheduled_size < 1:
            raise PlanError(field, f"the batch would shrink to {scheduled_size:g} samples.", f"The smallest factor is {1 / size:.2g}.")
        if plan.span and (scheduled_size < plan.span or scheduled_size % plan.span):
            problem = f"a batch of {scheduled_size:g} is not a whole number of batch-norm groups of {plan.span}."
            raise PlanError(field, problem, "Set batch_norm.span to a divisor of every batch of the schedule.")


def _largest(plan: TrainPlan, factor: float) -> str:
    """How far the batch may grow, in the words of the field that says it. Args: factor: the largest."""
    schedule = plan.spec.batch.schedule
    if factor < 2 and (schedule.doubling or schedule.follows_rate):
        return "Leave it out, or begin with a smaller batch."
    if schedule.doubling is None:
        return f"The largest factor is {math.floor(factor) if schedule.follows_rate else factor:g}."
    times = math.floor(math.log2(factor))
    return f"It may double at most {times} time{'s' if times > 1 else ''}: doubling.times={times}."


def _refuse_single_samples(plan: TrainPlan) -> None:
    """Raise PlanError where a batch-norm group would be a single sample, which has no variance."""
    if (plan.global_batch_size % plan.unit or plan.unit) == 1:
        problem = f"a batch of {plan.global_batch_size} leaves batch-norm a group of a single sample, which has no variance."
        hint = f"Set batch.global_batch_size to at least {plan.global_batch_size + 1}, or use a model without batch-norm."
        raise PlanError("batch.global_batch_size", problem, hint)
    if _shortest_group(plan) == 1:
        problem = "the last batch-norm group of an epoch would hold a single sample, which has no variance."
        raise PlanError("batch.last", problem, "Set batch.last to drop, or change global_batch_size by one.")


def _refuse_adascale(plan: TrainPlan) -> None:
    if plan.scale_ratio < 1:
        problem = f"AdaScale scales up from the base batch, and {plan.base_global_batch_size} is above {plan.global_batch_size}."
        raise PlanError("learning_rate.base_global_batch_size", problem)
    if plan.global_batch_size <= plan.unit:
        problem = "AdaScale measures the gradient's variance between micro-batches, and this batch cannot be split in two."
        raise PlanError("learning_rate.scaling", problem, "Use a larger batch, or a batch_norm.span of at most half of it.")
    if plan.has_batch_schedule:
        raise PlanError("batch.schedule", "AdaScale adapts to one batch; it cannot follow a changing one.", "Use one of the two.")


def _refuse_restart(plan: TrainPlan) -> None:
    """Raise PlanError for a learning rate that would begin again where nothing has ended, or nothing follows."""
    restart, last = plan.spec.learning_rate.restart, plan.epochs.at(plan.total_progress)
    if restart is None:
        return
    if plan.rate_power:
        problem = "and learning_rate.restart, which is scaled for the batch in force at its epoch, would count the batch twice."
        raise PlanError("batch.schedule.rate_follows", problem, "Leave one of them out.")
    warmup = plan.scaled_rate.warmup_epochs
    if restart.epoch < warmup:
        problem = f"the rate cannot begin again at epoch {restart.epoch:g}: its first warm-up takes {warmup:g} epochs."
        raise PlanError("learning_rate.restart.epoch", problem, f"Give at least {warmup:g}, or shorten learning_rate.warmup_epochs.")
    if restart.epoch >= last:
        problem = f"the rate cannot begin again at epoch {restart.epoch:g}: the run ends at epoch {last:g}."
        raise PlanError("learning_rate.restart.epoch", problem, "Give an earlier epoch, or a longer run (stop).")


def _refuse_half_lives(plan: TrainPlan) -> None:
    """Raise PlanError for a half-life in tokens where nothing counts in them, or one that float32 cannot hold."""
    smallest = min(_scheduled_sizes(plan))
    for name, half_life in plan.spec.optimizer.half_lives.values():
        field, is_in_tokens = f"optimizer.{name}", name.endswith("tokens")
        if is_in_tokens and plan.tokens_per_sample is None:
            problem = "this task and its data do not count in tokens."
            raise PlanError(field, problem, f"Give {field.removesuffix('tokens')}samples.")
        most = MOST_STEPS * smallest * ((plan.tokens_per_sample or 1) if is_in_tokens else 1)
        if half_life > most:
            problem = f"{half_life:g} is more than {MOST_STEPS:,} steps of the smallest batch: in float32 the past would not fade so slowly."
            raise PlanError(field, problem, f"Give at most {most:g}.")


def _refuse_time_scales(plan: TrainPlan) -> None:
    """Raise PlanError for a time scale of weight decay that is less than a step, or whose rate is not the plan's."""
    largest = max(_scheduled_sizes(plan))
    for name, scale in plan.spec.optimizer.time_scales.items():
        field = f"optimizer.{name}"
        if plan.scale_ratio:
            problem = "weight decay by time scale follows from the learning rate, and AdaScale's follows from a measured gain."
            raise PlanError(field, problem, "Give weight_decay, or choose another scaling.")
        if scale * plan.total_progress <= largest:
            problem = (
                f"{scale:g} of a run of {plan.total_progress:.0f} samples is no more than a step of {largest:g}: it would leave nothing of a weight."
            )
            raise PlanError(field, problem, f"Give more than {largest / plan.total_progress:.3g}.")


def _scheduled_sizes(plan: TrainPlan) -> list[float]:
    """The batches that the spec names, those of the schedule too."""
    schedule, size = plan.spec.batch.schedule, plan.global_batch_size
    return [
        size,
        size * schedule.largest_factor,
        *([schedule.warmup.start] if schedule.warmup else []),
        *(size * each.factor for each in schedule.growth),
    ]


def _refuse_noise_from_norms(plan: TrainPlan) -> None:
    """Raise PlanError for what keeps each sample's own gradient of a norm from being told, or asks for the whole gradient's noise."""
    reasons = {
        "compiled code does not tell what goes in and out of a norm": plan.spec.compile,
        "batch-norm mixes samples, which then have no gradients of their own": plan.span is not None,
        "this task's loss looks at all samples of a batch together, which then have no gradients of their own": plan.couples_samples,
        "AdaScale follows the whole gradient's noise": bool(plan.scale_ratio),
        f"a batch of {plan.global_batch_size} has too few samples to compare": plan.global_batch_size < FEWEST_FOR_NORMS,
    }
    for reason, holds in reasons.items():
        if holds:
            raise PlanError("gradient.noise_from", f"norms is refused: {reason}.", "Set gradient.noise_from=all.")


def _refuse_dual_norm(plan: TrainPlan) -> None:
    """Raise PlanError for an optimizer without a norm of its own, and for what keeps noise from being told between the halves of a batch."""
    spec = plan.spec
    reasons = {
        f"{spec.optimizer.label} has no norm of its own to measure in: {spec.optimizer.without_dual_norm}": not spec.optimizer.dual_norm,
        "gradient.noise_from=norms measures sample by sample, in the Euclidean norm alone": not plan.measures_pieces,
        "this task's loss looks at all samples of a batch together, so that its halves tell no noise": plan.couples_samples,
        "AdaScale follows the Euclidean noise, which it measures at every step": bool(plan.scale_ratio),
        "with reduction.local_steps workers have gradients of their own, whose halves are never summed": spec.reduction.local_steps > 1,
    }
    for reason, holds in reasons.items():
        if holds:
            raise PlanError("gradient.noise_norm", f"optimizer is refused: {reason}.", "Set gradient.noise_norm=euclidean.")


def _shortest_group(plan: TrainPlan) -> int:
    """Samples in the smallest last group of a batch: of the first epoch, or of all batches where they change."""
    if plan.has_batch_schedule:
        sizes = [batch.size for batch in plan.batches()]
    else:
        tail = 0 if plan.spec.batch.last == "drop" else plan.num_train_samples % plan.global_batch_size
        sizes = [plan.global_batch_size, tail]
    return min((size % plan.unit or plan.unit for size in sizes), default=plan.unit)
