"""A study: profile, one run and its prediction, sweep, sharpness, report; in one folder, each stage kept.

    profile.json -> reference/ -> prediction.json -> sweep/ -> solution-batch-*/, sharpness.json -> sweep/report/

A stage whose file is there is not done again, so a study that was stopped goes on with the next one. What only adds to the report
(prediction, solutions, sharpness, figures) may fail: the report says so, and the next `--resume` tries that stage alone. The budget is
wall-clock seconds; what each stage may use follows from the profile, so small machines compare fewer batch sizes
and search less, never less carefully at one batch than at another.
"""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from largebatch.jobs.device import choose_device
from largebatch.jobs.errors import InputError
from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.plan.make import resolve_global_batch_size
from largebatch.jobs.plan.train_plan import USUAL_NOISE_EVERY
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import Outcome, RunSummary
from largebatch.jobs.run.run_folder import write_text
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.folder_mirror import REPORT, sync_folder
from largebatch.jobs.tracking.mlflow_store import brief
from largebatch.tuning.measure.profile import profile
from largebatch.tuning.measure.sharpness import slope_in_words
from largebatch.tuning.report.attempts import Attempts
from largebatch.tuning.report.contents import Extras
from largebatch.tuning.results.analysis.prediction import Predicted, compare, misses_in_words, predict
from largebatch.tuning.results.analysis.reference import Reference
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.collect import collect, noise_estimates
from largebatch.tuning.results.findings import Findings, find_in
from largebatch.tuning.results.run_folders import STUDY, SWEEP_OF_STUDY, has_result
from largebatch.tuning.study.sizing import Expected, size_sweep, what_was_chosen
from largebatch.tuning.study.small_and_large import small_against_large
from largebatch.tuning.study.solutions import Solutions, measure, solution_charts, train_to_the_end
from largebatch.tuning.sweep.space import with_fields
from largebatch.tuning.sweep.spec import BATCH, ResourcesSpec, SweepSpec

PROFILE, REFERENCE, SIZED, PREDICTION, SHARPNESS = "profile.json", "reference", "sized-sweep.json", "prediction.json", "sharpness.json"
PROFILE_SHARE, REFERENCE_SHARE = 0.08, 0.35
"""Of the budget: for the profile; for the reference run, at most."""
NUM_ESTIMATES = 200
"""Of the noise scale in the reference run, if it lasts for all its steps."""
SHORT_S = 600.0
"""Below this budget sharpness is measured on fewer samples and points."""
LEAST_BUDGET_S = 10.0
"""Three batch sizes, one run each, take about this long beside everything else."""


class Stage(NamedTuple):
    """What a person is told before each stage."""

    number: int
    of: int
    name: str


@dataclass(frozen=True)
class StudyOptions:
    """Where, on what, and for how long."""

    folder: Path
    data_dir: Path
    device: str
    budget_s: float
    on_stage: Callable[[Stage], None]
    on_notice: Callable[[str], None]
    on_fraction: Callable[[float, str], None] = lambda fraction, text: None
    """How much of the stage is done."""


SweepRunner = Callable[[Path, SweepSpec, TrainSpec], int]
"""Carries a sweep out and shows it; returns how many runs are left."""


def study(spec: TrainSpec, options: StudyOptions, run_the_sweep: SweepRunner) -> Path | None:
    """Carry out what is left of a study. Returns the report's page, or None if it was stopped on the way.

    Raises: InputError for a recipe that cannot be studied, or a budget that holds nothing.
    """
    refuse_unstudied(spec, options.budget_s)
    assert spec.stop.target_accuracy is not None
    folder, stages = options.folder, ["profile", "reference run and prediction", "sweep", "solutions and their sharpness", "report"]

    def begin(number: int) -> None:
        options.on_stage(Stage(number, len(stages), stages[number - 1]))

    device, attempts = choose_device(options.device), Attempts(options.on_notice)
    begin(1)
    measured = _profile(spec, options, device)
    begin(2)
    reference = _reference(spec, measured, options, device)
    sweep = _sweep(spec, measured, reference, options)
    target, batches = spec.stop.target_accuracy, [int(b) for b in sweep.each[BATCH] if isinstance(b, int)]
    predicted = attempts.attempt("the prediction", partial(_predict, folder, reference, measured, target, batches))
    begin(3)
    options.on_notice(what_was_chosen(sweep))
    if run_the_sweep(folder / SWEEP_OF_STUDY, sweep, with_fields(spec, sweep.set)):
        return None
    findings = find_in(folder / SWEEP_OF_STUDY, spec.stop.target_accuracy)
    begin(4)
    solutions = _solutions(findings, Expected(spec, measured, reference), options, device, attempts)
    begin(5)
    from largebatch.tuning.report.report import write_report  # it draws: plotly and matplotlib are imported once there is something to show

    page = write_report(folder / SWEEP_OF_STUDY / REPORT, findings, _extras(findings, measured, predicted, solutions, attempts))
    if spec.tracking.enabled:
        try:
            sync_folder(folder / SWEEP_OF_STUDY)
        except Exception as error:  # MLflow raises its own, requests' and SQLAlchemy's errors
            options.on_notice(f"MLflow does not have the report yet ({brief(error)}); `largebatch sync {folder / SWEEP_OF_STUDY}` sends it.")
    return page


def refuse_unstudied(spec: TrainSpec, budget_s: float) -> None:
    """Raises: InputError for a recipe without a target, or a budget that no recipe fits into."""
    if spec.stop.target_accuracy is None:
        raise InputError("stop.target_accuracy", "is not set, and a study compares times to it.", "Add --set stop.target_accuracy=0.95.")
    if budget_s < LEAST_BUDGET_S:
        raise InputError("--budget", f"{budget_s:g} s hold no study, whatever the recipe.", "Give at least 1m.")


def begin_study(folder: Path, spec: TrainSpec, budget_s: float) -> None:
    """Write down what is to be studied."""
    with run_folder.storage_errors(folder):
        folder.mkdir(parents=True)
    write_text(folder / STUDY, json.dumps({"spec": spec.model_dump(mode="json"), "budget_s": budget_s, "began_at_s": time.time()}, indent=2) + "\n")


def change_budget(folder: Path, budget_s: float) -> None:
    """Another budget for a study whose sweep is not sized yet. Raises: InputError."""
    if (folder / SIZED).is_file():
        raise InputError("--budget", "this study's sweep was sized to its budget already.", "Leave --budget out, or begin a new study.")
    begun = json.loads((folder / STUDY).read_text())
    write_text(folder / STUDY, json.dumps({**begun, "budget_s": budget_s}, indent=2) + "\n")


# ---- stages -----------------------------------------------------------------------------------------------------------


def _profile(spec: TrainSpec, options: StudyOptions, device: torch.device) -> Profile:
    path = options.folder / PROFILE
    if path.is_file():
        return Profile.model_validate_json(path.read_text())
    share_s = PROFILE_SHARE * options.budget_s
    found = profile(
        spec, lambda one: prepare(one, device, options.data_dir), seconds_per_batch=min(share_s / 20, 1.0), most_seconds=share_s / 2,
        on_point=lambda batch, done, of: options.on_fraction(done / of, f"batch {batch:,}"),
    )  # fmt: skip
    write_text(path, found.model_dump_json(indent=2) + "\n")
    return found


def _reference(spec: TrainSpec, measured: Profile, options: StudyOptions, device: torch.device) -> Reference:
    """The recipe as it is, once: its noise and its samples to the target are what the prediction stands on.

    Raises: InputError if it is not over when its share of the budget is.
    """
    folder = options.folder
    run_dir = folder / REFERENCE
    most_s = min(REFERENCE_SHARE * options.budget_s, spec.stop.max_seconds or math.inf)
    if not has_result(run_dir):
        job = prepare(with_fields(spec, {"stop.max_seconds": most_s, **_often_enough(spec, measured)}), device, options.data_dir)
        run_folder.create(folder, REFERENCE, may_exist=True)

        def show(record: Any) -> None:
            if record.kind == "evaluation":
                options.on_fraction(min(record.samples_seen / job.plan.total_progress, 1.0), f"accuracy {record.test_accuracy:.4f}")

        with run_folder.exclusive(run_dir, "train"):
            run_job(job, run_dir, Listener(on_record=show), resumes=bool(list_checkpoints(run_dir / run_folder.CHECKPOINTS)))
    found = collect([run_dir])[0]
    if found.summary.outcome is Outcome.MISSED and REFERENCE_SHARE * options.budget_s <= found.summary.training_seconds < (
        spec.stop.max_seconds or math.inf
    ):
        (run_dir / run_folder.SUMMARY).unlink()  # with more time it goes on from its checkpoint
        raise _too_short(spec, measured, found.summary, options)
    return Reference(found, noise_estimates(found))


def _often_enough(spec: TrainSpec, measured: Profile) -> dict[str, int]:
    """At every thirtieth step, as usual, a short run's noise scale would stand on a handful of estimates."""
    if spec.gradient.noise_every_steps != "auto":
        return {}
    steps = spec.stop.steps or (spec.stop.epochs or 0.0) * measured.num_train_samples / resolve_global_batch_size(spec, measured.num_train_samples)
    every = int(steps / NUM_ESTIMATES)
    return {"gradient.noise_every_steps": max(every, 1)} if every < USUAL_NOISE_EVERY else {}


def _too_short(spec: TrainSpec, measured: Profile, reference: RunSummary, options: StudyOptions) -> InputError:
    """The budget does not hold one run of the recipe."""
    pace = reference.training_seconds / (reference.steps * measured.seconds_per_step(reference.global_batch_size))
    steps = spec.stop.steps or (spec.stop.epochs or 0.0) * measured.num_train_samples / reference.global_batch_size
    whole_s = min(pace * steps * measured.seconds_per_step(reference.global_batch_size), spec.stop.max_seconds or math.inf)
    return InputError(
        "--budget",
        f"{options.budget_s:g} s leave {REFERENCE_SHARE * options.budget_s:,.0f} s for the recipe's own run, which did not reach its target then; "
        f"its whole length takes about {whole_s:,.0f} s.",
        f"Use --budget {int(whole_s / REFERENCE_SHARE / 60) + 1}m --resume {options.folder}: what was done is kept.",
    )


def _sweep(spec: TrainSpec, measured: Profile, reference: Reference, options: StudyOptions) -> SweepSpec:
    path = options.folder / SIZED
    if path.is_file():
        return SweepSpec.model_validate_json(path.read_text())
    try:
        sweep = size_sweep(spec, measured, reference, options.budget_s, _resources(options.device))
    except InputError as error:  # the profile and the run are kept for another try
        raise InputError(error.field, error.problem, f"{error.hint[:-1]} --resume {options.folder}: what was measured is kept.") from error
    write_text(path, sweep.model_dump_json(indent=2) + "\n")
    return sweep


def _resources(device: str) -> ResourcesSpec:
    """One run at a time, with the threads that the profile had: nothing slows another's clock."""
    has_gpu = device != "cpu" and torch.cuda.is_available()
    threads = min(torch.get_num_threads(), os.cpu_count() or 1)
    return ResourcesSpec(cpus_per_worker=float(threads), gpus_per_worker=1.0 if has_gpu else 0.0, max_concurrent=1)


def _predict(folder: Path, reference: Reference, measured: Profile, target: float, batches: list[int]) -> list[Predicted]:
    """Before the sweep, and written down before it: what it will be held against."""
    path = folder / PREDICTION
    if path.is_file():
        return [Predicted(**one) for one in json.loads(path.read_text())]
    try:
        made = predict(reference, measured, target, batches)
    except InputError:
        made = []
    write_text(path, json.dumps([one._asdict() for one in made], indent=2) + "\n")
    return made


def _solutions(findings: Findings, expected: Expected, options: StudyOptions, device: torch.device, attempts: Attempts) -> Solutions:
    """Kept only whole: where a part failed, the next `--resume` tries again."""
    path, num_failed_before = options.folder / SHARPNESS, len(attempts.failed)
    if path.is_file():
        return Solutions.model_validate_json(path.read_text())
    is_short = options.budget_s < SHORT_S
    chosen = expected.chosen_for_the_end([one.global_batch_size for one in findings.best], options.budget_s)
    runs = []
    for one in [one for one in findings.best if one.global_batch_size in chosen]:
        what = f"the run to the end at batch {one.global_batch_size:,}"
        summary = attempts.attempt(what, partial(train_to_the_end, one, options.folder, options.data_dir, device, options.on_fraction))
        runs += [] if summary is None else [summary]
    if len(chosen) < 2:
        options.on_notice("No sharpness: the budget does not hold two runs to the end of the recipe's epochs.")
    if len(runs) < 2:
        return Solutions(runs=runs)
    num_samples, num_points = (2000, 13) if is_short else (5000, 25)
    doing = partial(measure, runs, options.data_dir, device, num_samples, num_points, options.on_fraction, attempts)
    solutions = attempts.attempt("sharpness", doing) or Solutions(runs=runs)
    if len(attempts.failed) == num_failed_before:
        write_text(path, solutions.model_dump_json(indent=2) + "\n")
    return solutions


def _extras(findings: Findings, measured: Profile, predicted: list[Predicted] | None, solutions: Solutions, attempts: Attempts) -> Extras:
    seconds = {one.global_batch_size: one.seconds.median for one in findings.best if one.seconds.median is not None}
    misses = compare(predicted or [], seconds)
    words: list[str] = []
    if misses:
        words.append(misses_in_words(misses))
    elif predicted == []:
        words.append("Nothing was predicted before the sweep: the recipe's own run did not reach the target, or measured no noise scale.")
    for one in solutions.sharp:
        words += slope_in_words(f"batch {one['global_batch_size']:,}", one["sharpness"])
    table = attempts.attempt("small batch against large batch", partial(small_against_large, findings, measured, solutions.sharp))
    return Extras(
        measured,
        predicted or [],
        misses,
        attempts.attempt("the figures of the solutions", partial(solution_charts, solutions, str(findings.setting))) or [],
        [("Small batch against large batch", table)] if table else [],
        words,
        attempts,
    )
