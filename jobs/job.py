"""One training job, from its spec to its summary.

prepare: spec -> data, model, plan     nothing is written, all bad input is found
run_job: plan -> journal, checkpoints, summary
"""

import contextlib
import itertools
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from largebatch.jobs.data.dataset import Dataset, Images
from largebatch.jobs.data.fingerprint import DatasetFingerprint, write_fingerprint
from largebatch.jobs.data.loaders import Batches, DeviceBatches, LoaderBatches
from largebatch.jobs.data.reading import NO_ASKING, Patience
from largebatch.jobs.data.same_data import refuse_other_data, refuse_other_workers_data
from largebatch.jobs.device import device_name, environment
from largebatch.jobs.engine.clock import Clock
from largebatch.jobs.engine.core_wait import CoreWait, in_words
from largebatch.jobs.engine.evaluate import Score, evaluate, evaluation_share, evaluation_weights, refuse_non_finite_samples
from largebatch.jobs.engine.loop import train
from largebatch.jobs.engine.model_state import digest, take_from_first
from largebatch.jobs.engine.model_trial.norms import try_norms
from largebatch.jobs.engine.model_trial.trial import Findings, refuse_unfit
from largebatch.jobs.engine.out_of_memory import keep_host_memory
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.engine.state import TrainState, WeightAverage
from largebatch.jobs.engine.warm_up import activation_bytes_per_sample, warm_up
from largebatch.jobs.errors import CodeError, DivergedError, InputError, LargebatchError
from largebatch.jobs.examination import Examined, examine
from largebatch.jobs.models.held import Held
from largebatch.jobs.models.norms.ghost_batch_norm import evaluation_unit
from largebatch.jobs.models.parameters import description, refuse_unlike_first
from largebatch.jobs.optim.parameter_groups import build_optimizer
from largebatch.jobs.plan.describe import DataFacts, plan_facts, plan_lines, unread_in_words
from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.plan.train_plan import Slice, TrainPlan
from largebatch.jobs.resume import save_checkpoint, saved_state, take_up
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.journal import Journal, Keeps, NoJournal
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import FAILED, EndRecord, NoticeRecord, Outcome, Record, RunSummary, StartRecord
from largebatch.jobs.spec.train_spec import TrainSpec


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
    findings: Findings = field(default_factory=Findings)
    """About a person's own model."""
    began: float = field(default_factory=time.perf_counter)
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


def prepare(spec: TrainSpec, device: torch.device, data_dir: Path, world_size: int | None = None) -> Prepared:
    """Load the data, build the model and make the plan, on every rank alike.

    Args: world_size: plan for so many ranks without having them.
    Raises: InputError, on every rank the same; nothing is written.
    """
    began = time.perf_counter()
    ranks = Ranks(device)

    def examine_if(is_my_turn: bool) -> Examined | None:
        return examine(spec, device, data_dir) if is_my_turn else None

    # Rank 0 goes ahead: what it downloads, the others find.
    first = ranks.agreed(lambda: examine_if(ranks.is_first))
    found = ranks.agreed(lambda: examine_if(not ranks.is_first)) or first
    assert found is not None
    taken = ranks.from_first(lambda: found.fingerprint)
    ranks.agreed(lambda: refuse_other_workers_data(found.dataset, found.fingerprint, taken, ranks.rank))
    first_parameters = ranks.from_first(lambda: description(found.model))
    ranks.agreed(lambda: refuse_unlike_first(description(found.model), first_parameters, ranks.rank))
    facts = Facts(len(found.dataset.train), found.normalises, ranks.smallest(found.micro_batch_size), world_size or ranks.world_size)
    plan = ranks.agreed(lambda: make_plan(spec, facts))
    ranks.agreed(lambda: try_norms(found.model, plan, found.dataset))
    trial = found.trial
    if trial is not None:
        ranks.agreed(lambda: refuse_unfit(trial, plan))
    take_from_first(found.model, ranks)
    return Prepared(spec, plan, found.dataset, found.model, device, ranks, taken, trial.findings if trial else Findings(), began)


def run_job(
    job: Prepared,
    run_dir: Path,
    listener: Listener,
    resumes: bool = False,
    reasons: Sequence[str] = (),
    draw: Callable[[Path], None] = lambda run_dir: None,
) -> RunSummary:
    """Train, as one of the ranks, and leave the whole story in `run_dir`.

    Args:
        reasons: why the run is taken up again, for the journal.
        draw: draws the run's figure into its folder.
    Raises: StorageError (the last checkpoint is whole), CheckpointError, FaultError; what the run failed of stands in the journal, then.
    """
    state = new_state(job)
    with Journal(run_dir) if job.ranks.is_first else NoJournal() as journal:
        if resumes:
            data = job.dataset, job.fingerprint, run_dir, job.spec.dataset.may_change
            reasons = [*reasons, *take_up(state, job.spec, run_dir, listener.on_notice, lambda: refuse_other_data(*data))]
        if job.ranks.is_first:
            write_facts(job, run_dir)
        tracker = _Tracker(journal, listener)
        tracker.write(_start_record(job, state))
        if not resumes and not reasons:  # a run that is taken up again has said it
            for text in (*job.dataset.notices, *job.findings.notices, *filter(None, (unread_in_words(job.plan),))):
                tracker.write(NoticeRecord(step=state.progress.step, text=text))
        for reason in reasons:
            tracker.write(NoticeRecord(step=state.progress.step, text=f"{reason} Going on from step {state.progress.step}."))
        try:
            held = Held(state.model, weights=bool(job.findings.by_forward))
            warm_up(state, job.plan, job.dataset)
            held.put_back()
            core_wait = CoreWait()
            outcome = _train(job, state, journal, tracker, run_dir, listener)
            waited = core_wait.longest(job.ranks)
            if (disturbance := in_words(waited)) is not None:
                tracker.write(NoticeRecord(step=state.progress.step, text=disturbance))
            summary = _summarise(job, state, outcome, run_dir).model_copy(update={"core_wait_fraction": waited})
        except Exception as error:
            _end_failed(job, state, journal, run_dir, error)
            raise
        if job.ranks.is_first:
            # Before the end record: whoever reads that, the mirror for one, finds them.
            run_folder.write_text(run_dir / run_folder.SUMMARY, summary.model_dump_json(indent=2) + "\n")
            _try_to_draw(draw, run_dir, listener)
        tracker.write(EndRecord(summary=summary))
        journal.sync()
    return summary


def _end_failed(job: Prepared, state: TrainState, journal: Keeps, run_dir: Path, error: Exception) -> None:
    """Write down that the run has ended, and of what; whoever trains it is told by the error itself."""
    if not job.ranks.is_first or (job.ranks.world_size > 1 and not isinstance(error, (InputError, CodeError))):
        return  # of several workers one may have been lost: the others go on
    reason = str(error) if isinstance(error, LargebatchError) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(Exception):  # what failed may be the disk, or a part of the model that the summary asks
        journal.write(NoticeRecord(step=state.progress.step, text=f"{FAILED}{' '.join(reason.split())}"))
        summary = _summarise(job, state, Outcome.FAILED, run_dir)
        run_folder.write_text(run_dir / run_folder.SUMMARY, summary.model_dump_json(indent=2) + "\n")
        journal.write(EndRecord(summary=summary))
        journal.sync()


def _try_to_draw(draw: Callable[[Path], None], run_dir: Path, listener: Listener) -> None:
    """A figure that cannot be drawn costs no run."""
    try:
        draw(run_dir)
    except Exception as error:  # a plotting library's, or a full disk's
        listener.on_notice(f"The run's figure could not be drawn ({' '.join(str(error).split()) or type(error).__name__}); everything else is there.")


@dataclass(frozen=True)
class _Tracker:
    """Journal first, then whoever listens."""

    journal: Keeps
    listener: Listener

    def write(self, record: Record) -> None:
        """Take one record down and pass it on."""
        self.journal.write(record)
        if isinstance(record, NoticeRecord):
            self.listener.on_notice(record.text)
        self.listener.on_record(record)


def new_state(job: Prepared) -> TrainState:
    """Everything that will change, as it is before the first step."""
    spec, model = job.spec, job.model
    if job.device.type == "cpu":
        keep_host_memory()
    average = None
    if spec.ema:
        power = job.plan.global_batch_size / spec.ema.base_global_batch_size if spec.ema.base_global_batch_size else 1.0
        average = WeightAverage(model, spec.ema.decay**power)
    return TrainState(
        model=model,
        forward=torch.compile(model) if spec.compile else model,
        optimizer=build_optimizer(model, spec.optimizer),
        clock=Clock(job.device, job.began),
        micro_batch_size=job.plan.micro_batch_size,
        reduction=spec.reduction,
        average=average,
        once_a_step=job.findings.once_a_step,
        by_samples=[*job.findings.by_samples, *job.findings.by_passes],
    )


def _train(job: Prepared, state: TrainState, journal: Keeps, tracker: _Tracker, run_dir: Path, listener: Listener) -> Outcome:
    patience = Patience(listener.should_stop, listener.on_notice)
    test = evaluation_batches(job, job.dataset.test, patience)

    def save(is_best: bool) -> None:
        # An update that overflowed shows in the next step's loss; until then it must not push out a checkpoint that is sound.
        if job.ranks.is_first and all(bool(parameter.isfinite().all()) for parameter in state.model.parameters()):
            journal.sync()
            save_checkpoint(run_dir / run_folder.CHECKPOINTS, saved_state(state), job.spec, is_best=is_best)
        state.saved_at_s, state.saved_at_step = state.clock.training_s, state.progress.step

    def score() -> Score:
        def notify(text: str) -> None:
            tracker.write(NoticeRecord(step=state.progress.step, text=text))

        num_samples, bfloat16 = len(job.dataset.test), job.spec.precision == "bfloat16"
        score = evaluate(state, test, num_samples, bfloat16, notify=notify)
        if not math.isfinite(score.loss):
            refuse_non_finite_samples(state, test, num_samples, bfloat16)
        return score

    try:
        return train(
            state,
            job.plan,
            training_batches(job, patience),
            evaluate=score,
            tracker=tracker,
            save=save,
            should_stop=listener.should_stop,
        )
    except DivergedError as error:
        tracker.write(NoticeRecord(step=state.progress.step, text=f"Diverged: {error.problem} {error.hint}"))
        return Outcome.DIVERGED


def training_batches(job: Prepared, patience: Patience = NO_ASKING) -> Batches:
    """The training samples, in the plan's order, augmented."""
    spec, part = job.spec, job.dataset.train
    if isinstance(part, Images):
        return DeviceBatches(
            part,
            job.dataset,
            job.device,
            channels_last=spec.model.channels_last,
            seed=spec.seed,
            augment_spec=spec.dataset.augment,
            reads_on=job.ranks.world_size == 1,  # of several ranks each leaves out the shares of the others
        )
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


def _start_record(job: Prepared, state: TrainState) -> StartRecord:
    first = Slice(0, 0, job.plan.global_batch_size)
    return StartRecord(
        at_s=time.time(),
        step=state.progress.step,
        training_seconds=state.clock.training_s,
        world_size=job.plan.world_size,
        device=device_name(job.device),
        micro_batch_size=state.micro_batch_size,
        samples_per_rank=[job.plan.rank_share(first, rank).size for rank in range(job.plan.world_size)],
        num_train_samples=job.plan.num_train_samples,
        num_test_samples=len(job.dataset.test),
        num_classes=job.dataset.num_classes,
    )


def write_facts(job: Prepared, run_dir: Path) -> None:
    """Write what is decided before step 0 into a run's folder: spec, plan, fingerprint of the data, environment. Raises: StorageError."""
    run_folder.write_text(run_dir / run_folder.SPEC, job.spec.model_dump_json(indent=2) + "\n")
    run_folder.write_text(run_dir / run_folder.PLAN, json.dumps(job.plan_in_numbers(), indent=2) + "\n")
    write_fingerprint(run_dir, job.fingerprint)
    run_folder.write_text(run_dir / run_folder.ENVIRONMENT, json.dumps(environment(job.device), indent=2) + "\n")


def _summarise(job: Prepared, state: TrainState, outcome: Outcome, run_dir: Path) -> RunSummary:
    progress, clock, plan = state.progress, state.clock, job.plan
    train_accuracy = None
    if outcome not in {Outcome.DIVERGED, Outcome.STOPPED, Outcome.FAILED}:
        with clock.evaluating():
            train_accuracy = _train_accuracy(job, state)
    return RunSummary(
        run_id=run_dir.name,
        outcome=outcome,
        global_batch_size=plan.global_batch_size,
        micro_batch_size=state.micro_batch_size,
        gradient_accumulation_steps=-(-plan.largest_share(Slice(0, 0, plan.global_batch_size)) // state.micro_batch_size),
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
        parameters_sha256=None if outcome is Outcome.FAILED else parameters_sha256(state),
        run_dir=str(run_dir),
        mlflow_run_id=None,
    )


def _train_accuracy(job: Prepared, state: TrainState) -> float | None:
    """None where samples that no step read, such as those of a dropped last batch, have no finite loss."""
    part = job.dataset.train
    score = evaluate(state, evaluation_batches(job, part), len(part), job.spec.precision == "bfloat16")
    return score.accuracy if math.isfinite(score.loss) else None


def parameters_sha256(state: TrainState) -> str:
    """A fingerprint of the weights that are evaluated, bit by bit, and of the running statistics."""
    with evaluation_weights(state) if state.average else contextlib.nullcontext():
        return digest(state.model)
