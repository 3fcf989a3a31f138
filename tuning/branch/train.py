"""Trains one branch, and what is kept of it."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from largebatch.jobs.engine.evaluation.evaluate import evaluate
from largebatch.jobs.engine.model_state import digest
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.entry_points import ANYTHING
from largebatch.jobs.errors import CheckpointError, DivergedError
from largebatch.jobs.preparing.batches import evaluation_batches, training_batches
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.resume import refuse_other_spec
from largebatch.jobs.run.records import Record
from largebatch.jobs.samples.keyed_random import key
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.branch.origin import BranchPoint, read_branchable, refuse_other_end
from largebatch.tuning.branch.plan import BranchPlan, branch_plan

MEASURED = ("covariance_trace", "gradient_norm_squared", "dual_variance", "dual_norm_squared")
"""What steps measure of their noise, and a branch's result sums up."""


class Branch(Record):
    """Which branch it is: everything that its result follows from, beside the run."""

    step: int
    """Of the checkpoint."""
    checkpoint: str
    """The digest of the checkpoint's bytes."""
    order: int
    """0: the run's own order of samples; the others are drawn anew."""
    multiple: int
    power: float
    """Of the multiple that the learning rate follows."""
    places: tuple[int, ...]
    """Where it is evaluated, in samples seen; the last is its end."""
    rate_times: float = 1.0
    """What the learning rate is multiplied by besides."""


class BranchResult(Record):
    """What came of a branch."""

    branch: Branch
    losses: tuple[float, ...] | None
    """At its places, on what the run evaluates; None where it diverged."""
    num_steps: int
    covariance_trace: float
    """Summed over its steps that measured noise, each times its samples; so is the squared norm."""
    gradient_norm_squared: float
    dual_variance: float = 0.0
    """The same in the dual of the optimizer's own norm; 0 where it is not measured."""
    dual_norm_squared: float = 0.0
    model_sha256: str
    """Of the weights that it came to."""
    seconds: float

    @property
    def loss(self) -> float:
        """The smoothed loss: the mean over its places, each the whole evaluated part's sum of losses over its weight; infinite where it diverged."""
        return math.inf if self.losses is None else sum(self.losses) / len(self.losses)


def train_branch(
    run_job: Prepared, point: BranchPoint, branch: Branch, should_stop: Callable[[], bool], notify: Callable[[str], None]
) -> BranchResult | None:
    """Train from a checkpoint to the branch's end. Returns: None if it was asked to stop before. Args: run_job: the run's.

    The gradient of a multiple is accumulated over the micro-batches of the run, which is exact; one process trains it, however many the run had.
    Raises: CheckpointError for a checkpoint that is damaged or of another model.
    """
    job, plan = branch_job(run_job, branch)
    state = _state_at(job, point.checkpoint.path, run_job.spec)
    assert state.progress.position[:4] == point.position[:4], "a plan without a batch schedule knows where its steps end"
    began_s, losses, noise = state.clock.wall_s, list[float](), dict.fromkeys(MEASURED, 0.0)
    part = job.dataset.evaluated
    batches, evaluated = training_batches(job), evaluation_batches(job, part)
    has_diverged = False
    try:
        for step in plan.steps_from(state.progress.position):
            if should_stop():
                return None
            record = optimizer_step(state, plan, step, batches, notify)
            for field in MEASURED:
                noise[field] += step.samples.size * (getattr(record, field) or 0.0)
            if state.progress.samples_seen in branch.places:
                losses.append(evaluate(state, evaluated, len(part), job.spec.precision, notify=notify)["loss"])
                if not math.isfinite(losses[-1]):
                    raise DivergedError("", "its loss is not finite.")
            if state.progress.samples_seen >= branch.places[-1]:
                break
    except DivergedError:
        has_diverged = True
    return BranchResult(
        branch=branch,
        losses=None if has_diverged else tuple(losses),
        num_steps=state.progress.step - point.position.step,
        **noise,
        model_sha256=digest(state.model),
        seconds=state.clock.wall_s - began_s,
    )


def branch_job(job: Prepared, branch: Branch) -> tuple[Prepared, BranchPlan]:
    """The run's job with the branch's plan, and that plan."""
    seed = job.spec.seed if branch.order == 0 else key(job.spec.seed, "branch", branch.order)
    plan = branch_plan(job.plan, branch.multiple, branch.power, seed, branch.rate_times)
    return replace(job, spec=plan.spec, plan=plan), plan


def _state_at(job: Prepared, path: Path, of_run: TrainSpec) -> TrainState:
    """The state of a checkpoint, read anew: a branch moves what it begins with. Raises: CheckpointError."""
    loaded = read_branchable(path, job.device)
    refuse_other_spec(loaded["spec"], of_run)
    refuse_other_end(loaded, of_run)
    state = new_state(job)
    try:
        state.load_state_dict(loaded["state"])
    except ANYTHING as error:  # a person's own set_extra_state may raise anything
        raise CheckpointError(
            "model", f"the checkpoint does not fit this model: {error}.", "The model's code has changed since; restore it."
        ) from error
    return state
