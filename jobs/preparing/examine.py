"""Examines a spec: loads its data, builds its model and tries both, before there is a plan."""

import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from largebatch.jobs.data.fingerprint import DatasetFingerprint, fingerprint
from largebatch.jobs.data.loaders import first_samples
from largebatch.jobs.data.sources.table import load_dataset
from largebatch.jobs.data.sources.validation import evaluated_by, refuse_too_few_left
from largebatch.jobs.device import largest_micro_batch, refuse_without_compiler
from largebatch.jobs.engine.gradient.activation_checkpointing import use_activation_checkpointing
from largebatch.jobs.engine.model_check.check import ModelCheck, check_model
from largebatch.jobs.engine.model_check.passes import Passes
from largebatch.jobs.engine.model_check.recomputation import refuse_changed_by_running_again
from largebatch.jobs.engine.warm_up import outputs_and_layers, refuse_misfit
from largebatch.jobs.entry_points import ANYTHING
from largebatch.jobs.errors import PlanError, nearest
from largebatch.jobs.models.beginning import begin_with
from largebatch.jobs.models.first_pass import NUM_SAMPLES as FIRST_SAMPLES
from largebatch.jobs.models.modes import train_mode
from largebatch.jobs.models.norms.ghost_batch_norm import has_batch_norm, use_ghost_batch_norm
from largebatch.jobs.models.norms.last_steps import average_plainly, refuse_uncounted
from largebatch.jobs.models.parameters import refuse_parameters, unfold_buffers
from largebatch.jobs.models.sample_dropout import use_sample_dropout
from largebatch.jobs.models.table import OURS, build_model
from largebatch.jobs.models.without_weights import weight_bytes, without_weights
from largebatch.jobs.optim.configs.own import OwnOptimizerConfig
from largebatch.jobs.optim.configs.two_rules import TwoRulesConfig
from largebatch.jobs.optim.own import refuse_unusable
from largebatch.jobs.optim.parameter_groups import build_optimizer
from largebatch.jobs.optim.rules_in_words import rules_in_words
from largebatch.jobs.optim.split.heads import head_weights
from largebatch.jobs.plan.make import TrainingSet, resolve_global_batch_size, resolve_span
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import num_samples
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tasks.base import Task
from largebatch.jobs.tasks.contrastive import CoupledTask
from largebatch.jobs.tasks.language_modelling import BITS_PER_BYTE, LanguageModelling
from largebatch.jobs.tasks.registry import ClassificationConfig

NUM_EXAMPLES = 8
"""Real samples that stand for any where zeros would not do."""


class Examined(NamedTuple):
    """What one rank finds out about data and model before there is a plan."""

    dataset: Dataset
    task: Task
    model: nn.Module
    normalises: bool
    micro_batch_size: int
    fingerprint: DatasetFingerprint
    check: ModelCheck | None
    """Of a model that is not ours."""
    beginning: tuple[str, ...]
    """What the model begins with besides fresh weights, and how it is run, in words."""
    heads: tuple[str, ...]
    """Names of the output heads' weights, where the optimizer asks: see `head_weights`."""
    has_weights: bool
    """False: the model is for planning alone, and was not checked."""


def examine(spec: TrainSpec, device: torch.device, data_dir: Path, most_weight_bytes: float = math.inf, loaded: Dataset | None = None) -> Examined:
    """Load the data, build the model, and try both.

    Args: most_weight_bytes: a model by name with larger weights is examined without them, where it can be; loaded: the spec's data set, if it is
        there already.
    Raises: InputError.
    """
    if spec.compile:
        refuse_without_compiler(device)
    dataset = evaluated_by(loaded or load_dataset(spec.dataset, data_dir, spec.task), spec.evaluation.part)
    if dataset.num_classes is None:
        dataset = replace(dataset, examples=first_samples(dataset.train, dataset, NUM_EXAMPLES, device, spec.model.channels_last))
    task = spec.task.build(dataset, spec.loss.label_smoothing)
    refuse_unknown_target(spec, task)
    refuse_uncut(spec, task, dataset)
    if isinstance(size := spec.batch.global_batch_size, int):
        refuse_too_few_left(dataset, spec.dataset.validation, size)
    refuse_alone(task, resolve_global_batch_size(spec, training_set(spec, dataset)))
    blank = task.prepared(dataset.blank(FIRST_SAMPLES, device), spec.seed, Slice(0, 0, FIRST_SAMPLES), device)

    def build() -> nn.Module:
        return build_model(spec.model, dataset, spec.seed, blank, task.probe)

    if math.isfinite(most_weight_bytes) and spec.model.entry_point is None and spec.model.weights is None:
        model = without_weights(build)
        if model is not None and weight_bytes(model) > most_weight_bytes:
            with suppress(*ANYTHING):  # for want of its numbers, perhaps: the whole model says what is wrong
                return _examine_model(spec, task, dataset, model, device, data_dir, has_weights=False)
    model = build()
    refuse_parameters(model)
    unfold_buffers(model)
    return _examine_model(spec, task, dataset, model, device, data_dir, has_weights=True)


def _examine_model(
    spec: TrainSpec, task: Task, dataset: Dataset, model: nn.Module, device: torch.device, data_dir: Path, *, has_weights: bool
) -> Examined:
    """Try a model on a few samples, for as much as can be told of it. Raises: InputError."""
    global_batch_size = resolve_global_batch_size(spec, training_set(spec, dataset))
    beginning = begin_with(model, spec, data_dir)
    task.meet(model)
    model = train_mode(use_sample_dropout(model).to(device))
    normalises = has_batch_norm(model)
    span = resolve_span(spec, global_batch_size) if normalises else 1
    use_ghost_batch_norm(model, span if normalises else None)
    if spec.batch_norm.average_last_steps:
        average_plainly(model)
    if spec.model.activation_checkpointing:
        beginning += _checkpoint_activations(spec, model, task, dataset, device, is_tried=has_weights)
    check: ModelCheck | None = None
    if not has_weights or (spec.model.name in OURS and spec.task == ClassificationConfig()):
        refuse_misfit(spec, task, model, dataset)
    else:
        check = check_model(spec, model, task, dataset, device)
        dataset = replace(dataset, examples=first_samples(dataset.train, dataset, NUM_EXAMPLES, device, spec.model.channels_last))
    if not has_weights:
        beginning += (f"Model check: made before training; this plan was made without the model's {weight_bytes(model) / 2**30:.1f} GiB of weights",)
    heads = _fit_optimizer(spec, task, model, dataset, normalises)
    if isinstance(spec.optimizer, TwoRulesConfig):
        beginning += rules_in_words(model, spec.optimizer, heads)
        build_optimizer(model, spec.optimizer, heads)
    most = int(global_batch_size * spec.batch.schedule.largest_factor)
    micro_batch_size = largest_micro_batch(spec, task, model, dataset, device, min(most, len(dataset.train)), span)
    return Examined(dataset, task, model, normalises, micro_batch_size, fingerprint(dataset), check, beginning, heads, has_weights)


def _fit_optimizer(spec: TrainSpec, task: Task, model: nn.Module, dataset: Dataset, normalises: bool) -> tuple[str, ...]:
    """Refuse norms whose statistics an optimizer that averages cannot take, and try a person's own.

    Returns: the names of the output heads' weights, where the optimizer asks.
    Raises: InputError.
    """
    config = spec.optimizer
    if config.averages and normalises:  # their statistics at the average are a plain mean
        refuse_uncounted(model, "optimizer.name", "Use BatchNorm1d, BatchNorm2d or BatchNorm3d, or adamw with ema.")
    if isinstance(config, OwnOptimizerConfig):
        refuse_unusable(config.entry_point, config.arguments)
        build_optimizer(model, config)
    return head_weights(model, *outputs_and_layers(spec, task, model, dataset)) if isinstance(config, TwoRulesConfig) else ()


def training_set(spec: TrainSpec, dataset: Dataset) -> TrainingSet:
    """How much a data set has to train on, in what the task counts in."""
    return TrainingSet(len(dataset.train), dataset.for_model.get("sequence_length") if spec.task.counts_tokens else None)


def _checkpoint_activations(
    spec: TrainSpec, model: nn.Module, task: Task, dataset: Dataset, device: torch.device, *, is_tried: bool
) -> tuple[str, ...]:
    """Let blocks run once more in the backward pass, and try them. Returns: notices. Raises: SpecError, PlanError."""
    chosen = spec.model.activation_checkpointing
    notice = use_activation_checkpointing(model, True if isinstance(chosen, bool) else chosen)
    if not is_tried:
        return (notice,)
    samples = first_samples(dataset.train, dataset, FIRST_SAMPLES, device, spec.model.channels_last)  # few: they are kept whole
    prepared = task.prepared(samples, spec.seed, Slice(0, 0, num_samples(samples)), device)
    return notice, *refuse_changed_by_running_again(Passes(spec, model, task), prepared)


def refuse_unknown_target(spec: TrainSpec, task: Task) -> None:
    """Raise PlanError for a target in a metric that the task does not have."""
    wanted, known = spec.stop.target_metric, [metric.name for metric in task.all_metrics()]
    if wanted is not None and wanted not in known:
        field = "stop.target.metric" if spec.stop.target else "stop.target_accuracy"
        problem, hint = f"{spec.task.name} has no metric {wanted}.", nearest(wanted, known)
        if spec.task.name == "own":
            hint += f' Where your task gives it, declare it in its class: headline = largebatch.Metric("{wanted}", "lower"), or "higher".'
        if wanted == BITS_PER_BYTE.name and isinstance(task, LanguageModelling):
            problem = f"is {wanted}, and the bytes of the text that these tokens stand for are not known."
            hint = "Make token files again with `largebatch tokens`, or give samples of your own a third tensor, the bytes of each target."
        raise PlanError(field, problem, hint)
    value, fractions = spec.stop.target_score, [metric.name for metric in task.all_metrics() if metric.is_fraction]
    if wanted in fractions and value is not None and not 0 <= value <= 1:
        hint = f"Write {value / 100:g} for {value:g} %." if 1 < value <= 100 else "Give a number between 0 and 1."
        raise PlanError("stop.target.value", f"is {value:g}, and {wanted} is a fraction.", hint)


def refuse_alone(task: Task, global_batch_size: int) -> None:
    """Raise PlanError for batches of one sample where a loss compares a batch's samples."""
    if isinstance(task, CoupledTask) and global_batch_size < 2:
        problem = "is 1, and the loss compares each sample with the others of its batch."
        raise PlanError("batch.global_batch_size", problem, "Give 2 at the least; such losses learn from many more.")


def refuse_uncut(spec: TrainSpec, task: Task, dataset: Dataset) -> None:
    """Raise PlanError for short sequences of samples that are none, or that their length does not divide."""
    short, whole = spec.batch.schedule.short_sequences, dataset.for_model.get("sequence_length")
    if short is None:
        return
    if not isinstance(task, LanguageModelling):
        problem = f"cuts sequences of tokens, each of which weighs the same; the task is {spec.task.name}."
        raise PlanError("batch.schedule.short_sequences", problem, "Leave it out.")
    if whole is None:
        hint = "Give the training set an attribute sequence_length, or leave short_sequences out."
        raise PlanError("batch.schedule.short_sequences", f"the length of a sample of {dataset.name} is not known.", hint)
    if short.length >= whole or whole % short.length:
        divisors = [length for length in range(1, whole) if whole % length == 0]
        near = sorted(divisors, key=lambda length: abs(length - short.length))[:2]
        reason = "not shorter than" if short.length >= whole else "no divisor of"
        hint = f"Nearest: {' or '.join(map(str, sorted(near)))}." if near else "Leave it out."
        raise PlanError("batch.schedule.short_sequences.length", f"{short.length} tokens are {reason} a sample's {whole}.", hint)
