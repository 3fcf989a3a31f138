"""The training loop, on one screen."""

import math
from collections.abc import Callable
from typing import Protocol

from largebatch.jobs.data.batches import Batches
from largebatch.jobs.engine.evaluation.evaluate import Scores
from largebatch.jobs.engine.evaluation.norms_at_average import settle_norms
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.errors import CodeError, DivergedError
from largebatch.jobs.optim.saved_state import parameter_names
from largebatch.jobs.plan.step_plan import StepPlan
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.run.records import EvalRecord, Outcome, StepRecord
from largebatch.jobs.samples.dataset import EvaluatedOn


class Tracker(Protocol):
    """Where records go, as they are made."""

    def write(self, record: StepRecord | EvalRecord) -> None:
        """Take one record down."""

    def notice(self, text: str) -> None:
        """Say what a person should know."""


def train(
    state: TrainState,
    plan: TrainPlan,
    batches: Batches,
    evaluate: Callable[[], Scores],
    tracker: Tracker,
    save: Callable[[bool], None],
    should_stop: Callable[[], bool],
    evaluated_on: EvaluatedOn = "test",
) -> Outcome:
    """Train until the target is met, the budget is spent or someone asks to stop.

    Args:
        save: writes a checkpoint; True: it has the best score so far.
        should_stop: asked after every step; one rank's wish is every rank's.
        evaluated_on: the part that `evaluate` is about, for a sentence.
    Raises: DivergedError; CodeError for a metric of a person's own that is no number.
    """
    progress, stop = state.progress, plan.spec.stop
    if progress.time_to_target_s is not None and stop.at_target:
        return Outcome.REACHED
    # Decided once a step, where all ranks have rank 0's clock: by what each spends afterwards they would differ.
    is_last = _budget_is_spent(state, plan) or _patience_is_spent(state, plan)
    while not is_last:
        step = plan.step_at(progress.position)
        with state.clock.training():
            record = optimizer_step(state, plan, step, batches, tracker.notice)
        tracker.write(record)
        stops = _agree(state, should_stop())
        is_last = _budget_is_spent(state, plan)
        is_best = (step.evaluates or is_last) and _evaluate(state, plan, evaluate, tracker, evaluated_on)
        if not is_last and _patience_is_spent(state, plan):
            is_last = True
            tracker.notice(_end_of_patience(state))
        is_at_target = progress.time_to_target_s is not None and stop.at_target
        if _is_save_due(state, plan, step) or is_best or is_at_target or stops or is_last:
            _settle(state, plan, tracker)
            save(is_best)
            state.saved_at_s, state.is_save_due = state.clock.training_s, False
        if is_at_target:
            return Outcome.REACHED
        if stops and not is_last:
            return Outcome.STOPPED
    if progress.time_to_target_s is not None:
        return Outcome.REACHED
    return Outcome.MISSED if stop.target_score is not None else Outcome.COMPLETED


def _agree(state: TrainState, should_stop: bool) -> bool:
    """Give all ranks rank 0's clock; returns whether any of them should stop, and so all."""
    if state.ranks.world_size == 1:
        return should_stop
    training_s = state.clock.training_s if state.ranks.is_first else 0.0
    training_s, num_to_stop = state.ranks.sum_numbers(training_s, float(should_stop))
    state.clock.training_s = training_s
    return num_to_stop > 0


def _settle(state: TrainState, plan: TrainPlan, tracker: Tracker) -> None:
    """Make all ranks equal before they are looked at, which they are but after steps that each took alone, and norms fit averaged weights."""
    with state.clock.training():
        state.local_sgd.synchronise()
        settle_norms(state, plan.spec.precision, tracker.notice)


def _evaluate(state: TrainState, plan: TrainPlan, evaluate: Callable[[], Scores], tracker: Tracker, evaluated_on: EvaluatedOn) -> bool:
    """Evaluate, note a target met for the first time; returns whether this is the best so far."""
    progress, clock, metric, target = state.progress, state.clock, state.metric, plan.spec.stop.target_score
    _settle(state, plan, tracker)
    state.ranks.agreed(lambda: parameter_names(state.model, state.optimizer))  # what a model makes or replaces midway would not train
    with clock.evaluating():
        scores = evaluate()
    score = scores[metric.name]
    if math.isnan(score) and math.isfinite(scores["loss"]):
        problem = f"its metric {metric.name} is no number after step {progress.step}, and the loss is one."
        raise CodeError("task", problem, "Let it be 0, or whatever is worst, where it is not defined.")
    for name in dict.fromkeys(("loss", metric.name)):
        if not math.isfinite(scores[name]):
            besides = f" Or let your metric be finite where the loss is ({scores['loss']:.4g})." if math.isfinite(scores["loss"]) else ""
            raise DivergedError(
                "",
                f"the {evaluated_on} {name} is {scores[name]} after step {progress.step}.",
                f"Lower learning_rate.base, lengthen the warm-up, or set gradient.clip_norm.{besides}",
            )
    progress.score = score
    is_best = progress.best_score is None or metric.is_better(score, progress.best_score)
    progress.evaluations_since_best = 0 if is_best else progress.evaluations_since_best + 1
    if is_best:
        progress.best_score = score
    if target is not None and metric.meets(score, target) and progress.time_to_target_s is None:
        progress.time_to_target_s, progress.steps_to_target = clock.training_s, progress.step
    tracker.write(
        EvalRecord(
            step=progress.step,
            epoch=progress.epoch + progress.offset / plan.num_train_samples,
            samples_seen=progress.samples_seen,
            tokens_seen=plan.in_tokens(progress.samples_seen),
            score=score,
            scores={name: value for name, value in scores.items() if math.isfinite(value)},
            training_seconds=clock.training_s,
            evaluation_seconds=clock.evaluation_s,
        )
    )
    return is_best and plan.spec.checkpoint.best


def _budget_is_spent(state: TrainState, plan: TrainPlan) -> bool:
    max_seconds = plan.spec.stop.max_seconds
    if max_seconds is not None and state.clock.training_s >= max_seconds:
        return True
    return state.progress.schedule_samples >= plan.total_progress - 1e-6


def _patience_is_spent(state: TrainState, plan: TrainPlan) -> bool:
    patience = plan.spec.stop.patience
    return patience is not None and state.progress.evaluations_since_best >= patience


def _end_of_patience(state: TrainState) -> str:
    """Why a run ends whose patience is spent."""
    progress, metric = state.progress, state.metric
    number = "One evaluation was" if progress.evaluations_since_best == 1 else f"{progress.evaluations_since_best} evaluations in a row were"
    best = "none" if progress.best_score is None else metric.format(progress.best_score)
    return f"{number} no better than {metric.name} {best}: stop.patience ends the run after step {progress.step}."


def _is_save_due(state: TrainState, plan: TrainPlan, step: StepPlan) -> bool:
    """Whether a periodic checkpoint is due after the step just done."""
    state.is_save_due = state.is_save_due or step.saves
    if state.local_sgd.num_apart:
        return False  # ranks are equal again within reduction.local_steps; averaging them for a checkpoint would change the run
    every_s = plan.spec.checkpoint.every_seconds
    return state.is_save_due or (every_s is not None and state.clock.training_s - state.saved_at_s >= every_s)
