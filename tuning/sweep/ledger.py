"""A sweep's folder: what it was begun with, and its ledger, `trials.jsonl`: what it has decided, line by line, before anything runs.

The ledger and the runs' own folders are all that a sweep needs to go on after a kill: a run with a summary is
kept, one without goes on from its checkpoint, and the searches ask and learn once more in the order that is written here.
"""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

import pydantic

from largebatch.jobs.errors import InputError
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.journal import evaluations, read_records
from largebatch.jobs.run.json_lines import LineAppender, parse_object, read_all_lines
from largebatch.jobs.run.records import Headline, Record, RunSummary
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.folder_mirror import PARENT
from largebatch.jobs.tracking.params import flat
from largebatch.jobs.whole_files import storage_errors, write_text
from largebatch.tuning.sweep.optimizers import OPTIMIZER, OPTIMIZER_NAME
from largebatch.tuning.sweep.space import with_fields
from largebatch.tuning.sweep.spec import BATCHES, RATE, BudgetSpec, SweepSpec

LEDGER = "trials.jsonl"
SWEEP = "sweep.json"
BASE = "base.json"
SCHEDULE = "batch.schedule"
"""Begins the fields by which a batch changes while training."""
STOP = ".stop"
"""While this file is in the sweep's folder, runs under way stop and save."""
SEARCH_SEED_TAG = "largebatch.search_seed"
"""In `parent.json` and in MLflow: the seed of the runs by which a sweep chooses, kept apart from what is reported; not there where they count."""

STUDY_TAG = "largebatch.study"
"""In `parent.json` and in MLflow: the run of a study."""
CALLED = {RATE: "rate", OPTIMIZER_NAME: "", **dict.fromkeys(BATCHES, "batch")}
"""What fields are called in the names of runs in MLflow; others by their last word."""


class Trial(Record):
    """One run that was decided on."""

    number: int
    group: int
    phase: Literal["search", "repeat"]
    fields: dict[str, Any]
    """What it changes in the recipe, the seed included."""
    run_id: str

    def spec(self, base: TrainSpec) -> TrainSpec:
        """What it trains."""
        return with_fields(base, self.fields)


class Ending(Record):
    """A trial is over, other than by its summary."""

    number: int
    how: Literal["pruned", "failed", "faulted"]
    """faulted: the machine failed it; a sweep that goes on tries it again."""
    why: str = ""
    score: float | None = pydantic.Field(default=None, validation_alias=pydantic.AliasChoices("score", "test_accuracy"))
    """The best it had reported."""
    headline: Headline = Headline()
    """What the score is of."""
    samples_seen: int = 0
    """As far as it had reported."""


class Learned(Record):
    """A group's search was told what came of a run; its place among the lines is the moment."""

    number: int
    aims: list[float]
    """What is minimised: one number, or nsga2's two."""


class Spent(Record):
    """How long the sweep has worked, all its commands together."""

    seconds: float


_RECORDS: pydantic.TypeAdapter[Trial | Ending | Learned | Spent] = pydantic.TypeAdapter(Trial | Ending | Learned | Spent)


class Ledger:
    """The file; a context manager for writing. Args: clock: seconds, to add up how long the sweep has worked."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self._clock = folder, clock
        self.trials: list[Trial] = []
        self.endings: dict[int, Ending] = {}
        self.history: list[Trial | Learned] = []
        """What the searches decided and what they were told, in that order."""
        self.spent_s = 0.0
        for line in read_all_lines(folder / LEDGER):
            document = parse_object(line.content)
            if document is not None:  # else a kill cut it short: that trial was never begun
                with contextlib.suppress(pydantic.ValidationError):  # not ours
                    self._take(_RECORDS.validate_python(document))

    def _take(self, record: Record) -> None:
        if isinstance(record, Spent):
            self.spent_s = record.seconds
        elif isinstance(record, Ending):
            self.endings[record.number] = record
        elif isinstance(record, Trial | Learned):
            self.history.append(record)
            if isinstance(record, Trial):
                self.trials.append(record)

    def __enter__(self) -> Self:
        self._spent_before_s, self._began_s = self.spent_s, self._clock()
        self._file = LineAppender(self.folder / LEDGER)
        return self

    def __exit__(self, *_: object) -> None:
        self.spend()
        self._file.close()

    def add(self, record: Trial | Ending | Learned | Spent) -> None:
        """Write down a trial before it begins, how it ended, or what a search is told of it."""
        self._take(record)
        self._file.append(record.model_dump_json().encode())

    def spend(self) -> None:
        """Write down how long the sweep has worked until now, this command included."""
        self.add(Spent(seconds=round(self._spent_before_s + self._clock() - self._began_s, 3)))

    def samples(self) -> int:
        """Training samples of all runs that are over."""
        return sum(self.samples_of(trial) for trial in self.trials)

    def samples_of(self, trial: Trial) -> int:
        """A run's training samples, as it last told them where it has no result."""
        ending, summary = self.ending(trial), self.summary(trial)
        return ending.samples_seen if ending else summary.samples_seen if summary else 0

    def samples_to_target(self, trial: Trial) -> int | None:
        """A run's samples to its target; None where it has none. Where the trial says how its batch changes, its journal tells."""
        summary = self.summary(trial)
        if summary is None or summary.steps_to_target is None:
            return None
        if any(name.startswith(SCHEDULE) for name in trial.fields):
            for at in evaluations(read_records(self.folder / trial.run_id)):
                if at.step == summary.steps_to_target:
                    return at.samples_seen
        return summary.steps_to_target * summary.global_batch_size

    def spent_budget(self, budget: BudgetSpec) -> str | None:
        """Which limit is reached, in a sentence; None while there is more to use."""
        num_over = sum(self.is_over(trial) for trial in self.trials)
        if budget.seconds is not None and self.spent_s >= budget.seconds:
            return f"The budget of {budget.seconds:,g} s is spent; {num_over} runs ended."
        if budget.samples is not None and self.samples() >= budget.samples:
            return f"The budget of {budget.samples:,} samples is spent; {num_over} runs ended."
        return None

    def summary(self, trial: Trial) -> RunSummary | None:
        """A trial's result, if it has come to its end."""
        path = self.folder / trial.run_id / run_folder.SUMMARY
        if not path.is_file():
            return None
        summary = RunSummary.model_validate_json(path.read_text())
        return summary if summary.outcome.is_result or self._has_ended(trial) else None

    def ending(self, trial: Trial) -> Ending | None:
        """How a trial ended other than by its summary; a fault that a later try made good does not count."""
        return None if not self._has_ended(trial) and self.summary(trial) is not None else self.endings.get(trial.number)

    def is_over(self, trial: Trial) -> bool:
        """Whether nothing is left to do for it."""
        return self._has_ended(trial) or self.summary(trial) is not None

    def _has_ended(self, trial: Trial) -> bool:
        """Other than by its summary, and not by a fault, after which it is tried again."""
        return trial.number in self.endings and self.endings[trial.number].how != "faulted"

    def failures(self) -> list[tuple[Trial, Ending]]:
        """The trials that have no result, by their own fault or the machine's."""
        return [(trial, ending) for trial in self.trials if (ending := self.ending(trial)) is not None and ending.how != "pruned"]


def begin_sweep(folder: Path, sweep: SweepSpec, base: TrainSpec, name: str | None = None) -> None:
    """Write down what is to be done, once.

    Args: name: what MLflow shows; None: the folder's name.
    Raises: InputError if another sweep lies there; StorageError.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if (folder / SWEEP).is_file():
        raise InputError(str(folder), "holds a sweep already.", f"Go on with it: largebatch sweep --resume {folder}. Or give another --output-dir.")
    write_text(folder / BASE, base.model_dump_json(indent=2) + "\n")
    parent = {
        "name": name,
        "began_at_s": time.time(),
        "mlflow_uri": base.tracking.mlflow_uri,
        "experiment": base.tracking.experiment,
        "tags": {"largebatch.recipe": base.name, **({SEARCH_SEED_TAG: str(base.seed)} if sweep.chooses else {})},
        "params": flat(sweep.model_dump(mode="json", exclude_defaults=True)),
        **_nesting(sweep),
    }
    write_text(folder / PARENT, json.dumps(parent, indent=2) + "\n")
    write_text(folder / SWEEP, sweep.settled.model_dump_json(indent=2) + "\n")


def _nesting(sweep: SweepSpec) -> dict[str, list[tuple[str, str]]]:
    """How MLflow nests and calls the runs: (what it is called, the field) of each level above them, and of what tells them apart there."""
    searched = {*sweep.search.space, *(field for fields in sweep.search.by_optimizer.values() for field in fields)}
    varied = sorted({*sweep.each, *searched} - {OPTIMIZER}) + (["seed"] if sweep.repeats else [])
    levels = [OPTIMIZER_NAME] * bool(sweep.optimizers) + [field for field in BATCHES if field in sweep.each]
    named = {field: CALLED.get(field, field.rpartition(".")[2].replace("_", " ")) for field in [*levels, *varied]}
    return {
        "levels": [(named[field], field) for field in levels],
        "differ_in": [(named[field], field) for field in varied if field not in levels],
    }


def begun_sweep(text: str) -> SweepSpec:
    """A sweep that was begun, from what its folder keeps. Earlier versions counted the search's own runs. Raises: ValueError."""
    sweep = SweepSpec.model_validate_json(text)
    return sweep if "counts_search" in sweep.model_fields_set else sweep.model_copy(update={"counts_search": True})


def search_seed(folder: Path) -> int | None:
    """The seed of the runs in a sweep's folder by which its settings were chosen, and which are kept apart; None where there are none."""
    try:
        told = json.loads((folder / PARENT).read_text())["tags"][SEARCH_SEED_TAG]
        return int(told)
    except (OSError, ValueError, KeyError, TypeError):
        return None
