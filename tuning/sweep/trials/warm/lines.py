"""What a sweep and its warm processes say to each other: lines of JSON, one answer to each `Begin` and each `Answer`."""

from pydantic import BaseModel, TypeAdapter

from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.sweep.trials.processes import Lost
from largebatch.tuning.sweep.trials.resources import TrialOptions, TrialReport

READY = "ready\n"
"""A process can begin a run."""


class Begin(BaseModel):
    """Train a run, or go on with it."""

    spec: TrainSpec
    options: TrialOptions
    run_id: str


class Answer(BaseModel):
    """To an evaluation."""

    ends_early: bool


REQUEST: TypeAdapter[Begin | Answer] = TypeAdapter(Begin | Answer)
_REPORT: TypeAdapter[TrialReport | None] = TypeAdapter(TrialReport | None)
"""An evaluation, or the end of a run. None: the child that trained it died."""


def news_line(report: TrialReport | None) -> str:
    """A report as a line, with its end. Args: report: None where a child died."""
    return f"{_REPORT.dump_json(report).decode()}\n"


def read_news(line: str) -> TrialReport | Lost:
    """What such a line says."""
    report = _REPORT.validate_json(line)
    return Lost() if report is None else report
