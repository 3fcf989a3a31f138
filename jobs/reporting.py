"""What a run says of itself: its facts before the first step, notices on the way, and a summary at its end."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from largebatch.jobs.data.fingerprint import DATA
from largebatch.jobs.data.sources.validation import some_samples
from largebatch.jobs.device import device_name, environment
from largebatch.jobs.engine.evaluation.evaluate import evaluate
from largebatch.jobs.engine.evaluation.forward import evaluation_weights
from largebatch.jobs.engine.model_state import digest
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.errors import CodeError, InputError, LargebatchError
from largebatch.jobs.plan.describe import chosen_on_test_in_words, nothing_left_in_words, unread_in_words
from largebatch.jobs.plan.notices import averages_and_decays_in_words, never_met_in_words
from largebatch.jobs.preparing.batches import evaluation_batches
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.journal import Journal
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import FAILED, EndRecord, Headline, NoticeRecord, Outcome, Record, RunSummary, StartRecord
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.tasks.contrastive import CoupledTask
from largebatch.jobs.whole_files import write_text, write_whole


@dataclass(frozen=True)
class Tracker:
    """Writes each record into the journal first, then passes it on to whoever listens."""

    journal: Journal
    listener: Listener
    state: TrainState

    def write(self, record: Record) -> None:
        """Take one record down and pass it on."""
        self.journal.write(record)
        if isinstance(record, NoticeRecord):
            self.listener.on_notice(record.text)
        self.listener.on_record(record)

    def notice(self, text: str) -> None:
        """Say what a person should know, as of the step just done."""
        self.write(NoticeRecord(step=self.state.progress.step, text=text))


def begin(job: Prepared, run_dir: Path, tracker: Tracker, reasons: Sequence[str], goes_on: bool) -> None:
    """Write down what the run begins with, or why it goes on."""
    state, plan = tracker.state, job.plan
    if job.ranks.is_first:
        write_facts(job, run_dir)
    full = Slice(0, 0, plan.global_batch_size)
    start = StartRecord(
        at_s=time.time(),
        step=state.progress.step,
        training_seconds=state.clock.training_s,
        world_size=plan.world_size,
        device=device_name(job.device),
        micro_batch_size=state.micro_batch_size,
        samples_per_rank=[full.share(rank, plan.world_size, plan.unit).size for rank in range(plan.world_size)],
        num_train_samples=plan.num_train_samples,
        num_test_samples=len(job.dataset.test),
        num_validation_samples=job.dataset.num_validation_samples,
        evaluated_on=job.dataset.evaluated_on,
        num_classes=job.dataset.num_classes,
        tokens_per_sample=plan.tokens_per_sample,
        headline=Headline.of(job.metric),
    )
    tracker.write(start)
    if not goes_on and not reasons:  # a run that goes on has said it
        of_plan = [words(job.plan) for words in (unread_in_words, nothing_left_in_words, never_met_in_words, averages_and_decays_in_words)]
        notices = filter(None, (*of_plan, chosen_on_test_in_words(job.dataset)))
        for text in (*job.dataset.notices, *job.beginning, *job.findings.notices, *notices):
            tracker.notice(text)
    for reason in reasons:
        tracker.notice(f"{reason} Going on from step {state.progress.step}.")


def write_facts(job: Prepared, run_dir: Path) -> None:
    """Write down what the run begins with: spec, plan, data, machine."""
    write_text(run_dir / run_folder.SPEC, job.spec.model_dump_json(indent=2) + "\n")
    write_text(run_dir / run_folder.PLAN, json.dumps(job.plan_in_numbers(), indent=2) + "\n")
    write_text(run_dir / DATA, job.fingerprint.model_dump_json() + "\n")
    write_text(run_dir / run_folder.ENVIRONMENT, json.dumps({**environment(job.device), "data_dir": str(job.data_dir)}, indent=2) + "\n")


def end(job: Prepared, run_dir: Path, tracker: Tracker, summary: RunSummary, draw: Callable[[Path], None]) -> None:
    """Leave summary and figure in the run's folder, then say that the run has ended: whoever reads that, the mirror for one, finds them."""
    if job.ranks.is_first:
        write_text(run_dir / run_folder.SUMMARY, summary.model_dump_json(indent=2) + "\n")
        if job.spec.tracking.logs_model and summary.outcome.is_result:
            keep_model(tracker, run_dir)
        try:
            draw(run_dir)
        except Exception as error:  # a plotting library's, or a full disk's: it costs no run
            reason = " ".join(str(error).split()) or type(error).__name__
            tracker.listener.on_notice(f"The run's figure could not be drawn ({reason}); everything else is there.")
    tracker.write(EndRecord(summary=summary))
    tracker.journal.sync()


def keep_model(tracker: Tracker, run_dir: Path) -> None:
    """Leave the whole model in the run's folder, for MLflow; one that cannot be pickled costs no run."""
    try:
        with evaluation_weights(tracker.state), write_whole(run_dir / run_folder.MODEL) as file:
            torch.save(tracker.state.model, file)
    except Exception as error:  # a person's model may hold anything
        reason = " ".join(str(error).split()) or type(error).__name__
        tracker.notice(f"MLflow gets no model: it cannot be pickled ({reason}). `largebatch export` writes its weights.")


def end_failed(job: Prepared, run_dir: Path, tracker: Tracker, error: Exception) -> None:
    """Write down that the run has ended, and of what; whoever trains it is told by the error itself."""
    if not job.ranks.is_first or (job.ranks.world_size > 1 and not isinstance(error, (InputError, CodeError))):
        return  # of several workers one may have been lost: the others go on
    state, journal = tracker.state, tracker.journal
    reason = str(error) if isinstance(error, LargebatchError) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(Exception):  # what failed may be the disk, or a part of the model that the summary asks
        journal.write(NoticeRecord(step=state.progress.step, text=f"{FAILED}{' '.join(reason.split())}"))
        summary = summarise(job, state, Outcome.FAILED, run_dir)
        write_text(run_dir / run_folder.SUMMARY, summary.model_dump_json(indent=2) + "\n")
        journal.write(EndRecord(summary=summary))
        journal.sync()


def summarise(
    job: Prepared, state: TrainState, outcome: Outcome, run_dir: Path, core_wait_fraction: float | None = None, stopped_s: float | None = None
) -> RunSummary:
    """The run in numbers."""
    progress, clock, plan = state.progress, state.clock, job.plan
    tokens_seen = plan.in_tokens(progress.samples_seen)
    train_score, test_scores = None, None
    if outcome not in {Outcome.DIVERGED, Outcome.STOPPED, Outcome.FAILED}:
        with clock.evaluating():
            # Without classes there may be billions of tokens: as many samples as are tested tell how far the two are apart. And among more
            # samples a partner is harder to find.
            are_all = job.dataset.num_classes and not isinstance(job.task, CoupledTask)
            number = plan.num_train_samples if are_all else min(plan.num_train_samples, len(job.dataset.evaluated))
            scores = evaluate(state, evaluation_batches(job, some_samples(job.dataset.train, number)), number, job.spec.precision)
            if job.dataset.evaluated_on == "validation":  # the only time that the test set is scored
                test_scores = evaluate(state, evaluation_batches(job, job.dataset.test), len(job.dataset.test), job.spec.precision)
                test_scores = {name: score for name, score in test_scores.items() if math.isfinite(score)}
        # Samples that no step read, such as those of a dropped last batch, may have no finite loss.
        train_score = scores[job.metric.name] if math.isfinite(scores["loss"]) else None
    core_wait_fraction, stopped_s = _since_the_beginning(run_dir, clock.training_s + clock.evaluation_s, core_wait_fraction, stopped_s)
    return RunSummary(
        run_id=run_dir.name,
        outcome=outcome,
        global_batch_size=plan.global_batch_size,
        micro_batch_size=state.micro_batch_size,
        gradient_accumulation_steps=plan.num_micro_batches(state.micro_batch_size),
        world_size=plan.world_size,
        steps=progress.step,
        epochs=progress.epoch + progress.offset / plan.num_train_samples,
        samples_seen=progress.samples_seen,
        tokens_per_sample=plan.tokens_per_sample,
        training_seconds=clock.training_s,
        evaluation_seconds=clock.evaluation_s,
        wall_seconds=clock.wall_s,
        samples_per_second=progress.samples_seen / clock.training_s if progress.samples_seen else None,
        tokens_seen=tokens_seen,
        tokens_per_second=tokens_seen / clock.training_s if tokens_seen else None,
        headline=Headline.of(job.metric),
        target=job.spec.stop.target_score,
        time_to_target_seconds=progress.time_to_target_s,
        steps_to_target=progress.steps_to_target,
        score=progress.score,
        best_score=progress.best_score,
        train_score=train_score,
        evaluated_on=job.dataset.evaluated_on,
        test_score=test_scores.get(job.metric.name) if test_scores else None,
        test_scores=test_scores,
        gradient_noise_scale=state.noise.noise_scale if plan.measures_pieces else None,
        norms_noise_scale=None if plan.measures_pieces else state.noise.noise_scale,
        dual_noise_scale=state.dual_noise.noise_scale if plan.measures_dual_norm else None,
        parameters_sha256=None if outcome is Outcome.FAILED else parameters_sha256(state),
        core_wait_fraction=core_wait_fraction,
        stopped_seconds=stopped_s,
        run_dir=str(run_dir),
        mlflow_run_id=None,
    )


def _since_the_beginning(
    run_dir: Path, clock_s: float, core_wait_fraction: float | None, stopped_s: float | None
) -> tuple[float | None, float | None]:
    """How the clock was disturbed before a resume, too, as far as an earlier summary tells: its seconds are all in the clock."""
    try:
        before = RunSummary.model_validate_json((run_dir / run_folder.SUMMARY).read_text())
    except (OSError, ValueError):  # the first time, or killed before it could write one
        return core_wait_fraction, stopped_s
    before_s = before.training_seconds + before.evaluation_seconds
    parts = [(before.core_wait_fraction, before_s), (core_wait_fraction, max(clock_s - before_s, 0.0))]
    known = [(fraction, seconds) for fraction, seconds in parts if fraction is not None and seconds > 0]
    waited = sum(fraction * seconds for fraction, seconds in known) / sum(seconds for _, seconds in known) if known else None
    stops = [seconds for seconds in (before.stopped_seconds, stopped_s) if seconds is not None]
    return waited, sum(stops) if stops else None


def parameters_sha256(state: TrainState) -> str:
    """A fingerprint of the weights that are evaluated, bit by bit, and of the running statistics."""
    with evaluation_weights(state) if state.average else contextlib.nullcontext():
        return digest(state.model)
