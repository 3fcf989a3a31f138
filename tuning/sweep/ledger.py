"""What a sweep has decided, line by line, before anything runs: `trials.jsonl` in its folder.

The ledger and the runs' own folders are all that a sweep needs to go on after a kill: a run with a summary is
kept, one without goes on from its checkpoint, and the searches ask and learn once more in the order that is written here.
"""

import time
from pathlib import Path
from typing import Any, Literal, Self

from largebatch.jobs.run import run_folder
from largebatch.jobs.run.json_lines import LineAppender, parse_object, read_all_lines
from largebatch.jobs.run.records import Record, RunSummary
from largebatch.jobs.run.run_folder import CHECKPOINTS
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.folder_mirror import REPORT
from largebatch.tuning.sweep.space import count_runs, with_fields
from largebatch.tuning.sweep.spec import BudgetSpec, SweepSpec

LEDGER = "trials.jsonl"
SWEEP = "sweep.json"
BASE = "base.json"


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
    test_accuracy: float | None = None
    """The best it had reported."""
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


class Ledger:
    """The file; a context manager for writing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trials: list[Trial] = []
        self.endings: dict[int, Ending] = {}
        self.history: list[Trial | Learned] = []
        """What the searches decided and what they were told, in that order."""
        self.spent_s = 0.0
        for line in read_all_lines(folder / LEDGER):
            document = parse_object(line.content)
            if document is None:
                continue  # a kill cut it short: that trial was never begun
            if "seconds" in document:
                self.spent_s = Spent.model_validate(document).seconds
            elif "how" in document:
                ending = Ending.model_validate(document)
                self.endings[ending.number] = ending
            elif "aims" in document:
                self.history.append(Learned.model_validate(document))
            else:
                self._take(Trial.model_validate(document))

    def _take(self, trial: Trial) -> None:
        self.trials.append(trial)
        self.history.append(trial)

    def __enter__(self) -> Self:
        self._spent_before_s, self._began_s = self.spent_s, time.monotonic()
        self._file = LineAppender(self.folder / LEDGER)
        return self

    def __exit__(self, *_: object) -> None:
        self.spend()
        self._file.close()

    def decide(self, trial: Trial) -> None:
        """Take down a trial before it begins."""
        self._take(trial)
        self._write(trial)

    def learn(self, number: int, aims: list[float]) -> None:
        """Take down what a search is told of a trial."""
        learned = Learned(number=number, aims=aims)
        self.history.append(learned)
        self._write(learned)

    def end(self, ending: Ending) -> None:
        """Take down that a trial is over."""
        self.endings[ending.number] = ending
        self._write(ending)

    def spend(self) -> None:
        """Take down how long the sweep has worked until now, this command included."""
        self.spent_s = round(self._spent_before_s + time.monotonic() - self._began_s, 3)
        self._write(Spent(seconds=self.spent_s))

    def samples(self) -> int:
        """Training samples of all runs that are over."""
        return sum(self.samples_of(trial) for trial in self.trials)

    def samples_of(self, trial: Trial) -> int:
        """A run's training samples; one that was ended early may still be writing its summary."""
        ending, summary = self.ending(trial), self.summary(trial)
        return ending.samples_seen if ending else summary.samples_seen if summary else 0

    def spent_budget(self, budget: BudgetSpec) -> str | None:
        """Which limit is reached, in a sentence; None while there is more to use."""
        num_over = sum(self.is_over(trial) for trial in self.trials)
        if budget.seconds is not None and self.spent_s >= budget.seconds:
            return f"The budget of {budget.seconds:,g} s is spent; {num_over} runs ended."
        if budget.samples is not None and self.samples() >= budget.samples:
            return f"The budget of {budget.samples:,} samples is spent; {num_over} runs ended."
        return None

    def _write(self, record: Record) -> None:
        self._file.append(record.model_dump_json().encode())

    def summary(self, trial: Trial) -> RunSummary | None:
        """A trial's result, if it has come to its end."""
        path = self.folder / trial.run_id / run_folder.SUMMARY
        if not path.is_file():
            return None
        summary = RunSummary.model_validate_json(path.read_text())
        ending = self.endings.get(trial.number)
        is_over = summary.outcome.is_result or (ending is not None and ending.how != "faulted")
        return summary if is_over else None

    def ending(self, trial: Trial) -> Ending | None:
        """How a trial ended other than by its summary; a fault that a later try made good does not count."""
        found = self.endings.get(trial.number)
        return None if found is not None and found.how == "faulted" and self.summary(trial) is not None else found

    def is_over(self, trial: Trial) -> bool:
        """Whether nothing is left to do for it."""
        ending = self.endings.get(trial.number)
        return (ending is not None and ending.how != "faulted") or self.summary(trial) is not None

    def failures(self) -> list[tuple[Trial, Ending]]:
        """The trials that have no result, by their own fault or the machine's."""
        ended = [(trial, self.ending(trial)) for trial in self.trials if trial.number in self.endings]
        return [(trial, ending) for trial, ending in ended if ending is not None and ending.how != "pruned"]

    def has_begun(self, trial: Trial) -> bool:
        """Whether it left a checkpoint to go on from."""
        return any((self.folder / trial.run_id / CHECKPOINTS).glob("*"))


def runs_to_come(folder: Path) -> int:
    """How many runs of a sweep have not ended, begun or not."""
    sweep, ledger = SweepSpec.model_validate_json((folder / SWEEP).read_text()), Ledger(folder)
    if ledger.spent_budget(sweep.budget):
        return 0
    if all(ledger.is_over(trial) for trial in ledger.trials) and (folder / REPORT).is_dir():
        return 0  # a group that diverged everywhere is not repeated
    return count_runs(sweep) - sum(ledger.is_over(trial) for trial in ledger.trials)
