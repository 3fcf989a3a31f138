"""The recipe as it is, trained once: its noise and its samples to the target are what a study's prediction stands on."""

import math

import torch

from largebatch.jobs.errors import InputError
from largebatch.jobs.job import prepare
from largebatch.jobs.plan.make import resolve_global_batch_size
from largebatch.jobs.plan.train_plan import USUAL_NOISE_EVERY
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.records import Outcome, RunSummary
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.results.analysis.reference import Reference
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.collect import collect, noise_estimates
from largebatch.tuning.results.run_folders import has_result
from largebatch.tuning.study.options import REFERENCE, StudyOptions
from largebatch.tuning.study.train_in_study import train_kept
from largebatch.tuning.sweep.space import with_fields

NUM_ESTIMATES = 200
"""Of the noise scale, if the run lasts for all its steps."""


def run_reference(spec: TrainSpec, profile: Profile, options: StudyOptions, device: torch.device) -> Reference:
    """The run, trained unless it is there. Raises: InputError if it is not over when its share of the budget is."""
    run_dir, share_s, limit_s = options.folder / REFERENCE, options.reference_share * options.budget_s, spec.stop.max_seconds or math.inf
    if not has_result(run_dir):
        fields = {"stop.max_seconds": min(share_s, limit_s), **_often_enough(spec, profile)}
        train_kept(prepare(with_fields(spec, fields), device, options.data_dir), run_dir, options.on_fraction)
    (run,) = collect([run_dir])
    if run.summary.outcome is Outcome.MISSED and share_s <= run.summary.training_seconds < limit_s:
        (run_dir / run_folder.SUMMARY).unlink()  # with more time it goes on from its checkpoint
        raise _too_short(spec, profile, run.summary, options)
    return Reference(run, noise_estimates(run))


def _often_enough(spec: TrainSpec, profile: Profile) -> dict[str, int]:
    """At every thirtieth step, as usual, a short run's noise scale would stand on a handful of estimates."""
    if spec.gradient.noise_every_steps != "auto":
        return {}
    every = int(_steps(spec, profile, resolve_global_batch_size(spec, profile.num_train_samples)) / NUM_ESTIMATES)
    return {"gradient.noise_every_steps": max(every, 1)} if every < USUAL_NOISE_EVERY else {}


def _steps(spec: TrainSpec, profile: Profile, global_batch_size: int) -> float:
    return spec.stop.steps or (spec.stop.epochs or 0.0) * profile.num_train_samples / global_batch_size


def _too_short(spec: TrainSpec, profile: Profile, summary: RunSummary, options: StudyOptions) -> InputError:
    """The budget does not hold one run of the recipe."""
    seconds_per_step = summary.training_seconds / summary.steps
    whole_s = min(seconds_per_step * _steps(spec, profile, summary.global_batch_size), spec.stop.max_seconds or math.inf)
    return InputError(
        "--budget",
        f"{options.budget_s:g} s leave {options.reference_share * options.budget_s:,.0f} s for the recipe's own run, which did not reach its target "
        f"then; its whole length takes about {whole_s:,.0f} s.",
        f"Use --budget {int(whole_s / options.reference_share / 60) + 1}m --resume {options.folder}: what was done is kept.",
    )
