"""Making a job ready: data and model are examined; then its state before the first step, and its samples."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from largebatch.jobs.data.batches import Batches, DeviceBatches
from largebatch.jobs.data.dataset import Dataset, Images
from largebatch.jobs.data.fingerprint import DatasetFingerprint, fingerprint
from largebatch.jobs.data.loaders import LoaderBatches
from largebatch.jobs.data.reading import NO_ASKING, Patience
from largebatch.jobs.data.sources.table import load_dataset
from largebatch.jobs.device import largest_micro_batch, refuse_without_compiler
from largebatch.jobs.engine.clock import Clock
from largebatch.jobs.engine.evaluate import evaluation_share
from largebatch.jobs.engine.model_check.carried_state import Findings
from largebatch.jobs.engine.model_check.check import ModelCheck, check_model
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.engine.warm_up import activation_bytes_per_sample, refuse_misfit
from largebatch.jobs.models.first_pass import NUM_SAMPLES as FIRST_SAMPLES
from largebatch.jobs.models.modes import train_mode
from largebatch.jobs.models.norms.ghost_batch_norm import evaluation_unit, has_batch_norm, use_ghost_batch_norm
from largebatch.jobs.models.parameters import refuse_parameters, unfold_buffers
from largebatch.jobs.models.sample_dropout import use_sample_dropout
from largebatch.jobs.models.table import build_model
from largebatch.jobs.optim.parameter_groups import build_optimizer
from largebatch.jobs.optim.weight_average import WeightAverage
from largebatch.jobs.plan.describe import DataFacts, plan_facts, plan_lines
from largebatch.jobs.plan.make import resolve_global_batch_size, resolve_span
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.spec.train_spec import TrainSpec


class Examined(NamedTuple):
    """What one rank finds out about data and model before there is a plan."""

    dataset: Dataset
    model: nn.Module
    normalises: bool
    micro_batch_size: int
    fingerprint: DatasetFingerprint
    check: ModelCheck | None
    """Of a person's own model."""


def examine(spec: TrainSpec, device: torch.device, data_dir: Path) -> Examined:
    """Load the data, build the model, and try both. Raises: InputError."""
    if spec.compile:
        refuse_without_compiler(device)
    dataset = load_dataset(spec.dataset, data_dir)
    global_batch_size = resolve_global_batch_size(spec, len(dataset.train))
    model = build_model(spec.model, dataset.input_shape, dataset.num_classes, spec.seed, dataset.blank(FIRST_SAMPLES, device)[0])
    refuse_parameters(model)
    unfold_buffers(model)
    model = train_mode(use_sample_dropout(model).to(device))
    normalises = has_batch_norm(model)
    span = resolve_span(spec, global_batch_size) if normalises else 1
    use_ghost_batch_norm(model, span if normalises else None)
    check: ModelCheck | None = None
    if spec.model.entry_point is None:
        refuse_misfit(model, dataset)
    else:
        check = check_model(spec, model, dataset, device)
        dataset = replace(dataset, examples=check.train.inputs)
    most = global_batch_size
    if spec.batch.schedule.growth:
        most = int(most * max(milestone.factor for milestone in spec.batch.schedule.growth))
    micro_batch_size = largest_micro_batch(spec, model, dataset, device, min(most, len(dataset.train)), span)
    return Examined(dataset, model, normalises, micro_batch_size, fingerprint(dataset), check)


@dataclass(frozen=True)
class Prepared:
    """A job that is ready to run: everything that bad input could spoil was checked."""

    spec: TrainSpec
    plan: TrainPlan
    dataset: Dataset
    model: nn.Module
    device: torch.device
    ranks: Ranks
    fingerprint: DatasetFingerprint
    """Of the data, on every rank the same."""
    findings: Findings
    """About a person's own model."""
    began: float
    """What `time.perf_counter` said when this process began to prepare it."""

    def plan_in_words(self) -> list[tuple[str, str]]:
        """(what, how and why) for a person."""
        dataset = self.dataset
        dataset_bytes = sum(part.num_bytes for part in (dataset.train, dataset.test) if isinstance(part, Images))
        data = DataFacts(len(dataset.test), dataset.num_classes, dataset.is_in_memory, dataset_bytes, dataset.notices)
        return plan_lines(self.plan, self.model, data, activation_bytes_per_sample(self.model, dataset))

    def plan_in_numbers(self) -> dict[str, Any]:
        """Everything the plan decided, and what it was made for, as plain data."""
        return {**plan_facts(self.plan), "num_test_samples": len(self.dataset.test), "num_classes": self.dataset.num_classes}


def new_state(job: Prepared) -> TrainState:
    """Everything that will change, as it is before the first step."""
    spec, model = job.spec, job.model
    average = None
    if spec.ema:
        power = job.plan.global_batch_size / spec.ema.base_global_batch_size if spec.ema.base_global_batch_size else 1.0
        average = WeightAverage(model, spec.ema.decay**power)
    return TrainState(
        model,
        build_optimizer(model, spec.optimizer),
        job.plan.micro_batch_size,
        forward=torch.compile(model) if spec.compile else model,
        clock=Clock(job.device, job.began),
        reduction=spec.reduction,
        average=average,
        once_a_step=job.findings.once_a_step,
        by_samples=[*job.findings.by_samples, *job.findings.by_passes],
    )


def training_batches(job: Prepared, patience: Patience = NO_ASKING) -> Batches:
    """The training samples, in the plan's order, augmented."""
    spec, part = job.spec, job.dataset.train
    if isinstance(part, Images):
        is_channels_last = spec.model.channels_last
        return DeviceBatches(part, job.dataset, job.device, channels_last=is_channels_last, seed=spec.seed, augment_spec=spec.dataset.augment)
    return LoaderBatches(
        part,
        job.dataset,
        job.device,
        num_workers=spec.dataset.num_workers,
        stream=lambda epoch: job.plan.shares_from(epoch, job.ranks.rank),
        channels_last=spec.model.channels_last,
        seed=spec.seed,
        patience=patience,
    )


def evaluation_batches(job: Prepared, part: Any, patience: Patience = NO_ASKING) -> Batches:
    """The samples of one part in the file's order."""
    if isinstance(part, Images):
        return DeviceBatches(part, job.dataset, job.device, channels_last=job.spec.model.channels_last)
    return LoaderBatches(
        part,
        job.dataset,
        job.device,
        num_workers=job.spec.dataset.num_workers,
        stream=lambda epoch: itertools.repeat(evaluation_share(len(part), job.ranks, evaluation_unit(job.model))),
        channels_last=job.spec.model.channels_last,
        shuffles=False,
        patience=patience,
    )
