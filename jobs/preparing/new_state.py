"""The state of a job before its first step: here its parts are built, which `TrainState` holds."""

import torch

from largebatch.jobs.data.sources.validation import mixed_samples, some_samples
from largebatch.jobs.engine.clock import Clock
from largebatch.jobs.engine.ranks.all_reduce import AllReduce
from largebatch.jobs.engine.ranks.buffers import Buffers
from largebatch.jobs.engine.ranks.local_sgd import LocalSGD
from largebatch.jobs.engine.state import TrainingSamples, TrainState
from largebatch.jobs.models.norms.last_steps import LastSteps
from largebatch.jobs.models.sample_dropout import sample_dropouts
from largebatch.jobs.optim.averaging.schedule_free import EvaluatedAverage
from largebatch.jobs.optim.averaging.weight_average import WeightAverage
from largebatch.jobs.optim.parameter_groups import build_optimizer
from largebatch.jobs.preparing.batches import evaluation_batches
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.tasks.contrastive import CoupledTask


def new_state(job: Prepared) -> TrainState:
    """Everything that will change, as it is before the first step."""
    spec, model, ranks, findings = job.spec, job.model, job.ranks, job.findings
    optimizer = build_optimizer(model, spec.optimizer, job.heads)
    average: WeightAverage | EvaluatedAverage | None = spec.optimizer.evaluated_average(model, optimizer)
    if spec.ema:
        average = WeightAverage(model, spec.ema.decay)
    num_last_steps = spec.batch_norm.average_last_steps
    return TrainState(
        model=model,
        forward=torch.compile(model) if spec.compile else model,
        task=job.task,
        metric=job.metric,
        optimizer=optimizer,
        seed=spec.seed,
        micro_batch_size=job.plan.micro_batch_size,
        clock=Clock(job.device, job.began),
        ranks=ranks,
        all_reduce=AllReduce(model, ranks, spec.reduction),
        local_sgd=LocalSGD(model, optimizer, ranks, average.averages if average else []),
        buffers=Buffers(model, ranks, findings.once_a_step, LastSteps(model, num_last_steps) if num_last_steps else None),
        dropouts=sample_dropouts(model),
        average=average,
        by_samples=[*findings.by_samples, *findings.by_passes],
        references=_references(job),
        norm_samples=_norm_samples(job),
    )


def _references(job: Prepared) -> TrainingSamples | None:
    """The training samples that the task wants evaluation to compare with."""
    if not isinstance(job.task, CoupledTask) or not job.task.num_references:
        return None
    part = some_samples(job.dataset.train, job.task.num_references)
    return TrainingSamples(evaluation_batches(job, part), len(part))


def _norm_samples(job: Prepared) -> TrainingSamples | None:
    """The training samples, in whole groups, of which batch-norms take their statistics at an average of the weights that is evaluated."""
    if job.plan.num_norm_samples is None:
        return None
    part = mixed_samples(job.dataset.train, job.plan.num_norm_samples)
    return TrainingSamples(evaluation_batches(job, part, unit=job.plan.unit), len(part))
