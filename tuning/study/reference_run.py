"""The runs of a study beside its sweep, and the first of them: the recipe as it is, trained once.

Its noise and its samples to the target are what the study's prediction stands on.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from largebatch.jobs.errors import InputError
from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.plan.make import resolve_global_batch_size
from largebatch.jobs.plan.train_plan import USUAL_NOISE_EVERY
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import EvalRecord, Outcome, Record
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.files import REFERENCE
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.collect import collect
from largebatch.tuning.results.run_folders import has_result
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.study.bounds import advised_by_part, num_steps
from largebatch.tuning.study.options import StudyOptions
from largebatch.tuning.study.sizing import AHEAD, in_minutes
from largebatch.tuning.sweep.space import with_fields

NUM_ESTIMATES = 200
"""Of the noise scale, if the run lasts for all its steps."""


def train_kept(job: Prepared, run_dir: Path, on_fraction: Callable[[float, str], None], prefix: str = "") -> None:
    """Train a job in its folder, or go on where it was begun.

    Args: on_fraction: told at each evaluation how much is done, and in words what was measured.
    """
    run_folder.create(run_dir.parent, run_dir.name, may_exist=True)

    def show(record: Record) -> None:
        if isinstance(record, EvalRecord):
            on_fraction(min(record.samples_seen / job.plan.total_progress, 1.0), f"{prefix}{job.metric.name} {record.score:.4g}")

    with run_folder.exclusive(run_dir, "train"):
        run_job(job, run_dir, Listener(on_record=show), resumes=bool(list_checkpoints(run_dir / run_folder.CHECKPOINTS)))


def run_reference(
    spec: TrainSpec, profile: Profile, optimizers: Sequence[Profile], options: StudyOptions, device: torch.device, longest_s: float
) -> RunResult:
    """The run, trained unless it is there.

    Args: optimizers: the profile under each that is compared; longest_s: training seconds after which the budget holds no sweep.
    Raises: InputError if it is not over then, or when its share of the budget is spent.
    """
    run_dir, limit_s = options.folder / REFERENCE, spec.stop.max_seconds or math.inf
    share_s = min(options.reference_share * options.budget_s, longest_s)
    if not has_result(run_dir):
        fields: dict[str, float] = {"stop.max_seconds": min(share_s, limit_s)}
        # At every thirtieth step, as usual, a short run's noise scale would stand on a handful of estimates.
        every = max(int(num_steps(spec, profile, resolve_global_batch_size(spec, profile.training_set)) / NUM_ESTIMATES), 1)
        if spec.gradient.noise_every_steps == "auto" and every < USUAL_NOISE_EVERY:
            fields["gradient.noise_every_steps"] = every
        train_kept(prepare(with_fields(spec, fields), device, options.data_dir), run_dir, options.on_fraction)
    (run,) = collect([run_dir])
    if run.summary.outcome is Outcome.MISSED and share_s <= run.summary.training_seconds < limit_s:
        (run_dir / run_folder.SUMMARY).unlink()  # with more time it goes on from its checkpoint
        raise _too_short(spec, profile, run, optimizers, options, share_s)
    return run


def _too_short(
    spec: TrainSpec, profile: Profile, part: RunResult, optimizers: Sequence[Profile], options: StudyOptions, share_s: float
) -> InputError:
    """The budget does not hold one run of the recipe. Args: part: of that run."""
    whole_s, with_sweep_s = advised_by_part(spec, profile, part, optimizers)
    needed_s = max(AHEAD * whole_s / share_s * options.budget_s, with_sweep_s)
    return InputError(
        "--budget",
        f"{options.budget_s:g} s leave {share_s:,.0f} s for the recipe's own run, beside a sweep of others. It did not reach its target then; "
        f"its whole length takes about {whole_s:,.0f} s at the pace so far, and runs of the sweep may be as long.",
        f"Use --budget {in_minutes(needed_s)} --resume {options.folder}: what was done is kept.",
    )
