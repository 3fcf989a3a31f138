"""What one rank finds out about data and model before there is a plan."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from largebatch.jobs.data.dataset import Dataset
from largebatch.jobs.data.fingerprint import DatasetFingerprint, fingerprint
from largebatch.jobs.data.sources.table import load_dataset
from largebatch.jobs.device import largest_micro_batch, refuse_without_compiler
from largebatch.jobs.engine.model_trial.trial import Trial, try_out
from largebatch.jobs.engine.warm_up import refuse_misfit
from largebatch.jobs.models.first_pass import NUM_SAMPLES as FIRST_SAMPLES
from largebatch.jobs.models.norms.ghost_batch_norm import has_batch_norm, use_ghost_batch_norm
from largebatch.jobs.models.parameters import refuse_parameters
from largebatch.jobs.models.sample_dropout import use_sample_dropout
from largebatch.jobs.models.shared_memory import unfold_buffers
from largebatch.jobs.models.table import build_model
from largebatch.jobs.models.training_mode import train_mode
from largebatch.jobs.plan.make import resolve_global_batch_size, resolve_span
from largebatch.jobs.spec.train_spec import TrainSpec


class Examined(NamedTuple):
    """What it found."""

    dataset: Dataset
    model: nn.Module
    normalises: bool
    micro_batch_size: int
    fingerprint: DatasetFingerprint
    trial: Trial | None
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
    trial: Trial | None = None
    if spec.model.entry_point is None:
        refuse_misfit(model, dataset)
    else:
        trial = try_out(spec, model, dataset, device)
        dataset = replace(dataset, examples=trial.train.inputs)
    most = global_batch_size
    if spec.batch.schedule.growth:
        most = int(most * max(milestone.factor for milestone in spec.batch.schedule.growth))
    micro_batch_size = largest_micro_batch(spec, model, dataset, device, min(most, len(dataset.train)), span)
    return Examined(dataset, model, normalises, micro_batch_size, fingerprint(dataset), trial)
