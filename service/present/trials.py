"""A sweep's runs, as far as each has come: from the sweep's ledger and the runs' own folders."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from largebatch.jobs.run.run_folder import JOURNAL
from largebatch.service.present.progress import of_trial
from largebatch.tuning.sweep.ledger import Ledger, Trial


class TrialView(BaseModel):
    """One run of a sweep."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    number: int
    """In the order in which they were decided on, from 0."""
    run_id: str
    """Also the run's folder among the sweep's artifacts."""
    group: int
    phase: Literal["search", "repeat"]
    fields: dict[str, Any]
    """What it changes in the recipe."""
    state: Literal["waiting", "running", "unfinished", "ended", "pruned", "failed"]
    """unfinished: begun, and the sweep does not run now."""
    why: str = ""
    """Of a failed one."""
    outcome: str | None = None
    """reached, missed, completed or diverged, once it ended by itself."""
    step: int | None = None
    epoch: float | None = None
    test_accuracy: float | None = None
    """The newest; of one that ended, its best."""
    training_seconds: float | None = None
    time_to_accuracy_seconds: float | None = None


class Trials(BaseModel):
    """A page of a sweep's runs."""

    items: list[TrialView]
    next_after: int
    """Where the next page begins."""
    is_complete: bool
    """Whether there was nothing more just now."""


def read_trials(folder: Path, after: int, limit: int, is_active: bool) -> Trials:
    """So many of a sweep's runs. Args: is_active: whether the sweep runs now."""
    ledger = Ledger(folder)
    chosen = ledger.trials[after : after + limit]
    items = [_view(ledger, trial, is_active) for trial in chosen]
    return Trials(items=items, next_after=after + len(chosen), is_complete=after + len(chosen) >= len(ledger.trials))


def _view(ledger: Ledger, trial: Trial, is_active: bool) -> TrialView:
    facts: dict[str, Any] = trial.model_dump(include={"number", "run_id", "group", "phase", "fields"})
    folder, ending, summary = ledger.folder / trial.run_id, ledger.ending(trial), ledger.summary(trial)
    if summary is not None:
        facts |= {
            "outcome": None if ending else str(summary.outcome), "step": summary.steps, "epoch": summary.epochs,
            "test_accuracy": summary.best_test_accuracy, "training_seconds": summary.training_seconds,
            "time_to_accuracy_seconds": summary.time_to_accuracy_seconds,
        }  # fmt: skip
    elif (folder / JOURNAL).exists():
        facts |= of_trial(folder)
    if ending is not None:
        accuracy = ending.test_accuracy if facts.get("test_accuracy") is None else facts["test_accuracy"]
        return TrialView(**{**facts, "state": "pruned" if ending.how == "pruned" else "failed", "why": ending.why, "test_accuracy": accuracy})
    if summary is not None:
        return TrialView(**facts, state="ended")
    begun = "running" if is_active else "unfinished"
    return TrialView(**{**facts, "state": begun if (folder / JOURNAL).exists() else "waiting"})
