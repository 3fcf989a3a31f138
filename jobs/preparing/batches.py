"""The samples of a job: to train on in the plan's order, and to evaluate on in the file's."""

import itertools
from typing import Any

from largebatch.jobs.data.batches import Batches, DeviceBatches
from largebatch.jobs.data.loaders import LoaderBatches
from largebatch.jobs.data.reading import NO_ASKING, Patience
from largebatch.jobs.engine.evaluation.forward import evaluation_share
from largebatch.jobs.models.norms.ghost_batch_norm import evaluation_unit
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.samples.dataset import Held


def training_batches(job: Prepared, patience: Patience = NO_ASKING) -> Batches:
    """The training samples, in the plan's order, augmented."""
    spec, part = job.spec, job.dataset.train
    if isinstance(part, Held):
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


def evaluation_batches(job: Prepared, part: Any, patience: Patience = NO_ASKING, unit: int | None = None) -> Batches:
    """The samples of one part in the file's order. Args: unit: samples that pass forward together, where it is not what evaluation asks for."""
    if isinstance(part, Held):
        return DeviceBatches(part, job.dataset, job.device, channels_last=job.spec.model.channels_last)
    return LoaderBatches(
        part,
        job.dataset,
        job.device,
        num_workers=job.spec.dataset.num_workers,
        stream=lambda epoch: itertools.repeat(evaluation_share(len(part), job.ranks, unit or evaluation_unit(job.model))._replace(epoch=epoch)),
        channels_last=job.spec.model.channels_last,
        shuffles=False,
        patience=patience,
    )
