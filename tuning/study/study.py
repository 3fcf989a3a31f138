"""A study: profile, one run and its prediction, sweep, solutions and their sharpness, report; in one folder, each stage kept.

    profile.json -> reference/ -> prediction.json -> sweep/ -> solution-batch-*/, sharpness.json -> sweep/report/

A stage whose file is there is not done again, so a study that was stopped goes on with the next one. What only adds to the report
(prediction, solutions, sharpness, figures) may fail: the report says so, and the next `--resume` tries that stage alone. The budget is
wall-clock seconds; what each stage may use follows from the profile, so small machines compare fewer batch sizes
and search less, never less carefully at one batch than at another.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel

from largebatch.jobs.device import choose_device
from largebatch.jobs.errors import InputError
from largebatch.jobs.job import prepare
from largebatch.jobs.run.run_folder import write_text
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.folder_mirror import REPORT
from largebatch.tuning.measure.profile import profile
from largebatch.tuning.report.contents import Attempts, Extras
from largebatch.tuning.results.analysis.prediction import Predicted, predict
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.answer_for_mlflow import write_answer
from largebatch.tuning.results.findings import Findings, find_in
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.study.conclusion import Prediction, conclude
from largebatch.tuning.study.files import PROFILE, SWEEP_OF_STUDY
from largebatch.tuning.study.options import PREDICTION, SIZED, STAGES, Stage, StudyOptions, refuse_unstudied
from largebatch.tuning.study.reference_run import run_reference
from largebatch.tuning.study.sizing import FURTHER_PROFILE_SHARE, Expected, candidates, expected_seconds, size_sweep, what_was_chosen
from largebatch.tuning.study.solutions import solve
from largebatch.tuning.sweep.ledger import begun_sweep
from largebatch.tuning.sweep.optimizers import optimizer_fields
from largebatch.tuning.sweep.space import with_fields
from largebatch.tuning.sweep.spec import BATCH, ResourcesSpec, SweepSpec

Kept = TypeVar("Kept", bound=BaseModel)


def study(spec: TrainSpec, options: StudyOptions, run_the_sweep: Callable[[Path, SweepSpec, TrainSpec], int]) -> Path | None:
    """Do what is left of a study. Returns the report's page, or None if it was stopped on the way.

    Args: run_the_sweep: runs a sweep in a folder and shows it; returns how many runs are left.
    Raises: InputError for a recipe that cannot be studied, or a budget that holds nothing.
    """
    refuse_unstudied(spec, options.budget_s)
    device, attempts, sweep_dir = choose_device(options.device), Attempts(options.on_notice), options.folder / SWEEP_OF_STUDY

    began_s, goes_on = time.monotonic(), (options.folder / PROFILE).is_file()

    def begin(number: int, left_s: float | None = None) -> None:
        options.on_stage(Stage(number, len(STAGES), STAGES[number - 1], left_s))

    begin(1, None if goes_on else options.budget_s)
    step_times = _kept(options.folder / PROFILE, Profile, partial(_profile, spec, options, device))
    begin(2, None if goes_on else options.budget_s + began_s - time.monotonic())
    reference = run_reference(spec, step_times, options, device)
    profiles = _profiles(spec, step_times, options, device)
    sized = options.folder / SIZED
    make = partial(_sweep, spec, step_times, reference, options, profiles)
    sweep = begun_sweep(sized.read_text()) if sized.is_file() else _kept(sized, SweepSpec, make)
    predicts = not profiles or reference.optimizer in profiles  # else there is nothing to hold a prediction against
    predict_it = partial(_predict, spec, step_times, reference, sweep, options.folder)
    predicted = attempts.attempt("the prediction", predict_it) if predicts else None
    expected = [Expected(spec, step_times, reference, own) for own in (profiles.values() or [step_times])]
    begin(3, expected_seconds(sweep, expected, options.budget_s))
    options.on_notice(what_was_chosen(sweep))
    if run_the_sweep(sweep_dir, sweep, with_fields(spec, sweep.set)):
        return None
    findings = find_in(sweep_dir, spec.stop.target_score)
    begin(4)
    leading = findings.leading  # solutions of two optimizers would differ in more than the batch
    own = profiles.get(leading.runs[0].optimizer, step_times)
    solutions = solve(leading, Expected(spec, step_times, reference, own), options, device, attempts)
    begin(5)
    extras = conclude(findings, step_times, own, Prediction(reference.optimizer, predicted), solutions, attempts)
    return _report(sweep_dir, findings, extras)


def _kept(path: Path, kind: type[Kept], make: Callable[[], Kept]) -> Kept:
    """What a stage has left in its file, or else makes and leaves there."""
    if path.is_file():
        return kind.model_validate_json(path.read_text())
    made = make()
    write_text(path, made.model_dump_json(indent=2) + "\n")
    return made


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


def _sweep(spec: TrainSpec, step_times: Profile, reference: RunResult, options: StudyOptions, profiles: Mapping[str, Profile]) -> SweepSpec:
    # One run at a time, with the threads that the profile had: nothing slows another's clock.
    threads, has_gpu = min(torch.get_num_threads(), os.cpu_count() or 1), options.device != "cpu" and torch.cuda.is_available()
    resources = ResourcesSpec(cpus_per_worker=float(threads), gpus_per_worker=1.0 if has_gpu else 0.0, max_concurrent=1)
    try:
        return size_sweep(spec, step_times, reference, options.budget_s, resources, profiles or None)
    except InputError as error:  # the profile and the run are kept for another try
        raise InputError(error.field, error.problem, f"{error.hint[:-1]} --resume {options.folder}: what was measured is kept.") from error


def _predict(spec: TrainSpec, step_times: Profile, reference: RunResult, sweep: SweepSpec, folder: Path) -> list[Predicted]:
    """Before the sweep, and written down before it: what it will be held against. Empty where the reference run does not allow one."""
    path = folder / PREDICTION
    if path.is_file():
        return [Predicted(**document) for document in json.loads(path.read_text())]
    batches = [batch for batch in sweep.each[BATCH] if isinstance(batch, int)]
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
