"""One training job, from its spec to its summary.

prepare: spec -> data, model, plan     nothing is written, all bad input is found
run_job: plan -> journal, checkpoints, summary
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from largebatch.jobs.data.reading import Patience
from largebatch.jobs.data.same_data import refuse_other_workers_data
from largebatch.jobs.engine import core_wait as core_waits
from largebatch.jobs.engine import standstill as standstills
from largebatch.jobs.engine.evaluation.evaluate import Scores, evaluate, refuse_non_finite_samples
from largebatch.jobs.engine.gradient.share import Share
from largebatch.jobs.engine.loop import train
from largebatch.jobs.engine.model_check.check import refuse_unfit
from largebatch.jobs.engine.model_check.kept.carried_state import Findings
from largebatch.jobs.engine.model_check.norm_gradients import refuse_untold_norm_gradients
from largebatch.jobs.engine.model_state import take_from_first
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.engine.warm_up import warm_up
from largebatch.jobs.errors import DivergedError
from largebatch.jobs.models.parameters import description, refuse_unlike_first
from largebatch.jobs.models.snapshot import restored
from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.preparing.batches import evaluation_batches, training_batches
from largebatch.jobs.preparing.examine import examine, training_set
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.reporting import Tracker, begin, end, end_failed, summarise
from largebatch.jobs.resume import save_checkpoint, saved_state, take_up
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.journal import Journal, NoJournal
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import Outcome, RunSummary
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tasks.contrastive import CoupledTask


def prepare(
    spec: TrainSpec,
    device: torch.device,
    data_dir: Path,
    world_size: int | None = None,
    most_weight_bytes: float = math.inf,
    loaded: Dataset | None = None,
) -> Prepared:
    """Load the data, build the model and make the plan, on every rank alike.

    Args:
        world_size: plan for so many ranks without having them.
        most_weight_bytes: with larger weights a model by name is planned without them, and cannot be trained.
        loaded: the spec's data set, if it is there already.
    Raises: InputError, on every rank the same; nothing is written.
    """
    began = time.perf_counter()
    ranks = Ranks(device)
    # Rank 0 goes ahead: what it downloads, the others find.
    first = ranks.agreed(lambda: examine(spec, device, data_dir, most_weight_bytes, loaded) if ranks.is_first else None)
    examined = ranks.agreed(lambda: first or examine(spec, device, data_dir, most_weight_bytes, loaded))
    dataset, model, check = examined.dataset, examined.model, examined.check
    fingerprint = ranks.from_first(lambda: examined.fingerprint)
    ranks.agreed(lambda: refuse_other_workers_data(dataset, examined.fingerprint, fingerprint, ranks.rank))
    first_parameters = ranks.from_first(lambda: description(model))
    ranks.agreed(lambda: refuse_unlike_first(description(model), first_parameters, ranks.rank))
    num_samples, tokens_per_sample = training_set(spec, dataset)
    facts = Facts(num_samples, examined.normalises, min(ranks.gathered(examined.micro_batch_size)), world_size or ranks.world_size,
                  isinstance(examined.task, CoupledTask), tokens_per_sample)  # fmt: skip
    plan = ranks.agreed(lambda: make_plan(spec, facts))
    if check is not None:
        ranks.agreed(lambda: refuse_unfit(check, plan))
    if examined.has_weights and plan.noise_every_steps and not plan.measures_pieces:
        ranks.agreed(lambda: refuse_untold_norm_gradients(plan, model, examined.task, dataset, device))
    take_from_first(model, ranks)
    findings = check.findings if check else Findings()
    job = Prepared(spec, plan, dataset, examined.task, model, device, ranks, fingerprint, findings, began, examined.beginning,
                   examined.heads, data_dir)  # fmt: skip
    if examined.has_weights and plan.world_size == ranks.world_size:
        weigh_first_step(job)
    return job


def weigh_first_step(job: Prepared) -> None:
    """Read the samples of step 1 where a task weighs them, so that labels that never count and tokens of another vocabulary are found in time.

    Raises: LargebatchError, on every rank the same.
    """
    if not job.task.counts_samples:
        share = Share(new_state(job), job.plan.step_at(Position(0, 0)), training_batches(job))
        share.weigh()
        job.ranks.raise_first(share.error)


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
        tracker = Tracker(journal, listener, state)
        if resumes:
            reasons = [*reasons, *take_up(job, state, run_dir, listener.on_notice)]
        begin(job, run_dir, tracker, reasons, goes_on=resumes)
        try:
            with restored(state.model, weights=bool(job.findings.by_forward)):  # what the passes that set kernels up do to the model is undone
                warm_up(state, job.plan, job.dataset)
            core_wait, patience = core_waits.CoreWait(), Patience(listener.should_stop, listener.on_notice)
            batches, score = training_batches(job, patience), _evaluation(job, tracker, patience)
            try:
                with standstills.Standstill() as standstill:
                    outcome = train(state, job.plan, batches, score, tracker, partial(_save, job, tracker, run_dir), listener.should_stop,
                                    job.dataset.evaluated_on)  # fmt: skip
            except DivergedError as error:
                outcome = Outcome.DIVERGED
                tracker.notice(f"Diverged: {error.problem} {error.hint}")
            core_wait_fraction, stopped_s = core_wait.longest(job.ranks), standstill.longest(job.ranks)
            is_short = state.clock.training_s + state.clock.evaluation_s < core_waits.SHORTEST_S  # its summary tells answers alone
            for words in (None if is_short else core_waits.in_words(core_wait_fraction), standstills.in_words(stopped_s, state.clock.training_s)):
                if words is not None:
                    tracker.notice(words)
            listener.on_ending()
            summary = summarise(job, state, outcome, run_dir, core_wait_fraction, stopped_s)
        except Exception as error:
            end_failed(job, run_dir, tracker, error)
            raise
        end(job, run_dir, tracker, summary, draw)
    return summary


def _evaluation(job: Prepared, tracker: Tracker, patience: Patience) -> Callable[[], Scores]:
    """What the loop calls for the score on what is evaluated while training. Raises: DataError for samples that are not finite."""
    part, kind = job.dataset.evaluated, job.dataset.evaluated_on
    state, batches, num_samples = tracker.state, evaluation_batches(job, part, patience), len(part)
    precision = job.spec.precision

    def score() -> Scores:
        scores = evaluate(state, batches, num_samples, precision, notify=tracker.notice)
        if not math.isfinite(scores["loss"]):
            refuse_non_finite_samples(state, batches, num_samples, precision, kind)
        return scores

    return score


def _save(job: Prepared, tracker: Tracker, run_dir: Path, is_best: bool) -> None:
    """Save a checkpoint. Args: is_best: whether it has the best score so far."""
    state = tracker.state
    # An update that overflowed shows in the next step's loss; until then it must not push out a checkpoint that is sound.
    if job.ranks.is_first and all(bool(parameter.isfinite().all()) for parameter in state.model.parameters()):
        tracker.journal.sync()
        save_checkpoint(run_dir / run_folder.CHECKPOINTS, saved_state(state), job.spec, is_best=is_best)
