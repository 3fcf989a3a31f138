"""Search: which run comes next. Every group is searched with the same care, then its best is repeated with further seeds.

Groups take turns, so that a sweep cut short has searched all of them alike. Grid, random and quasi-random draws
are the same numbers in every group. Optuna (TPE, NSGA-II) learns within a group, never across.
"""

import itertools
import re
import time
from statistics import mean
from typing import Any, Literal

from largebatch.jobs.run.records import Headline, Outcome, RunSummary
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.sweep.ledger import Ending, Learned, Ledger, Trial
from largebatch.tuning.sweep.optimizers import optimizer_of
from largebatch.tuning.sweep.proposals import Learning, drawn_values
from largebatch.tuning.sweep.space import SweepGroup, groups
from largebatch.tuning.sweep.spec import BATCHES, SweepSpec

WORST = 1e18
"""Above any number of samples: where misses begin to be ranked."""
FEWEST_SEARCHED = 2
"""Of each group, however little time there is."""
LONGEST_NAME = 60
"""Letters of an optimizer in a run's name; of an entry point the last ones tell more."""


class Search:
    """All groups' searches: `next_trial` decides on a run and writes it to the ledger; `ended` takes in how it came out.

    Args: ends_at_s: Unix time from which no run begins.
    """

    def __init__(self, sweep: SweepSpec, base: TrainSpec, ledger: Ledger, ends_at_s: float | None = None) -> None:
        self.sweep, self.base, self.ledger, self._ends_at_s = sweep, base, ledger, ends_at_s
        self._searches = [_GroupSearch(sweep, base, group, ledger) for group in groups(sweep)]
        self._pending = [trial for trial in ledger.trials if not ledger.is_over(trial)]
        self._samples = 0
        self._seconds: dict[str, list[float]] = {"search": [], "repeat": []}
        for trial in ledger.trials:
            if ledger.is_over(trial):
                self.ended(trial)

    @property
    def goes_on(self) -> bool:
        """Whether what comes is what it would have been without the interruption."""
        return all(search.learning is None or search.learning.goes_on for search in self._searches)

    def next_trial(self) -> Trial | Literal["wait", "over"]:
        """The next run; "wait" if it depends on one that is under way; "over" when all were decided."""
        has_no_time = self._ends_at_s is not None and time.time() >= self._ends_at_s
        most_samples = self.sweep.budget.samples
        if has_no_time or (most_samples is not None and self._samples >= most_samples):
            return "over"
        if self._pending:
            return self._pending.pop(0)
        must_wait = False
        # The group with the fewest runs is next; a group that must wait lets others go first.
        for search in sorted(self._searches, key=lambda search: search.num_begun):
            if not self._has_time_for(search):
                continue
            trial = search.decide()
            if isinstance(trial, Trial):
                return trial
            must_wait |= trial == "wait"
        return "wait" if must_wait else "over"

    def ended(self, trial: Trial) -> None:
        """A run is over: finished, pruned or failed."""
        self._samples += self.ledger.samples_of(trial)
        if (summary := self.ledger.summary(trial)) is not None:
            self._seconds[trial.phase].append(summary.wall_seconds)
        self._searches[trial.group].end(trial)

    def _has_time_for(self, group: "_GroupSearch") -> bool:
        """Whether a group's next run may begin: its round, a run in every group, has begun or will be over in time. No time for another round of the
        search ends that in every group; the first seed always has time.
        """
        limit_s, spent_s, begun = self.sweep.budget.rounds_seconds, self.ledger.spent_s, group.num_begun
        if limit_s is None or begun < max(FEWEST_SEARCHED, *(other.num_begun for other in self._searches)):
            return True
        if not group.is_searched:
            seeds_s = mean(self._seconds["search"] or [0.0]) * len(self._searches)
            if spent_s + spent_s / begun + seeds_s <= limit_s:
                return True
            for other in self._searches:
                other.num_to_search = begun
        return group.num_repeated == 0 or spent_s + mean(self._seconds["repeat"] or [0.0]) * len(self._searches) <= limit_s


class _GroupSearch:
    """One group's search and its repeats, as far as the ledger has them."""

    def __init__(self, sweep: SweepSpec, base: TrainSpec, group: SweepGroup, ledger: Ledger) -> None:
        self._sweep, self._base, self._group, self._ledger = sweep, base, group, ledger
        trials = [trial for trial in ledger.trials if trial.group == group.number]
        self._searched = [trial for trial in trials if trial.phase == "search"]
        self.num_repeated = len(trials) - len(self._searched)
        """Further seeds of its best that were decided on so far."""
        self.num_to_search = len(self._searched) if any(trial.phase == "repeat" for trial in ledger.trials) else sweep.num_trials
        """Runs of its search, those to come included; fewer than planned where time ended it."""
        self._scores: dict[int, float] = {}
        self._shortfalls: dict[int, float] = {}
        """1 minus the best score as a fraction: among runs that met the target at the same evaluation the better one met it earlier between two."""
        numbers = {trial.number for trial in self._searched}
        history = [event for event in ledger.history if event.number in numbers]
        self._learned = {event.number for event in history if isinstance(event, Learned)}
        self.learning = Learning(sweep, group, history) if sweep.search.method in {"tpe", "nsga2"} and group.space else None
        """None: values are drawn beforehand."""
        self._drawn = itertools.islice(drawn_values(sweep, group), len(self._searched), None)

    @property
    def num_begun(self) -> int:
        """Runs decided on so far."""
        return len(self._searched) + self.num_repeated

    @property
    def is_searched(self) -> bool:
        """Whether no run of its search is left to decide on."""
        return len(self._searched) >= self.num_to_search

    def decide(self) -> Trial | Literal["wait", "over"]:
        """Decide on the group's next run, in the ledger before it begins."""
        if not self.is_searched:
            values = self.learning.ask(len(self._ledger.trials)) if self.learning else next(self._drawn)
            trial = self._trial("search", {**self._group.fields, **values, "seed": self._base.seed})
            self._searched.append(trial)
            return trial
        if self.num_repeated >= self._sweep.num_repeated:
            return "over"
        if any(trial.number not in self._scores for trial in self._searched):
            return "wait"
        best = min(self._searched, key=lambda trial: (self._scores[trial.number], self._shortfalls[trial.number], trial.number))
        if self._scores[best.number] >= 3 * WORST:
            return "over"  # all diverged: no seed is worth trying
        self.num_repeated += 1
        return self._trial("repeat", {**best.fields, "seed": self._base.seed + self.num_repeated})

    def _trial(self, phase: Literal["search", "repeat"], fields: dict[str, Any]) -> Trial:
        number, batch = len(self._ledger.trials), self._base.batch
        named = [fields.get(field) for field in BATCHES] + [batch.global_batch_size, batch.global_batch_tokens]
        optimizer = optimizer_of(fields) if self._sweep.optimizers else None
        under = "" if optimizer is None else re.sub(r"[^A-Za-z0-9_.-]+", "-", optimizer)[-LONGEST_NAME:] + "-"
        run_id = f"{number:04d}-{under}batch-{next(filter(None, named))}-seed-{fields['seed']}"
        trial = Trial(number=number, group=self._group.number, phase=phase, fields=fields, run_id=run_id)
        self._ledger.add(trial)
        return trial

    def end(self, trial: Trial) -> None:
        """A trial of this group is over. The search learns of it once; what the machine failed says nothing of its values."""
        summary, ending = self._ledger.summary(trial), self._ledger.ending(trial)
        samples = self._ledger.samples_to_target(trial)
        self._scores[trial.number] = score(summary, ending, samples)
        self._shortfalls[trial.number] = 1 - _fraction(summary.best_score, summary.headline) if summary else 1.0
        is_faulted = ending is not None and ending.how == "faulted"
        if trial.phase == "search" and not is_faulted and trial.number not in self._learned:
            aims = two_aims(summary, ending) if self._sweep.search.method == "nsga2" else [self._scores[trial.number]]
            self._ledger.add(Learned(number=trial.number, aims=aims))
            self._learned.add(trial.number)
            if self.learning:
                self.learning.tell(trial.number, aims)


def score(summary: RunSummary | None, ending: Ending | None = None, samples_to_target: int | None = None) -> float:
    """How a run counts in its group's search, which minimises it: samples to the target; misses after every hit by score, divergences last.

    Samples, not seconds: at one batch they rank alike, and they do not depend on what else the machine does. Args: samples_to_target: see `Ledger`;
    None: of a miss, or those of so many steps of one batch.
    """
    if ending is not None and ending.how == "pruned":
        return WORST * (2 - _fraction(ending.score, ending.headline))
    if ending is not None or summary is None or summary.outcome is Outcome.DIVERGED:
        return 3 * WORST
    if summary.steps_to_target is not None:
        return summary.steps_to_target * summary.global_batch_size if samples_to_target is None else samples_to_target
    return WORST * (2 - _fraction(summary.best_score, summary.headline))


def _fraction(score: float | None, headline: Headline) -> float:
    return 0.0 if score is None else headline.metric.fraction(score)


def two_aims(summary: RunSummary | None, ending: Ending | None = None) -> list[float]:
    """What nsga2 minimises: seconds to the target (of a miss, of the whole training), and 1 minus the score as a fraction."""
    if ending is not None or summary is None or summary.outcome is Outcome.DIVERGED:
        return [WORST, 1.0 - (_fraction(ending.score, ending.headline) if ending else 0.0)]
    seconds = summary.time_to_target_seconds
    return [summary.training_seconds if seconds is None else seconds, 1 - _fraction(summary.best_score, summary.headline)]
