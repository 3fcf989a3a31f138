"""Proposals: the values that a group's search tries next, drawn beforehand, or by Optuna, which learns from what came of the others.

Optuna's samplers cannot be saved by their public interface. They are functions of their seed and of what they were asked and told in which
order, so a search that is resumed asks and tells once more what the ledger holds.
"""

import itertools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats.qmc import Halton

from largebatch.tuning.sweep.ledger import Learned, Trial
from largebatch.tuning.sweep.space import SweepGroup
from largebatch.tuning.sweep.spec import Domain, RangeSpec, SweepSpec

Values = dict[str, Any]


def drawn_values(sweep: SweepSpec, group: SweepGroup) -> Iterator[Values]:
    """The values of a group's trials, one after another, where they do not depend on results."""
    method, space = sweep.search.method, group.space
    if method == "grid" or not space:
        lists = [domain.grid() if isinstance(domain, RangeSpec) else domain for domain in space.values()]
        points: Iterator[Sequence[Any]] = itertools.product(*lists)
    else:
        points = ([_value_at(domain, float(unit)) for domain, unit in zip(space.values(), units, strict=True)] for units in _units(sweep, len(space)))
    return (dict(zip(space, point, strict=True)) for point in points)


def _units(sweep: SweepSpec, num_fields: int) -> Iterator[Any]:
    """Points of the unit cube, the same in every group.

    Quasi-random ones begin in the middle: where a budget is enough for one value, it is the one that a range was laid around. All are shifted by as
    much, around the cube's edges, which keeps them as evenly spread (Cranley and Patterson, SIAM J. Numer. Anal. 13, 1976). The first of a Halton
    sequence is left out: its second lies half a range away, and so would be an end of ours. Mirrored, a study's second rate is the higher
    one (docs/decisions/065).
    """
    if sweep.search.method == "random":
        generator = np.random.default_rng(sweep.seed)
        return (generator.random(num_fields) for _ in itertools.count())
    halton = Halton(num_fields, scramble=True, seed=sweep.seed).fast_forward(1)
    shift = 0.5 + halton.random(1)[0]
    return itertools.chain([np.full(num_fields, 0.5)], ((shift - halton.random(1)[0]) % 1.0 for _ in itertools.count()))


class Learning:
    """Values that Optuna proposes, which learns from results.

    Args: history: which of the group's values earlier processes tried, and what they learned, in that order.
    """

    def __init__(self, sweep: SweepSpec, group: SweepGroup, history: Sequence[Trial | Learned]) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._num_aims, self._space = 2 if sweep.search.method == "nsga2" else 1, group.space
        self._distributions = {name: _distribution(domain) for name, domain in group.space.items()}
        self.goes_on = self._replay(history, sweep.seed * 10_007 + group.number)
        """Whether what is proposed is what a sweep without an interruption would have been given."""
        if not self.goes_on:  # another Optuna's values: learn what came of them, and draw with a seed of its own
            num_asked = sum(isinstance(event, Trial) for event in history)
            self._replay(history, int(np.random.SeedSequence([sweep.seed, group.number, num_asked]).generate_state(1)[0]), enforces=True)

    def _replay(self, history: Sequence[Trial | Learned], seed: int, enforces: bool = False) -> bool:
        """Begin a study, then ask and tell as before; whether the answers are as before. Args: enforces: have Optuna take the values of before."""
        samplers = optuna.samplers
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # Optuna 4 says it of constant_liar, which 5 has as it was
            sampler = samplers.NSGAIISampler(seed=seed) if self._num_aims == 2 else samplers.TPESampler(seed=seed, constant_liar=True)
        self._study = optuna.create_study(directions=["minimize"] * self._num_aims, sampler=sampler)
        self._asked: dict[int, optuna.Trial] = {}
        for event in history:
            if isinstance(event, Learned):
                self.tell(event.number, event.aims)
                continue
            values = {name: event.fields[name] for name in self._space}
            if enforces:
                self._study.enqueue_trial({name: _within(domain, values[name]) for name, domain in self._space.items()})
            if self.ask(event.number) != values and not enforces:
                return False
        return True

    def ask(self, number: int) -> Values:
        """The values of trial `number`, the group's next."""
        trial = self._asked[number] = self._study.ask(self._distributions)
        return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in trial.params.items()}

    def tell(self, number: int, aims: list[float]) -> None:
        """Learn what came of a trial, in one number to minimise, or two."""
        self._study.tell(self._asked.pop(number), aims)


def _value_at(domain: Domain, unit: float) -> Any:
    """The value at `unit` in 0 ... 1 of a domain."""
    return domain.value_at(unit) if isinstance(domain, RangeSpec) else domain[min(int(unit * len(domain)), len(domain) - 1)]


def _within(domain: Domain, value: Any) -> Any:
    """A value that was rounded to six digits, and may lie outside its range by as much."""
    return value if not isinstance(domain, RangeSpec) or domain.whole else min(max(value, domain.low), domain.high)


def _distribution(domain: Domain) -> BaseDistribution:
    if not isinstance(domain, RangeSpec):
        return CategoricalDistribution(domain)
    if domain.whole:
        return IntDistribution(round(domain.low), round(domain.high), log=domain.scale == "log")
    return FloatDistribution(domain.low, domain.high, log=domain.scale == "log")
