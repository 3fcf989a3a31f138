"""Which run comes next: every group searched with the same care, then its best repeated with further seeds.

Groups take turns, so that a sweep cut short has searched all of them alike. Grid, random and quasi-random draws
are the same numbers in every group. Optuna (TPE, NSGA-II) learns within a group, never across.
"""

from collections.abc import Callable
from typing import Any, Literal

from largebatch.jobs.run.records import Outcome, RunSummary
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.sweep.ledger import Ending, Learned, Ledger, Trial
from largebatch.tuning.sweep.proposals import Asked, Told, proposals
from largebatch.tuning.sweep.space import Group, groups
from largebatch.tuning.sweep.spec import BATCH, SweepSpec

WORST = 1e18
"""Above any number of samples: where misses begin to be ranked."""


def score(summary: RunSummary | None, ending: Ending | None = None) -> float:
    """What the search minimises: samples to the target; misses after every hit by their accuracy, divergences last.

    Samples, not seconds: at one batch they rank alike, and they do not depend on what else the machine does.
    """
    if ending is not None and ending.how == "pruned":
        return WORST * (2 - (ending.test_accuracy or 0.0))
    if ending is not None or summary is None or summary.outcome is Outcome.DIVERGED:
        return 3 * WORST
    if summary.steps_to_accuracy is not None:
        return summary.steps_to_accuracy * summary.global_batch_size
    return WORST * (2 - (summary.best_test_accuracy or 0.0))


class Search:
    """All groups' searches. What is over is told by `ended`; `next_trial` decides, and takes it down first.

    Args: has_time: whether the sweep's seconds are not used up.
    """

    def __init__(self, sweep: SweepSpec, base: TrainSpec, ledger: Ledger, has_time: Callable[[], bool] = lambda: True) -> None:
        self._sweep, self._base, self._ledger, self._has_time = sweep, base, ledger, has_time
        self._searches = [_GroupSearch(sweep, base, group, ledger) for group in groups(sweep)]
        self._pending = [trial for trial in ledger.trials if not ledger.is_over(trial)]
        self._samples = 0
        for trial in ledger.trials:
            if ledger.is_over(trial):
                self._finish(trial)

    @property
    def goes_on(self) -> bool:
        """Whether what comes is what it would have been without the interruption."""
        return all(search.goes_on for search in self._searches)

    def next_trial(self) -> Trial | Literal["wait", "over"]:
        """The next run; "wait" if it depends on one that is under way; "over" when all were decided."""
        budget = self._sweep.budget
        if not self._has_time() or (budget.samples is not None and self._samples >= budget.samples):
            return "over"
        if self._pending:
            return self._pending.pop(0)
        waits = False
        # The group with the fewest runs is next; a group that must wait lets others go first.
        for search in sorted(self._searches, key=lambda one: one.num_begun):
            proposed = search.propose()
            if proposed == "wait":
                waits = True
            elif proposed != "over":
                phase, fields = proposed
                trial = self._trial(search.group, phase, fields)
                self._ledger.decide(trial)
                search.begin(trial)
                return trial
        return "wait" if waits else "over"

    def _trial(self, group: Group, phase: Literal["search", "repeat"], fields: dict[str, Any]) -> Trial:
        number = len(self._ledger.trials)
        batch = fields.get(BATCH, self._base.batch.global_batch_size)
        return Trial(number=number, group=group.number, phase=phase, fields=fields, run_id=f"{number:04d}-batch-{batch}-seed-{fields['seed']}")

    def ended(self, trial: Trial) -> None:
        """A run is over: finished, pruned or failed."""
        self._finish(trial)

    def _finish(self, trial: Trial) -> None:
        self._samples += self._ledger.samples_of(trial)
        self._searches[trial.group].end(trial, self._ledger.summary(trial), self._ledger.ending(trial))


class _GroupSearch:
    """One group's search and its repeats, as far as the ledger has them."""

    def __init__(self, sweep: SweepSpec, base: TrainSpec, group: Group, ledger: Ledger) -> None:
        self.group, self._ledger = group, ledger
        self._base_seed, self._repeats, self._num_trials = base.seed, sweep.repeats, sweep.search.num_trials()
        self._has_two_aims = sweep.search.method == "nsga2"
        self._began = [trial for trial in ledger.trials if trial.group == group.number]
        self._scores: dict[int, float] = {}
        self._learned = {event.number for event in ledger.history if isinstance(event, Learned)}
        self._proposals = proposals(sweep, group, self._past())

    def _past(self) -> list[Asked | Told]:
        """What the search was asked and told by earlier processes."""
        places = {trial.number: place for place, trial in enumerate(self._searched)}
        return [
            Told(places[event.number], event.aims)
            if isinstance(event, Learned)
            else Asked(places[event.number], {name: event.fields[name] for name in self.group.space})
            for event in self._ledger.history
            if event.number in places
        ]

    @property
    def goes_on(self) -> bool:
        """See `Search`."""
        return self._proposals.goes_on

    @property
    def _searched(self) -> list[Trial]:
        return [trial for trial in self._began if trial.phase == "search"]

    @property
    def num_begun(self) -> int:
        """Runs decided on so far."""
        return len(self._began)

    def propose(self) -> tuple[Literal["search", "repeat"], dict[str, Any]] | Literal["wait", "over"]:
        """The next run's phase and fields."""
        searched = self._searched
        if len(searched) < self._num_trials:
            values = self._proposals.ask(len(searched))
            return "search", {**self.group.fields, **values, "seed": self._base_seed}
        repeated = len(self._began) - len(searched)
        if repeated >= self._repeats - 1:
            return "over"
        if any(trial.number not in self._scores for trial in searched):
            return "wait"
        best = min(searched, key=lambda trial: (self._scores[trial.number], trial.number))
        if self._scores[best.number] >= 3 * WORST:
            return "over"  # all diverged: no seed is worth trying
        return "repeat", {**best.fields, "seed": self._base_seed + repeated + 1}

    def begin(self, trial: Trial) -> None:
        """A trial of this group was decided on."""
        self._began.append(trial)

    def end(self, trial: Trial, summary: RunSummary | None, ending: Ending | None) -> None:
        """A trial of this group is over. The search learns of it once; what the machine failed says nothing of its values."""
        self._scores[trial.number] = score(summary, ending)
        is_faulted = ending is not None and ending.how == "faulted"
        if trial.phase == "search" and not is_faulted and trial.number not in self._learned:
            aims = self._aims(summary, ending)
            self._ledger.learn(trial.number, aims)
            self._learned.add(trial.number)
            self._proposals.tell(self._searched.index(trial), aims)

    def _aims(self, summary: RunSummary | None, ending: Ending | None) -> list[float]:
        if not self._has_two_aims:
            return [score(summary, ending)]
        if ending is not None or summary is None or summary.outcome is Outcome.DIVERGED:
            return [WORST, 1.0 - (ending.test_accuracy or 0.0 if ending else 0.0)]
        seconds = summary.time_to_accuracy_seconds
        return [summary.training_seconds if seconds is None else seconds, 1 - (summary.best_test_accuracy or 0.0)]
