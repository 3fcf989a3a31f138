"""Which run comes next: every group searched with the same care, then its best repeated with further seeds.

Groups take turns, so that a sweep cut short has searched all of them alike. Grid, random and quasi-random draws
are the same numbers in every group. Optuna (TPE, NSGA-II) learns within a group, never across.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from jobs.records import Outcome, RunSummary
from jobs.spec import TrainSpec
from tuning.ledger import Ending, Ledger, Trial
from tuning.space import Group, groups
from tuning.spec import BATCH, RangeSpec, SweepSpec

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
        self._searches = [_GroupSearch(sweep, base, group) for group in groups(sweep)]
        self._pending = [trial for trial in ledger.trials if not ledger.is_over(trial)]
        self._running: set[int] = set()
        self._samples = 0
        for trial in ledger.trials:
            self._searches[trial.group].begin(trial)
            if ledger.is_over(trial):
                self._finish(trial)

    def next_trial(self) -> Trial | Literal["wait", "over"]:
        """The next run; "wait" if it depends on one that is under way; "over" when all were decided."""
        budget = self._sweep.budget
        if not self._has_time() or (budget.samples is not None and self._samples >= budget.samples):
            return "over"
        if self._pending:
            trial = self._pending.pop(0)
            self._running.add(trial.number)
            return trial
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
                self._running.add(trial.number)
                return trial
        return "wait" if waits else "over"

    def _trial(self, group: Group, phase: Literal["search", "repeat"], fields: dict[str, Any]) -> Trial:
        number = len(self._ledger.trials)
        batch = fields.get(BATCH, self._base.batch.global_batch_size)
        return Trial(number=number, group=group.number, phase=phase, fields=fields, run_id=f"{number:04d}-batch-{batch}-seed-{fields['seed']}")

    def ended(self, trial: Trial) -> None:
        """A run is over: finished, pruned or failed."""
        self._running.discard(trial.number)
        self._finish(trial)

    def _finish(self, trial: Trial) -> None:
        self._samples += self._ledger.samples_of(trial)
        self._searches[trial.group].end(trial, self._ledger.summary(trial), self._ledger.ending(trial))


class _GroupSearch:
    """One group's search and its repeats."""

    def __init__(self, sweep: SweepSpec, base: TrainSpec, group: Group) -> None:
        self.group = group
        self._base_seed, self._repeats, self._num_trials = base.seed, sweep.repeats, sweep.search.num_trials()
        self._has_two_aims = sweep.search.method == "nsga2"
        self._proposals = _proposals(sweep, group)
        self._began: list[Trial] = []
        self._scores: dict[int, float] = {}

    @property
    def num_begun(self) -> int:
        """Runs decided on so far."""
        return len(self._began)

    def propose(self) -> tuple[Literal["search", "repeat"], dict[str, Any]] | Literal["wait", "over"]:
        """The next run's phase and fields."""
        searched = [trial for trial in self._began if trial.phase == "search"]
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
        """A trial of this group is over."""
        self._scores[trial.number] = score(summary, ending)
        if trial.phase == "search":
            place = [one.number for one in self._began if one.phase == "search"].index(trial.number)
            self._proposals.tell(place, {name: trial.fields[name] for name in self.group.space}, self._aims(summary, ending))

    def _aims(self, summary: RunSummary | None, ending: Ending | None) -> list[float]:
        if not self._has_two_aims:
            return [score(summary, ending)]
        if ending is not None or summary is None or summary.outcome is Outcome.DIVERGED:
            return [WORST, 1.0 - (ending.test_accuracy or 0.0 if ending else 0.0)]
        seconds = summary.time_to_accuracy_seconds
        return [summary.training_seconds if seconds is None else seconds, 1 - (summary.best_test_accuracy or 0.0)]


class _Drawn:
    """Values that do not depend on results."""

    def __init__(self, values: Iterator[dict[str, Any]]) -> None:
        self._values, self._drawn = values, list[dict[str, Any]]()

    def ask(self, place: int) -> dict[str, Any]:
        """The values of the group's run number `place`."""
        while len(self._drawn) <= place:
            self._drawn.append(next(self._values))
        return self._drawn[place]

    def tell(self, place: int, values: dict[str, Any], aims: list[float]) -> None:
        """Nothing to learn."""


class _Optuna:
    """Values that Optuna proposes."""

    def __init__(self, sweep: SweepSpec, group: Group) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna, num_aims = optuna, 2 if sweep.search.method == "nsga2" else 1
        seed = sweep.seed * 10_007 + group.number
        sampler = optuna.samplers.NSGAIISampler(seed=seed) if num_aims == 2 else optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        self._study = optuna.create_study(directions=["minimize"] * num_aims, sampler=sampler)
        self._domains = {name: _distribution(optuna, domain) for name, domain in group.space.items()}
        self._asked: dict[int, Any] = {}

    def ask(self, place: int) -> dict[str, Any]:
        """See `_Drawn`."""
        trial = self._asked[place] = self._study.ask(self._domains)
        return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in trial.params.items()}

    def tell(self, place: int, values: dict[str, Any], aims: list[float]) -> None:
        """Learn from a run that is over, also from one of an earlier process of this sweep."""
        asked = self._asked.pop(place, None)
        if asked is not None:
            self._study.tell(asked, aims)
        else:
            self._study.add_trial(self._optuna.trial.create_trial(params=values, distributions=self._domains, values=aims))


def _proposals(sweep: SweepSpec, group: Group) -> _Drawn | _Optuna:
    method, space = sweep.search.method, group.space
    if method in {"tpe", "nsga2"} and space:
        return _Optuna(sweep, group)
    if method == "grid" or not space:
        lists = [domain.grid() if isinstance(domain, RangeSpec) else domain for domain in space.values()]
        return _Drawn(dict(zip(space, values, strict=True)) for values in itertools.product(*lists))
    if method == "random":
        generator = np.random.default_rng(sweep.seed)
        units: Iterator[Any] = (generator.random(len(space)) for _ in itertools.count())
    else:
        from scipy.stats import qmc

        halton = qmc.Halton(len(space), scramble=True, seed=sweep.seed)
        units = (halton.random(1)[0] for _ in itertools.count())
    return _Drawn({name: _at(domain, float(unit)) for (name, domain), unit in zip(space.items(), point, strict=True)} for point in units)


def _at(domain: RangeSpec | list[Any], unit: float) -> Any:
    """The value at `unit` in 0 ... 1 of a domain."""
    if not isinstance(domain, RangeSpec):
        return domain[min(int(unit * len(domain)), len(domain) - 1)]
    if domain.scale == "log":
        value = math.exp(math.log(domain.low) + unit * (math.log(domain.high) - math.log(domain.low)))
    else:
        value = domain.low + unit * (domain.high - domain.low)
    return round(value) if domain.whole else float(f"{value:.6g}")


def _distribution(optuna: Any, domain: RangeSpec | list[Any]) -> Any:
    if not isinstance(domain, RangeSpec):
        return optuna.distributions.CategoricalDistribution(domain)
    if domain.whole:
        return optuna.distributions.IntDistribution(round(domain.low), round(domain.high), log=domain.scale == "log")
    return optuna.distributions.FloatDistribution(domain.low, domain.high, log=domain.scale == "log")
