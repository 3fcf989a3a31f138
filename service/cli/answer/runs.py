"""Reads the runs and the profile that a question is about, from the folders, files or MLflow experiment that a person names."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pydantic

from largebatch.jobs.errors import InputError, SpecError
from largebatch.service.cli.answer.mlflow_names import asking_once
from largebatch.service.cli.options import RunsToRead
from largebatch.tuning.report.contents import Extras
from largebatch.tuning.results.analysis.advice import Cost
from largebatch.tuning.results.analysis.prediction import compare, predict, profile_beside_runs, refuse_other_reference
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.background import begun_from
from largebatch.tuning.results.collect import Collected, collect, collect_experiment, unreadable_in_words
from largebatch.tuning.results.findings import Findings, find
from largebatch.tuning.results.run_folders import runs_of_folders

IN_MLFLOW = "mlflow:"
"""Begins an experiment's name where a folder might stand."""


def gather(runs: RunsToRead) -> Collected:
    """Reads runs from their folders or from MLflow. Raises: SpecError for neither, or both."""
    folders = list(runs.folders or ())
    named = [str(folder).removeprefix(IN_MLFLOW) for folder in folders if str(folder).startswith(IN_MLFLOW)]
    experiments = [*([] if runs.experiment is None else [runs.experiment]), *named]
    if not experiments:
        if not folders:
            raise SpecError("FOLDER", "is missing.", "Give run folders, a sweep's folder, or mlflow:EXPERIMENT.")
        folder_runs = runs_of_folders(folders)
        return Collected(collect(folder_runs.run_dirs), folder_runs.missing)
    if len(experiments) + len(folders) - len(named) > 1:
        raise SpecError("--experiment", "and FOLDER exclude each other.", "Give one of the two.")
    if runs.mlflow_uri is None:
        raise SpecError("--mlflow-uri", "is missing.", "Example: sqlite:///runs/mlflow.db.")
    return collect_experiment(runs.mlflow_uri, experiments[0], asking_once(runs.mapping))


def find_among(gathered: Collected, runs: RunsToRead, limits: Mapping[Cost, float] = MappingProxyType({})) -> Findings:
    """What they say, held against the recipe of the sweep or the study, where that is all that was named. Raises: NothingEndedError."""
    folders = runs.folders or []
    recipe = begun_from(folders[0]) if len(folders) == 1 else None
    return find(gathered.runs, runs.target, limits=limits, missing=gathered.missing, begun_from=recipe)


def read_profile(path: Path) -> Profile:
    """What `largebatch profile --output` wrote. Raises: SpecError."""
    try:
        return Profile.model_validate_json(path.read_text())
    except (OSError, UnicodeDecodeError, pydantic.ValidationError) as error:
        hint = "Make one: largebatch profile RECIPE --output FILE.json"
        raise SpecError("--profile", f"{path} cannot be read as a profile: {unreadable_in_words(error)}.", hint) from error


def compare_prediction(findings: Findings, runs: RunsToRead) -> Extras:
    """What the reference run and the profile predict for the batches that were measured, and how far that is off.

    Its words say what must be said of a profile that is not of the runs' own kind. Raises: SpecError, InputError.
    """
    if runs.profile is None:
        if runs.reference is not None:
            hint = "Make one: largebatch profile RECIPE --output FILE"
            raise SpecError("--profile", "is missing: a prediction stands on a profile and a run.", hint)
        return Extras()
    profile = read_profile(runs.profile)
    run = None if runs.reference is None else collect([runs.reference])[0]
    optimizers = [*findings.by_optimizer] if run is None else [run.optimizer]
    notes = [note for note in [profile_beside_runs(profile, findings.setting, optimizers)] if note]
    if run is None:
        return Extras(profile, words=notes)
    refuse_other_reference(run, findings.setting)
    if run.optimizer not in findings.by_optimizer:
        problem = f"{run.summary.run_id} trained with {run.optimizer}, and the runs with {' and '.join(findings.by_optimizer)}."
        raise InputError("--reference", problem, "Give a run with an optimizer that is compared.")
    predicted = predict(run, profile, findings.target, sorted({best.global_batch_size for best in findings.best}))
    return Extras(profile, predicted, compare(predicted, findings.measured_seconds(run.optimizer)), words=notes,
                  predicted_with=run.optimizer if findings.compares_optimizers else "")  # fmt: skip
