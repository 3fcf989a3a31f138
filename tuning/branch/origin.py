"""Origin: the run that is branched, as it would go on, and which of its checkpoints branches begin from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from largebatch.jobs.data.fingerprint import read_fingerprint
from largebatch.jobs.data.same_data import confirmed_difference
from largebatch.jobs.errors import CheckpointError, DataError, InputError, PlanError
from largebatch.jobs.job import prepare
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.resume import follow_the_end, load_checkpoint
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.checkpoints import Checkpoint, list_checkpoints
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.run.run_folder import resumed_spec
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.sweep.space import with_fields

KEEP = "A run keeps them with --set checkpoint.every_steps=N --set checkpoint.keep=20."
MOST_CHECKPOINTS = 6
"""Branched where nobody chose any."""
SHARE, FEWEST_STEPS, MOST_MULTIPLE = 0.1, 32, 64
"""What a branch trains where nobody said: this share of the run's samples, and so many steps of the largest batch at least."""


class BranchPoint(NamedTuple):
    """A checkpoint that branches begin from."""

    checkpoint: Checkpoint
    position: Position


@dataclass(frozen=True)
class Origin:
    """What branches share."""

    run_dir: Path
    job: Prepared
    points: list[BranchPoint]
    """By rising step."""
    multiples: tuple[int, ...]
    """By rising size; the first is 1, and each divides the last."""
    num_samples: int
    """What a branch trains on, at least."""


class Wanted(NamedTuple):
    """What a person chose; None: by what the run allows."""

    steps: Sequence[int] | None = None
    multiples: Sequence[int] | None = None
    num_samples: int | None = None


def open_origin(run_dir: Path, wanted: Wanted, device: torch.device, data_dir: Path) -> Origin:
    """The run, ready to be branched; nothing is written. Raises: InputError for a run that cannot be, or what it cannot give."""
    spec = branchable_spec(run_dir)
    checkpoints = {checkpoint.step: checkpoint for checkpoint in list_checkpoints(run_dir / run_folder.CHECKPOINTS)}
    if not checkpoints:
        raise CheckpointError("RUN", f"{run_dir.name} has no checkpoint to branch from.", KEEP)
    for step in wanted.steps or ():
        if step not in checkpoints:
            raise CheckpointError("--steps", f"{run_dir.name} has no checkpoint of step {step:,}; it has {_listed(checkpoints)}.", KEEP)
    job = open_job(run_dir, spec, device, data_dir)
    size = num_samples, multiples = _size(job, wanted)
    # Once more as a run whose batch grows to the largest: whatever that cannot be done with is refused here.
    prepare(with_fields(spec, {"batch.schedule.growth": [{"epoch": 0.0, "factor": float(multiples[-1])}]}), device, data_dir)
    points = _points(job, run_dir, checkpoints, wanted, size)
    return Origin(run_dir, job, points, multiples, num_samples)


def open_job(run_dir: Path, spec: TrainSpec, device: torch.device, data_dir: Path) -> Prepared:
    """The run's job with the run's data. Raises: InputError, DataError for other data."""
    job = prepare(spec, device, data_dir)
    began_with = read_fingerprint(run_dir)
    change = None if began_with is None else confirmed_difference(job.dataset, job.fingerprint, began_with)
    if change is not None:
        problem = f"is not the run's: {change.between('now', f'when {run_dir.name} began')}."
        raise DataError("dataset", problem, "A branch trains on the samples that its run would go on with: bring the data back.")
    return job


def branchable_spec(run_dir: Path) -> TrainSpec:
    """The run's spec. Raises: InputError for a run that has no branches, or none that could be compared."""
    if not (run_dir / run_folder.SPEC).is_file():
        raise InputError("RUN", f"{run_dir} is not a run's folder: it has no {run_folder.SPEC}.", "Give the folder that the run printed.")
    spec = resumed_spec(run_dir, [])
    if _outcome(run_dir) == Outcome.DIVERGED:
        raise InputError(
            "RUN", f"{run_dir.name} diverged, so no batch of its recipe is one without loss.", "Branch a run with a lower learning rate."
        )
    reasons = {
        "its batch changes while it trains, and a branch is held against one batch": spec.batch.schedule.changes_batch,
        "AdaScale sets rate and progress by what it measures at one batch": spec.learning_rate.scaling == "adascale",
        "its workers step alone (reduction.local_steps), which no batch of one process is": spec.reduction.local_steps > 1,
    }
    for reason, holds in reasons.items():
        if holds:
            raise PlanError("RUN", f"{run_dir.name} cannot be branched: {reason}.", "Branch a run with one batch and one rate for it.")
    return spec


def _outcome(run_dir: Path) -> str | None:
    try:
        outcome: str = json.loads((run_dir / run_folder.SUMMARY).read_text())["outcome"]
    except (OSError, ValueError, KeyError):
        return None
    return outcome


def _size(job: Prepared, wanted: Wanted) -> tuple[int, tuple[int, ...]]:
    """Samples of a branch, and its multiples of the batch. Raises: InputError."""
    plan = job.plan
    batch, most = plan.global_batch_size, plan.num_train_samples // plan.global_batch_size
    total = int(plan.total_progress)
    if wanted.multiples is not None:
        multiples = tuple(sorted({1, *wanted.multiples}))
        if multiples[-1] > most:
            problem = f"{multiples[-1]} times the batch of {batch:,} is more than the {plan.num_train_samples:,} samples of the training set."
            raise PlanError("--multiples", problem, f"The largest is {most}.")
        if len(multiples) == 1:
            raise InputError("--multiples", "1 alone has nothing to be held against.", "Example: 2,4,8,16.")
        if any(multiples[-1] % multiple for multiple in multiples):
            problem = f"{', '.join(map(str, multiples))}: every multiple must divide the largest, or the branches would not have the same samples."
            raise InputError("--multiples", problem, "Example: 2,4,8,16.")
    else:
        longest = wanted.num_samples or max(int(SHARE * total), 8 * FEWEST_STEPS * batch)
        doublings = [2**power for power in range(1, 7) if 2**power <= min(most, MOST_MULTIPLE, longest // (FEWEST_STEPS * batch))]
        if not doublings:
            problem = f"twice the batch of {batch:,} has no room: a branch of {longest:,} samples, {FEWEST_STEPS} steps at least, and {most} batches"
            raise PlanError("--multiples", f"{problem} in the training set.", "Branch longer (--samples), or a run with a smaller batch.")
        multiples = (1, *doublings)
    num_samples = wanted.num_samples or max(int(SHARE * total), FEWEST_STEPS * multiples[-1] * batch)
    if num_samples < multiples[-1] * batch:
        problem = f"{num_samples:,} are less than one step of the largest batch, {multiples[-1] * batch:,}."
        raise InputError("--samples", problem, f"Give {FEWEST_STEPS} steps of it: {FEWEST_STEPS * multiples[-1] * batch:,}.")
    return num_samples, multiples


def _points(job: Prepared, run_dir: Path, checkpoints: dict[int, Checkpoint], wanted: Wanted, size: tuple[int, tuple[int, ...]]) -> list[BranchPoint]:
    """The checkpoints from which a branch ends before the run does; evenly chosen where there are many.

    Args: size: samples of a branch, and its multiples. Raises: InputError for a run shorter than a branch; CheckpointError.
    """
    (num_samples, multiples), total = size, job.plan.total_progress
    room = total - num_samples
    points = [BranchPoint(checkpoints[step], _position(job, step)) for step in sorted({*(wanted.steps or checkpoints)})]
    if follow_the_end(job.spec):
        points = _since_its_end(points, job.spec, are_chosen=bool(wanted.steps))
    chosen = [point for point in points if point.position.samples_seen <= room]
    if len(chosen) < (len(points) if wanted.steps else 1):
        first = (max if wanted.steps else min)(point.position.samples_seen for point in points)
        fits = _what_fits(job.plan, int(total) - first)
        if room <= 0:
            of_batch = f"{FEWEST_STEPS} steps of the largest batch, {multiples[-1] * job.plan.global_batch_size:,}"
            asked = "a branch" if wanted.num_samples else of_batch
            problem = f"{run_dir.name} is too short for {asked}: {num_samples:,} samples, and the whole run is {total:,.0f}."
            raise InputError("RUN", problem, fits or f"Branch a longer run that has checkpoints. {KEEP}")
        latest = f"before sample {room:,.0f} of {total:,.0f}"
        problem = f"a branch of {num_samples:,} samples must begin {latest}, where the run ends; it has checkpoints of {_listed(checkpoints)}."
        raise CheckpointError("--steps" if wanted.steps else "RUN", problem, f"{KEEP} {fits}".rstrip())
    if wanted.steps is None and len(chosen) > MOST_CHECKPOINTS:
        chosen = [chosen[round(number * (len(chosen) - 1) / (MOST_CHECKPOINTS - 1))] for number in range(MOST_CHECKPOINTS)]
    return chosen


def read_branchable(path: Path, device: torch.device) -> dict[str, Any]:
    """A checkpoint's content: see `load_checkpoint`. Raises: CheckpointError for one that is damaged."""
    try:
        return load_checkpoint(path, device)
    except CheckpointError as error:
        raise CheckpointError("RUN", error.problem, "Remove it, or choose others with --steps.") from error


def refuse_other_end(loaded: dict[str, Any], spec: TrainSpec) -> None:
    """Raise CheckpointError for one from before the run was given another end, where steps follow from it. Args: loaded: see `load_checkpoint`."""
    ends = {name: (getattr(build_spec(loaded["spec"]).stop, name), getattr(spec.stop, name)) for name in ("epochs", "steps")}
    moved = [f"stop.{name} was {before}, now it is {now}" for name, (before, now) in ends.items() if before != now]
    step = loaded["state"]["progress"]["step"]
    for what, why in follow_the_end(spec).items():
        if moved:
            made = f"the checkpoint of step {step:,} was made when {moved[0]}"
            problem = f"{made}: {why}, so that {what} would leap where a branch begins."
            raise CheckpointError("RUN", problem, "Choose checkpoints from after the run was resumed with --steps.")


def _since_its_end(points: list[BranchPoint], spec: TrainSpec, *, are_chosen: bool) -> list[BranchPoint]:
    """Those from the first checkpoint on that was made with the run's end, which a resume may have moved. Raises: see `refuse_other_end`."""
    for number, point in enumerate(points):
        loaded = read_branchable(point.checkpoint.path, torch.device("cpu"))
        try:
            refuse_other_end(loaded, spec)
        except CheckpointError:
            if are_chosen or point is points[-1]:
                raise
        else:
            return points[number:]
    return points


def _what_fits(plan: TrainPlan, num_left: int) -> str:
    """The options with which branches end within so many samples, with steps of the largest batch enough where there are; empty for none."""
    batch, most = plan.global_batch_size, plan.num_train_samples // plan.global_batch_size
    largest = max(2, min(most, MOST_MULTIPLE, num_left // (FEWEST_STEPS * batch)))
    doublings = [2**power for power in range(1, largest.bit_length())]
    if most < doublings[0] or num_left < doublings[-1] * batch:
        return ""
    samples = min(num_left, FEWEST_STEPS * doublings[-1] * batch)
    return f"What fits: --multiples {','.join(map(str, doublings))} --samples {samples}."


def _position(job: Prepared, step: int) -> Position:
    """Where the run stands after so many steps: arithmetic, for its batch does not change."""
    plan = job.plan
    epoch, before = divmod(step - 1, -(-plan.samples_per_epoch // plan.global_batch_size))
    offset = min((before + 1) * plan.global_batch_size, plan.samples_per_epoch)
    samples = epoch * plan.samples_per_epoch + offset
    return Position(epoch, offset, step, samples, float(samples))


def _listed(checkpoints: dict[int, Checkpoint]) -> str:
    return f"step{'s' if len(checkpoints) > 1 else ''} {', '.join(f'{step:,}' for step in sorted(checkpoints))}"
