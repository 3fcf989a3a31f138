"""A study: profile, one run and its prediction, sweep, solutions and their sharpness, report; in one folder, each stage kept.

    profile.json -> reference/ -> prediction.json -> sweep/ -> solution-batch-*/, sharpness.json -> sweep/report/

A stage whose file is there is not done again, so a study that was stopped goes on with the next one. What only adds to the report
(prediction, solutions, sharpness, figures) may fail: the report says so, and the next `--resume` tries that stage alone. The budget is
wall-clock seconds; what each stage may use follows from the profile, so small machines compare fewer batch sizes
and search less, never less carefully at one batch than at another.
"""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel

from largebatch.jobs.data.sources.table import load_dataset
from largebatch.jobs.device import choose_device
from largebatch.jobs.errors import InputError
from largebatch.jobs.job import prepare
from largebatch.jobs.preparing.examine import training_set
from largebatch.jobs.spec.schedules import BatchScheduleSpec
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.folder_mirror import REPORT
from largebatch.jobs.whole_files import write_text
from largebatch.tuning.files import PROFILE, SWEEP_OF_STUDY
from largebatch.tuning.measure.profile import profile
from largebatch.tuning.report.contents import Attempts, Extras
from largebatch.tuning.results.analysis.prediction import Predicted, predict
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.answer_for_mlflow import write_answer
from largebatch.tuning.results.findings import Findings, find_in
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.study.bounds import longest_reference, most_left, refuse_endless
from largebatch.tuning.study.conclusion import Prediction, conclude
from largebatch.tuning.study.expected import AFTER_S, Expected, candidates
from largebatch.tuning.study.options import PREDICTION, SIZED, STAGES, Stage, StudyOptions, refuse_unstudied
from largebatch.tuning.study.reference_run import run_reference
from largebatch.tuning.study.sizing import FURTHER_PROFILE_SHARE, SweepTime, batches_of, size_sweep, what_was_chosen, what_was_left_out
from largebatch.tuning.study.solutions import solve
from largebatch.tuning.study.threads import choose_threads
from largebatch.tuning.sweep.ledger import begun_sweep
from largebatch.tuning.sweep.optimizers import optimizer_fields
from largebatch.tuning.sweep.space import with_fields
from largebatch.tuning.sweep.spec import ResourcesSpec, SweepSpec

Kept = TypeVar("Kept", bound=BaseModel)
Decided = TypeVar("Decided")


def study(spec: TrainSpec, options: StudyOptions, run_the_sweep: Callable[[Path, SweepSpec, TrainSpec], int]) -> Path | None:
    """Do what is left of a study. Returns the report's page, or None if it was stopped on the way.

    Args: run_the_sweep: runs a sweep in a folder and shows it; returns how many runs are left.
    Raises: InputError for a recipe that cannot be studied, or a budget that holds nothing.
    """
    refuse_unstudied(spec, options.budget_s)
    device, attempts, sweep_dir = choose_device(options.device), Attempts(options.on_notice), options.folder / SWEEP_OF_STUDY

    goes_on = (options.folder / PROFILE).is_file()

    def begin(number: int, left_s: float | None = None, after_s: float = 0.0) -> None:
        options.on_stage(Stage(number, len(STAGES), STAGES[number - 1], left_s, after_s))

    begin(1, None if goes_on else options.left_s)
    step_times = _kept(options.folder / PROFILE, Profile, partial(_profile_recipe, spec, options, device))
    torch.set_num_threads(step_times.threads or torch.get_num_threads())
    resources, profiles = _resources(options), _profiles(spec, step_times, options, device)
    optimizers = [*profiles.values()] or [step_times]
    if not goes_on:
        _keeping(options.folder, lambda: refuse_endless(spec, step_times, options.budget_s, options.left_s, optimizers))
    at_each, at_once = max(len(optimizers), 1 + (not profiles)), resources.max_searching or 1
    begin(2, None if goes_on else most_left(spec, step_times, options.left_s, at_each, at_once))
    longest_s = longest_reference(spec, step_times, options.budget_s, options.budget_s if goes_on else options.left_s, optimizers)
    reference = run_reference(spec, step_times, optimizers, options, device, longest_s)
    sized, left_s = options.folder / SIZED, None if goes_on else options.left_s
    make = partial(size_sweep, spec, step_times, reference, options.budget_s, resources, profiles or None, left_s)
    sweep = begun_sweep(sized.read_text()) if sized.is_file() else _kept(sized, SweepSpec, partial(_keeping, options.folder, make))
    predicts = not profiles or reference.optimizer in profiles  # else there is nothing to hold a prediction against
    predict_it = partial(_predict, spec, step_times, reference, sweep, options.folder)
    predicted = attempts.attempt("the prediction", predict_it) if predicts else None
    expected = [Expected(spec, step_times, reference, own) for own in optimizers]
    time = SweepTime(expected, options.budget_s, options.left_s, sweep.resources.max_searching or 1)
    begin(3, time.left_with(sweep), time.after(batches_of(sweep)))
    options.on_notice(what_was_chosen(sweep))
    if spec.batch.schedule != BatchScheduleSpec():
        options.on_notice("Every batch stays as it is: the recipe's batch.schedule, which changes it, is left out of all runs but the recipe's own.")
    if left_out := what_was_left_out(sweep, step_times, time, reference):
        options.on_notice(left_out)
    if run_the_sweep(sweep_dir, sweep, with_fields(spec, sweep.set)):
        return None
    findings = find_in(sweep_dir, spec.stop.target_score)
    leading = findings.leading  # solutions of two optimizers would differ in more than the batch
    begin(4, min(time.after([best.global_batch_size for best in leading.best]), max(options.left_s, AFTER_S)))
    own = profiles.get(leading.runs[0].optimizer, step_times)
    solutions = solve(leading, Expected(spec, step_times, reference, own), options, device, attempts)
    begin(5, AFTER_S)
    extras = conclude(findings, step_times, own, Prediction(reference.optimizer, predicted), solutions, attempts)
    return _report(sweep_dir, findings, extras)


def _kept(path: Path, kind: type[Kept], make: Callable[[], Kept]) -> Kept:
    """What a stage has left in its file, or else makes and leaves there."""
    if path.is_file():
        return kind.model_validate_json(path.read_text())
    made = make()
    write_text(path, made.model_dump_json(indent=2) + "\n")
    return made


def _profile_recipe(spec: TrainSpec, options: StudyOptions, device: torch.device) -> Profile:
    """Of the recipe as it is, with as many threads as pay."""
    largest = (training_set(spec, load_dataset(spec.dataset, options.data_dir, spec.task)).num_samples + 1) // 2
    batches = sorted({min(batch, largest) for batch in (16, round((16 * largest) ** 0.5), largest)})

    def seconds_per_step() -> dict[int, float]:
        measured = _profile(spec, options, device, options.profile_share / 8, batches)
        return {point.global_batch_size: point.seconds_per_step for point in measured.points}

    if chosen := choose_threads(device, seconds_per_step):
        options.on_notice(chosen)
    return _profile(spec, options, device)


def _profile(
    spec: TrainSpec, options: StudyOptions, device: torch.device, share: float | None = None, batches: Sequence[int] | None = None
) -> Profile:
    """Args: share: of the budget; default the whole profile's; batches: default all."""
    share_s = (share or options.profile_share) * options.budget_s
    return profile(
        spec, lambda at_batch: prepare(at_batch, device, options.data_dir), batches, seconds_per_batch=min(share_s / 20, 1.0),
        most_seconds=share_s / 2,
        on_point=lambda batch, done, of: options.on_fraction(done / of, f"{spec.optimizer.label}, batch {batch:,}"),
    )  # fmt: skip


def _profiles(spec: TrainSpec, own: Profile, options: StudyOptions, device: torch.device) -> dict[str, Profile]:
    """Of every optimizer that is compared, each with steps of its own at the batches that may be; empty where none are. Args: own: the recipe's."""
    profiles = {}
    for name in options.optimizers:
        under = with_fields(spec, optimizer_fields(name))
        measure = partial(_profile, under, options, device, FURTHER_PROFILE_SHARE, candidates(own))
        profiles[name] = own if name == spec.optimizer.label else _kept(options.folder / f"profile-{name}.json", Profile, measure)
    return profiles


def _resources(options: StudyOptions) -> ResourcesSpec:
    """What each run gets: the threads that the profile had. Runs that report go alone, so that nothing slows their clock; those of the search, which
    are ranked by samples, beside each other where cores are left.
    """
    cores = os.cpu_count() or 1
    threads, has_gpu = min(torch.get_num_threads(), cores), options.device != "cpu" and torch.cuda.is_available()
    at_once = 1 if has_gpu else cores // threads
    return ResourcesSpec(
        cpus_per_worker=float(threads), gpus_per_worker=1.0 if has_gpu else 0.0, max_concurrent=1, max_searching=at_once if at_once > 1 else None
    )


def _keeping(folder: Path, decide: Callable[[], Decided]) -> Decided:
    """What is decided; a refusal says how the study goes on with what was measured."""
    try:
        return decide()
    except InputError as error:
        raise InputError(error.field, error.problem, f"{error.hint[:-1]} --resume {folder}: what was measured is kept.") from error


def _predict(spec: TrainSpec, step_times: Profile, reference: RunResult, sweep: SweepSpec, folder: Path) -> list[Predicted]:
    """Before the sweep, and written down before it: what it will be held against. Empty where the reference run does not allow one."""
    path = folder / PREDICTION
    if path.is_file():
        return [Predicted(**document) for document in json.loads(path.read_text())]
    batches = batches_of(sweep)
    try:
        assert spec.stop.target_score is not None  # a study without a target is refused
        every = with_fields(spec, sweep.set).evaluation.every_epochs
        predicted = predict(reference, step_times, spec.stop.target_score, batches, every * step_times.num_train_samples)
    except InputError:
        predicted = []
    write_text(path, json.dumps([prediction._asdict() for prediction in predicted], indent=2) + "\n")
    return predicted


def _report(sweep_dir: Path, findings: Findings, extras: Extras) -> Path:
    from largebatch.tuning.report.report import write_report  # it draws: plotly and matplotlib are imported once there is something to show

    write_answer(sweep_dir, findings)
    return write_report(sweep_dir / REPORT, findings, extras)
