"""The plan in numbers for `plan.json`, and in words for people."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from largebatch.jobs.optim.by_samples.options import TIME_SCALE
from largebatch.jobs.plan.notices import averages_and_decays_in_words, never_met_in_words
from largebatch.jobs.plan.phases import phases_of
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.samples.dataset import Dataset, Held
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.spec.train_spec import ReductionSpec

CURVE_POINTS = 60
CHOSEN_ON = {
    "test": "chosen on the test set, whose scores are therefore better than those of new data",
    "validation": "chosen on the validation part; the test set is scored once, at the end of each run",
}
"""What is said of targets, best checkpoints and searches, by the part that decides them."""
NOTHING_LEFT = 2.0**-24
"""A decay below it does not change a gradient of float32 that it is added to."""


def plan_facts(plan: TrainPlan) -> dict[str, Any]:
    """Everything the plan decided, as plain data."""
    return {
        "num_train_samples": plan.num_train_samples,
        "tokens_per_sample": plan.tokens_per_sample,
        "world_size": plan.world_size,
        "global_batch_size": plan.global_batch_size,
        "micro_batch_size": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "micro_batches_of_the_first_step": _first_micro_batches(plan),
        "batch_norm_span": plan.span,
        "num_norm_samples": plan.num_norm_samples,
        "samples_per_epoch": plan.samples_per_epoch,
        "total_steps": plan.total_steps,
        "total_samples": plan.total_progress,
        "peak_learning_rate": plan.scaled_rate.peak,
        "warmup_epochs": plan.scaled_rate.warmup_epochs,
        "learning_rate_reason": plan.scaled_rate.reason,
        "learning_rate_restart": _restart_facts(plan),
        "batch_schedule": _schedule_facts(plan),
        "noise_every_steps": plan.noise_every_steps,
        "noise_from": plan.spec.gradient.noise_from,
        "noise_norm": plan.spec.gradient.noise_norm,
        "dual_norm": plan.spec.optimizer.dual_norm if plan.measures_dual_norm else None,
        "learning_rate_curve": learning_rate_curve(plan),
        "optimizer_options": options_that_follow(plan),
    }


def options_that_follow(plan: TrainPlan) -> dict[str, dict[str, float]]:
    """The optimizer's options that follow the samples of each step: at the first one, the least and the most of all steps of the run."""
    at_first = plan.options_at(plan.next_batch(Position(0, 0)), 0.0)
    if not at_first:
        return {}
    seen = [plan.options_at(batch, progress) for batch, progress in _kinds_of_step(plan)]
    return {
        name: {"first": value, "least": min(options[name] for options in seen), "most": max(options[name] for options in seen)}
        for name, value in at_first.items()
    }


def _kinds_of_step(plan: TrainPlan) -> list[tuple[Slice, float]]:
    """A step of each size, highest rate and phase of the rate that the budget has, and the samples before it."""
    if not plan.has_batch_schedule and plan.spec.learning_rate.restart is None:
        return [(batch, 0.0) for batch in plan.kinds_of_batch()]
    again, kinds, samples = plan.rate_phases[-1].start, dict[tuple[int, float, bool], tuple[Slice, float]](), 0
    for batch in plan.batches():
        kinds.setdefault((batch.size, plan.rate_factor(batch), samples + batch.size / 2 >= again), (batch, float(samples)))
        samples += batch.size
    return list(kinds.values())


def _optimizer_words(plan: TrainPlan) -> str:
    """`sgd, weight decay 0.0005; momentum 0.958 (half of it is left after 1,024 samples)`, with the range where there is one."""
    optimizer = plan.spec.optimizer
    told = {name: f"half-life {half_life:,g} {field.rpartition('_')[2]}" for name, (field, half_life) in optimizer.half_lives.items()}
    told |= {name.removesuffix(TIME_SCALE) + "weight_decay": f"time scale {scale:g} of the run" for name, scale in optimizer.time_scales.items()}
    named = optimizer.name if optimizer.label == optimizer.name else f"{optimizer.name} ({optimizer.label})"
    words: list[str] = [named] if "weight_decay" in told else [f"{named}, weight decay {optimizer.weight_decay:g}"]
    for name, of in options_that_follow(plan).items():
        is_constant = of["least"] == of["most"]
        values = (
            f"{of['first']:.4g}" if is_constant else f"{of['first']:.4g} at first, {of['least']:.4g} to {of['most']:.4g} by the samples of a step"
        )
        effect = f": steps add up to {1 / (1 - of['first']):.3g} times the rate" if optimizer.accumulates and name == "momentum" else ""
        words.append(f"{name} {values} ({told[name]}{effect}){_nothing_left(name, of) if name in optimizer.half_lives else ''}")
    return "; ".join(words)


def _nothing_left(name: str, of: dict[str, float]) -> str:
    """Of a half-life of which no step leaves anything, or the largest leaves nothing; empty where something is left."""
    if of["most"] < NOTHING_LEFT:
        return f", that is no {name}: nothing of the past is left after a step"
    return f", at {of['least']:.4g} that is no {name}: nothing of the past is left after such a step" if of["least"] < NOTHING_LEFT else ""


def _restart_facts(plan: TrainPlan) -> dict[str, Any] | None:
    """Where the rate begins again, and how; None where it does not."""
    restart = plan.spec.learning_rate.restart
    if restart is None:
        return None
    scaled = plan.rate_phases[-1].scaled
    return {"epoch": restart.epoch, "peak_learning_rate": scaled.peak, "warmup_epochs": scaled.warmup_epochs, "reason": scaled.reason}


def _schedule_facts(plan: TrainPlan) -> dict[str, Any] | None:
    """The phases of a batch that changes, and the steps that it saves; None where it does not change."""
    if not plan.has_batch_schedule:
        return None
    phases = phases_of(plan)
    return {**phases._asdict(), "phases": [phase._asdict() for phase in phases.phases], "rate_power": plan.rate_power}


def _schedule_lines(plan: TrainPlan) -> list[tuple[str, str]]:
    schedule, (phases, num_steps, num_constant) = plan.spec.batch.schedule, phases_of(plan)
    sizes = [phases[0].first_batch_size, *(phase.global_batch_size for phase in phases)]
    followed = {0.0: "the rate as it is", 0.5: "the rate follows by the square root", 1.0: "the rate follows linearly"}[plan.rate_power]
    if schedule.follows_rate:
        followed = f"it grows where the rate would fall; {followed}, {plan.spec.optimizer.name}'s rule"
    change = f"{abs(1 - num_steps / num_constant):.0%} {'fewer' if num_steps <= num_constant else 'more'}"
    saved = f"{num_steps:,} steps in place of {num_constant:,} at {plan.global_batch_size} throughout, {change}"
    if num_steps == num_constant:
        saved = f"{num_steps:,} steps, as many as at {plan.global_batch_size} throughout"
    lines = [("batch schedule", f"{' -> '.join(map(str, dict.fromkeys(sizes)))}; {followed}; {saved}")]
    for phase in phases:
        size = (
            f"{phase.global_batch_size}"
            if phase.first_batch_size == phase.global_batch_size
            else f"{phase.first_batch_size} to {phase.global_batch_size}"
        )
        first, last = f"{phase.first_learning_rate:.4g}", f"{phase.last_learning_rate:.4g}"
        rate = first if first == last else f"{first} to {last}"
        if phase.last_step_samples < phase.global_batch_size:
            rate += f" (its last step has {phase.last_step_samples} samples)"
        tokens = _tokens(plan, phase.global_batch_size)
        in_pieces = f"{phase.num_micro_batches} micro-batch{'es' if phase.num_micro_batches > 1 else ''}"
        lines.append(("", f"from epoch {phase.epoch:.4g}: batch {size}{tokens}, {phase.num_steps:,} steps, rate {rate}, {in_pieces} a step"))
    return [*lines, *_beneath(never_met_in_words(plan))]


def _first_micro_batches(plan: TrainPlan) -> list[int]:
    """Sizes of the micro-batches of the first step."""
    return [batch.size for batch in plan.next_batch(Position(0, 0)).split(plan.micro_batch_size, plan.unit)]


def learning_rate_curve(plan: TrainPlan) -> list[tuple[float, float]]:
    """(epoch, learning rate) at evenly spaced progress, the ends included."""
    total = plan.total_progress
    progresses = [total * index / (CURVE_POINTS - 1) for index in range(CURVE_POINTS)]
    epochs = [plan.epochs.at(progress) for progress in progresses]
    factors = [(plan.batch_size_at_epoch(epoch) / plan.global_batch_size) ** plan.rate_power for epoch in epochs]
    rates = [plan.learning_rate(min(progress, total * (1 - 1e-9))) for progress in progresses]
    return [(epoch, rate * factor) for epoch, rate, factor in zip(epochs, rates, factors, strict=True)]


def plan_lines(
    plan: TrainPlan, model: nn.Module, data: Dataset, activation_bytes_per_sample: int, main_shapes: Sequence[tuple[int, ...]] = ()
) -> list[tuple[str, str]]:
    """(what, how and why) for a person. Args: main_shapes: see `OptimizerConfig.state_bytes`."""
    spec = plan.spec
    sizes = _first_micro_batches(plan)
    is_even = len(set(sizes)) == 1
    split = f"{len(sizes)} x {sizes[0]}" if is_even else f"{len(sizes) - 1} x {sizes[0]} + {sizes[-1]}"
    full, short = divmod(plan.num_train_samples, plan.global_batch_size)
    if not short:
        epoch = f"{full} steps, no remainder"
    elif spec.batch.last == "keep":
        epoch = f"{full} steps of {plan.global_batch_size} and one of {short}, divided by its own {short}"
    else:
        epoch = f"{full} steps; the last {short} samples of each epoch's order are dropped"
    if plan.has_batch_schedule:
        epoch = f"at {plan.global_batch_size}: {epoch}"
    steps = f"at most {plan.total_steps}" if plan.scale_ratio else str(plan.total_steps)
    warmup = f"warm-up {plan.scaled_rate.warmup_epochs:g} epochs"
    lines = [
        ("data", _data_words(plan, data)),
        *(("", notice.removeprefix("Data: ")) for notice in data.notices),
        (
            "global batch",
            f"{plan.global_batch_size} samples{_tokens(plan, plan.global_batch_size)} per step = {split} (micro-batches, summed and divided once)",
        ),
        ("epoch", epoch),
        (
            "length",
            f"{steps} steps, {plan.total_progress:.0f} samples{_tokens(plan, round(plan.total_progress))}, "
            f"{plan.epochs.at(plan.total_progress):g} epochs",
        ),
    ]
    lines += _target_lines(plan, data)
    if plan.has_batch_schedule:
        lines += _schedule_lines(plan)
    if (cut := spec.batch.schedule.short_sequences) is not None:
        lines.append(("sequences", f"each sample is cut into sequences of {cut.length} tokens until epoch {cut.epochs:g}; whole from there on"))
    lines += [
        ("evaluation", f"every {spec.evaluation.every_epochs:g} epochs; target and best are {CHOSEN_ON[data.evaluated_on]}{_held_out_unread(data)}"),
        ("batch-norm", _span_words(plan)),
        ("learning rate", f"peak {plan.scaled_rate.peak:g} ({plan.scaled_rate.reason}); {warmup}; then {spec.learning_rate.decay}"),
        *_restart_lines(plan),
        ("rate curve", sparkline([rate for _, rate in learning_rate_curve(plan)])),
        ("optimizer", _optimizer_words(plan)),
        *_optimizer_schedule_lines(plan),
        *_beneath(averages_and_decays_in_words(plan)),
        ("noise scale", _noise_words(plan)),
    ]
    if plan.spec.reduction != ReductionSpec():
        lines.append(("reduction", _reduction_words(plan)))
    held_bytes = sum(part.num_bytes for part in data.parts.values() if isinstance(part, Held))
    lines.append(("memory", _memory_words(plan, model, held_bytes, activation_bytes_per_sample, main_shapes)))
    return lines


def _target_lines(plan: TrainPlan, data: Dataset) -> list[tuple[str, str]]:
    stop = plan.spec.stop
    ends = "the run ends there" if stop.at_target else "the run goes on behind it"
    return [] if stop.target_score is None else [("target", f"{data.evaluated_on} {stop.target_metric} {stop.target_score:g}; {ends}")]


def _restart_lines(plan: TrainPlan) -> list[tuple[str, str]]:
    restart = _restart_facts(plan)
    if restart is None:
        return []
    epoch, peak, warmup, reason = restart.values()
    return [("", f"again from epoch {epoch:g}: peak {peak:g} ({reason}); warm-up {warmup:g} epochs; then {plan.spec.learning_rate.decay}")]


def _beneath(notice: str | None) -> list[tuple[str, str]]:
    """A notice as a line beneath that of what it is about."""
    return [("", notice.partition(": ")[2].rstrip("."))] if notice else []


def _optimizer_schedule_lines(plan: TrainPlan) -> list[tuple[str, str]]:
    words = plan.spec.optimizer.schedule_in_words(plan.epochs.at(plan.total_progress))
    return [("", words)] if words else []


def _tokens(plan: TrainPlan, num_samples: int) -> str:
    """` (65,536 tokens)`; nothing where the task does not count in them."""
    tokens = plan.in_tokens(num_samples)
    return "" if tokens is None else f" ({tokens:,} tokens)"


def unread_in_words(plan: TrainPlan) -> str | None:
    """A notice about options that the spec sets and nothing reads; None where there are none."""
    fields = _unread_of_batch_norm(plan)
    return f"Batch-norm: {_none_reads(fields)}." if fields else None


def _unread_of_batch_norm(plan: TrainPlan) -> list[str]:
    told = plan.spec.batch_norm.model_dump(exclude_defaults=True)
    return [f"batch_norm.{name}" for name in told] if plan.span is None else []


def _none_reads(fields: list[str]) -> str:
    return f"none in this model: {' and '.join(fields)} {'is' if len(fields) == 1 else 'are'} not read"


def nothing_left_in_words(plan: TrainPlan) -> str | None:
    """A notice about half-lives so short beside the batch that float32 tells nothing of the past after a step; None where there is none."""
    of_a_step = plan.options_at(Slice(0, 0, plan.global_batch_size), 0.0)
    told = plan.spec.optimizer.half_lives
    fields = [f"optimizer.{told[name][0]}" for name, value in of_a_step.items() if name in told and value < NOTHING_LEFT]
    return f"Optimizer: {' and '.join(fields)}: beside this batch so short that nothing of the past is left after a step." if fields else None


def chosen_on_test_in_words(data: Dataset) -> str | None:
    """A notice about a validation part that decides nothing; None where there is none."""
    unread = _held_out_unread(data)
    return f"Evaluation: target and best are {CHOSEN_ON[data.evaluated_on]}{unread}." if unread else None


def _held_out_unread(data: Dataset) -> str:
    is_unread = data.num_validation_samples is not None and data.evaluated_on == "test"
    return f"; {data.num_validation_samples:,} validation samples are held out and not looked at" if is_unread else ""


def _data_words(plan: TrainPlan, data: Dataset) -> str:
    held_out = "" if data.num_validation_samples is None else f"{data.num_validation_samples:,} validation samples, "
    counts = f"{plan.num_train_samples:,} training samples, {held_out}{len(data.test):,} test samples"
    counts += "".join(f", {what}" for what in _for_the_model(data))
    num_workers = plan.spec.dataset.num_workers
    if data.is_in_memory:
        return f"{counts}, held in memory" + (": dataset.num_workers is not read" if num_workers else "")
    return f"{counts}, read one by one by {f'{num_workers} processes' if num_workers else 'the training process itself'}"


def _for_the_model(data: Dataset) -> list[str]:
    if data.num_classes is not None:
        return [f"{data.num_classes:,} classes"]
    return [f"{name.replace('_', ' ').removeprefix('num ')} {number:,}" for name, number in data.for_model.items()]


def _reduction_words(plan: TrainPlan) -> str:
    reduction = plan.spec.reduction
    if plan.world_size == 1:
        return "one process alone: nothing of reduction is read"
    words = {"none": "gradients as they are", "bfloat16": "gradients rounded to bfloat16", "powersgd": f"factors of rank {reduction.powersgd_rank}"}
    if reduction.local_steps == 1:
        return words[reduction.compression]
    return f"{words[reduction.compression]}; from epoch {reduction.local_from_epoch:g} on {reduction.local_steps} steps alone between averages"


def _span_words(plan: TrainPlan) -> str:
    if plan.span is None:
        return _none_reads(fields) if (fields := _unread_of_batch_norm(plan)) else "none in this model"
    rest = plan.global_batch_size % plan.span
    tail = f", the last group of each batch over {rest}" if rest else ""
    words = f"statistics over {plan.span} samples{tail}, whatever the micro-batch"
    if plan.num_norm_samples:
        return f"{words}; at the average that is evaluated anew, of {plan.num_norm_samples:,} training samples, before each evaluation and checkpoint"
    last = plan.spec.batch_norm.average_last_steps
    if last is None:
        return words
    return f"{words}; evaluated with their plain mean over {'the last step' if last == 1 else f'the last {last} steps'}"


def _noise_words(plan: TrainPlan) -> str:
    every = plan.noise_every_steps
    if every:
        of_norms = "" if plan.measures_pieces else ", of the layer norms' and RMS norms' gradients alone"
        return f"measured {'at every step' if every == 1 else f'every {every} steps'}{of_norms}{_dual_norm_words(plan)}"
    if plan.couples_samples:
        return "not measured: the loss looks at all samples of a batch together"
    if plan.spec.gradient.noise_every_steps == 0:
        return "not measured: gradient.noise_every_steps is 0"
    if plan.global_batch_size == 1:
        return "not measured: it is told by the difference between parts of a batch, and this one is a single sample"
    return f"not measured: it is told by the difference between parts of a batch, and this one is a single batch-norm group of {plan.span}"


def _dual_norm_words(plan: TrainPlan) -> str:
    if not plan.measures_dual_norm:
        return ""
    words = {"l1": "the l1 norm of the whole gradient", "nuclear": "the nuclear norms of the matrices that it updates, alone"}
    return f"; besides in {plan.spec.optimizer.label}'s own norm, by {words[plan.spec.optimizer.dual_norm]}"


def _memory_words(
    plan: TrainPlan, model: nn.Module, dataset_bytes: int, activation_bytes_per_sample: int, main_shapes: Sequence[tuple[int, ...]]
) -> str:
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    num_trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    weights = num_parameters * 4
    largest = plan.largest_batch_size
    sums = (2 if plan.num_micro_batches(plan.micro_batch_size, largest) > 1 else 1) + plan.measures_dual_norm  # the halves' difference is one more
    parts = {
        "weights": weights,
        "gradients": num_trained * 4 * sums,
        "optimizer": plan.spec.optimizer.state_bytes(num_trained, main_shapes),
        "average": weights if plan.spec.ema else 0,
        "activations": activation_bytes_per_sample * plan.micro_batch_size,
        "data set": dataset_bytes,
    }
    words = ", ".join(f"{name} {mebibytes(size)}" for name, size in parts.items() if size)
    at_most = f" at the largest batch, {largest}" if plan.has_batch_schedule else ""
    return f"about {mebibytes(sum(parts.values()))}{at_most}: {words} ({num_parameters:,} parameters)"


def mebibytes(num_bytes: int) -> str:
    """Bytes in a readable unit."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def sparkline(values: list[float]) -> str:
    """A curve in one line of text."""
    bars = "▁▂▃▄▅▆▇█"
    top = max(values) or 1.0
    return "".join(bars[min(int(value / top * 7.999), 7)] for value in values)
