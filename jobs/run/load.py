"""`largebatch.load_run`: a run's folder as objects."""

import os
from pathlib import Path
from typing import NamedTuple

from largebatch.jobs.errors import InputError
from largebatch.jobs.run.journal import evaluations, read_records, steps
from largebatch.jobs.run.records import EvalRecord, RunSummary, StepRecord
from largebatch.jobs.run.run_folder import SPEC, SUMMARY, begun_spec, recorded_spec
from largebatch.jobs.spec.recorded import RecordedSpec
from largebatch.jobs.spec.train_spec import TrainSpec


class Run(NamedTuple):
    """What a run's folder holds: what was trained, and how it went."""

    path: Path
    spec: TrainSpec | RecordedSpec
    """A RecordedSpec: another program's loop trained it."""
    summary: RunSummary | None
    """None: the run has not ended."""
    evaluations: list[EvalRecord]
    steps: list[StepRecord]


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read a run's folder, of a run that has ended or still goes on.

        run = largebatch.load_run("runs/digits-lamb-20260101-120000-ab12")
        for evaluation in run.evaluations:
            print(evaluation.training_seconds, evaluation.score)

    Raises: InputError for a folder that is no run's, or holds what cannot be read.
    """
    folder = Path(path)
    if not (folder / SPEC).is_file():
        raise InputError("path", f"{folder} is not a run's folder: it has no {SPEC}.", "Give the folder that the run printed.")
    records = read_records(folder)
    try:
        summary = RunSummary.model_validate_json((folder / SUMMARY).read_text()) if (folder / SUMMARY).is_file() else None
    except ValueError as error:
        raise InputError("path", f"{folder / SUMMARY} cannot be read: {error}.") from error
    return Run(folder, recorded_spec(folder) or begun_spec(folder), summary, list(evaluations(records)), list(steps(records)))
