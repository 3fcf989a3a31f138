"""One training job, from its spec to its summary.

prepare: spec -> data, model, plan     nothing is written, all bad input is found
run_job: plan -> journal, checkpoints, summary
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jobs import checkpoints, run_folder
from jobs.data.batches import Batches, DeviceBatches, LoaderBatches
from jobs.data.dataset import Dataset, Images
from jobs.data.sources import load_dataset
from jobs.device import device_name, environment, largest_micro_batch
from jobs.engine.clock import Clock
from jobs.engine.evaluate import Score, evaluate, evaluation_weights
from jobs.engine.loop import train
from jobs.engine.state import TrainState, WeightAverage
from jobs.engine.warm_up import refuse_misfit, warm_up
from jobs.errors import CheckpointError, DivergedError
from jobs.models.ghost_batch_norm import has_batch_norm, use_ghost_batch_norm
from jobs.models.table import build_model
from jobs.optim.table import build_optimizer
from jobs.plan import Facts, TrainPlan, make_plan, resolve_global_batch_size, resolve_span
from jobs.plan_report import plan_facts
from jobs.records import EndRecord, NoticeRecord, Outcome, Record, RunSummary, StartRecord
from jobs.spec import TrainSpec
from jobs.tracking.journal import Journal


@dataclass(frozen=True)
class Prepared:
    """A job that is ready to run: everything that bad input could spoil was checked."""

    spec: TrainSpec
    plan: TrainPlan
    dataset: Dataset
    model: nn.Module
    device: torch.device


@dataclass(frozen=True)
class Listener:
    """What a job tells while it runs, and what it asks."""

    on_record: Callable[[Record], None] = lambda record: None
    on_notice: Callable[[str], None] = lambda text: None
    should_stop: Callable[[], bool] = lambda: False


def prepare(spec: TrainSpec, device: torch.device, data_dir: Path) -> Prepared:
    """Load the data, build the model and make the plan. Raises: InputError; writes nothing."""
    dataset = load_dataset(spec.dataset, data_dir)
    global_batch_size = resolve_global_batch_size(spec, len(dataset.train))
    model = build_model(spec.model, dataset.input_shape, dataset.num_classes, spec.seed)
    normalises = has_batch_norm(model)
    span = resolve_span(spec, global_batch_size) if normalises else 1
    if normalises:
        model = use_ghost_batch_norm(model, span)
    model = model.to(device).train()
    refuse_misfit(model, dataset)
    most = global_batch_size
    if spec.batch.schedule.growth:
        most = int(most * max(milestone.factor for milestone in spec.batch.schedule.growth))
    micro_batch_size = largest_micro_batch(spec, model, dataset, device, min(most, len(dataset.train)), span)
    plan = make_plan(spec, Facts(len(dataset.train), normalises, micro_batch_size))
    return Prepared(spec, plan, dataset, model, device)


def run_job(job: Prepared, run_dir: Path, listener: Listener, resumes: bool = False) -> RunSummary:
    """Train in this process and leave the whole story in `run_dir`.

    Raises: StorageError (the last checkpoint is whole), CheckpointError, FaultError.
    """
    state = _new_state(job)
    with Journal(run_dir) as journal:
        if resumes:
            loaded = checkpoints.load_newest(run_dir / run_folder.CHECKPOINTS, job.device, listener.on_notice)
            checkpoints.refuse_other_spec(loaded["spec"], job.spec)
            _take_over(state, loaded["state"])
        _write_facts(job, run_dir)
        tracker = _Tracker(journal, listener)
        tracker.write(_start_record(job, state))
        warm_up(state, job.plan, job.dataset)
        outcome = _train(job, state, journal, tracker, run_dir, listener)
        summary = _summarise(job, state, outcome, run_dir)
        tracker.write(EndRecord(summary=summary))
        journal.sync()
    run_folder.write_text(run_dir / run_folder.SUMMARY, summary.model_dump_json(indent=2) + "\n")
    return summary


@dataclass(frozen=True)
class _Tracker:
    """Journal first, then whoever listens."""

    journal: Journal
    listener: Listener

    def write(self, record: Record) -> None:
        """Take one record down and pass it on."""
        self.journal.write(record)
        if isinstance(record, NoticeRecord):
            self.listener.on_notice(record.text)
        self.listener.on_record(record)


def _new_state(job: Prepared) -> TrainState:
    spec, model = job.spec, job.model
    average = None
    if spec.ema:
        power = job.plan.global_batch_size / spec.ema.base_global_batch_size if spec.ema.base_global_batch_size else 1.0
        average = WeightAverage(model, spec.ema.decay**power)
    return TrainState(
        model=model,
        forward=torch.compile(model) if spec.compile else model,
        optimizer=build_optimizer(model, spec.optimizer),
        clock=Clock(job.device),
        micro_batch_size=job.plan.micro_batch_size,
        average=average,
    )


def _take_over(state: TrainState, saved: dict[str, Any]) -> None:
    """Load a checkpoint of the same spec. Raises: CheckpointError if a person's own model has changed since."""
    try:
        state.load_state_dict(saved)
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            "model", f"the checkpoint does not fit this model: {error}.", "The model's code has changed since; restore it, or start a new run."
        ) from error


def _train(job: Prepared, state: TrainState, journal: Journal, tracker: _Tracker, run_dir: Path, listener: Listener) -> Outcome:
    test = evaluation_batches(job, job.dataset.test)

    def save(is_best: bool) -> None:
        journal.sync()
        checkpoints.save(run_dir / run_folder.CHECKPOINTS, state.state_dict(), job.spec, is_best=is_best)
        state.saved_at_s = state.clock.training_s

    def score() -> Score:
        return evaluate(state, test, len(job.dataset.test), job.spec.precision == "bfloat16")

    try:
        return train(state, job.plan, training_batches(job), evaluate=score, tracker=tracker, save=save, should_stop=listener.should_stop)
    except DivergedError as error:
        tracker.write(NoticeRecord(step=state.progress.step, text=f"Diverged: {error.problem} {error.hint}"))
        return Outcome.DIVERGED


def training_batches(job: Prepared) -> Batches:
    """The training samples, in the plan's order, augmented."""
    spec, part = job.spec, job.dataset.train
    if isinstance(part, Images):
        return DeviceBatches(part, job.dataset, job.device, channels_last=spec.model.channels_last, seed=spec.seed, augment_spec=spec.dataset.augment)
    return LoaderBatches(
        part,
        job.dataset,
        job.device,
        num_workers=spec.dataset.num_workers,
        # Where the batch changes, epochs end in different places: read on, and start anew after a dropped rest.
        samples_per_epoch=job.plan.num_train_samples if job.plan.has_batch_schedule else job.plan.samples_per_epoch,
        channels_last=spec.model.channels_last,
        seed=spec.seed,
    )


def evaluation_batches(job: Prepared, part: Any) -> Batches:
    """The samples of one part in the file's order."""
    if isinstance(part, Images):
        return DeviceBatches(part, job.dataset, job.device, channels_last=job.spec.model.channels_last)
    return LoaderBatches(
        part,
        job.dataset,
        job.device,
        num_workers=job.spec.dataset.num_workers,
        samples_per_epoch=len(part),
        channels_last=job.spec.model.channels_last,
        shuffles=False,
    )


def _start_record(job: Prepared, state: TrainState) -> StartRecord:
    return StartRecord(
        at_s=time.time(),
        step=state.progress.step,
        training_seconds=state.clock.training_s,
        world_size=job.plan.world_size,
        device=device_name(job.device),
    )


def _write_facts(job: Prepared, run_dir: Path) -> None:
    run_folder.write_text(run_dir / run_folder.SPEC, job.spec.model_dump_json(indent=2) + "\n")
    run_folder.write_text(run_dir / run_folder.PLAN, json.dumps(plan_facts(job.plan), indent=2) + "\n")
    run_folder.write_text(run_dir / run_folder.ENVIRONMENT, json.dumps(environment(job.device), indent=2) + "\n")


def _summarise(job: Prepared, state: TrainState, outcome: Outcome, run_dir: Path) -> RunSummary:
    progress, clock, plan = state.progress, state.clock, job.plan
    train_accuracy = None
    if outcome not in {Outcome.DIVERGED, Outcome.STOPPED}:
        with clock.evaluating():
            train_accuracy = _train_accuracy(job, state)
    return RunSummary(
        run_id=run_dir.name,
        outcome=outcome,
        global_batch_size=plan.global_batch_size,
        micro_batch_size=state.micro_batch_size,
        gradient_accumulation_steps=-(-plan.global_batch_size // (state.micro_batch_size * plan.world_size)),
        world_size=plan.world_size,
        steps=progress.step,
        epochs=progress.epoch + progress.offset / plan.num_train_samples,
        samples_seen=progress.samples_seen,
        training_seconds=clock.training_s,
        evaluation_seconds=clock.evaluation_s,
        wall_seconds=clock.wall_s,
        samples_per_second=progress.samples_seen / clock.training_s if progress.samples_seen else None,
        target_accuracy=job.spec.stop.target_accuracy,
        time_to_accuracy_seconds=progress.time_to_accuracy_s,
        steps_to_accuracy=progress.steps_to_accuracy,
        test_accuracy=progress.test_accuracy,
        best_test_accuracy=progress.best_test_accuracy,
        train_accuracy=train_accuracy,
        gradient_noise_scale=state.noise.noise_scale,
        parameters_sha256=parameters_sha256(state),
        run_dir=str(run_dir),
        mlflow_run_id=None,
    )


def _train_accuracy(job: Prepared, state: TrainState) -> float:
    part = job.dataset.train
    return evaluate(state, evaluation_batches(job, part), len(part), job.spec.precision == "bfloat16").accuracy


def parameters_sha256(state: TrainState) -> str:
    """A fingerprint of the weights that are evaluated, bit by bit, and of the running statistics."""
    digest = hashlib.sha256()
    with evaluation_weights(state) if state.average else contextlib.nullcontext():
        for name, tensor in sorted(state.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
