"""The values that a group's search proposes: drawn beforehand, or by Optuna, which learns from what came of the others.

Optuna's samplers cannot be saved by their public interface. They are functions of their seed and of what they were asked
and told in which order, so a search that goes on asks and tells once more what the ledger holds.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from largebatch.tuning.sweep.space import Group
from largebatch.tuning.sweep.spec import RangeSpec, SweepSpec

Values = dict[str, Any]


class Asked(NamedTuple):
    """An earlier process of this sweep was given these values for the group's run number `place`."""

    place: int
    values: Values


class Told(NamedTuple):
    """An earlier process told what came of it."""

    place: int
    aims: list[float]


class Proposals(Protocol):
    """A group's search."""

    goes_on: bool
    """Whether what is proposed is what a sweep without an interruption would have been given."""

    def ask(self, place: int) -> Values:
        """The values of the group's run number `place`."""
        ...

    def tell(self, place: int, aims: list[float]) -> None:
        """Learn what came of a run: what is minimised, in one number or two."""
        ...


def proposals(sweep: SweepSpec, group: Group, past: Sequence[Asked | Told] = ()) -> Proposals:
    """A group's search. Args: past: what earlier processes of the sweep asked and told, in that order."""
    method, space = sweep.search.method, group.space
    if method in {"tpe", "nsga2"} and space:
        return _Optuna(sweep, group, past)
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


class _Drawn:
    """Values that do not depend on results."""

    goes_on = True

    def __init__(self, values: Iterator[Values]) -> None:
        self._values, self._drawn = values, list[Values]()

    def ask(self, place: int) -> Values:
        while len(self._drawn) <= place:
            self._drawn.append(next(self._values))
        return self._drawn[place]

    def tell(self, place: int, aims: list[float]) -> None:
        """Nothing to learn."""


class _Optuna:
    """Values that Optuna proposes."""

    def __init__(self, sweep: SweepSpec, group: Group, past: Sequence[Asked | Told]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna, self._num_aims = optuna, 2 if sweep.search.method == "nsga2" else 1
        self._space = group.space
        self._domains = {name: _distribution(optuna, domain) for name, domain in group.space.items()}
        self._begin(sweep.seed * 10_007 + group.number)
        self.goes_on = self._repeats(past)
        if not self.goes_on:
            num_asked = sum(isinstance(event, Asked) for event in past)
            self._begin(int(np.random.SeedSequence([sweep.seed, group.number, num_asked]).generate_state(1)[0]))
            self._take_over(past)

    def _begin(self, seed: int) -> None:
        samplers = self._optuna.samplers
        sampler = samplers.NSGAIISampler(seed=seed) if self._num_aims == 2 else samplers.TPESampler(seed=seed, constant_liar=True)
        self._study = self._optuna.create_study(directions=["minimize"] * self._num_aims, sampler=sampler)
        self._asked: dict[int, Any] = {}

    def _repeats(self, past: Sequence[Asked | Told]) -> bool:
        """Ask and tell the same once more; whether the answers are the same, as they are by the same Optuna."""
        for event in past:
            if isinstance(event, Told):
                self.tell(*event)
            elif self.ask(event.place) != event.values:
                return False
        return True

    def _take_over(self, past: Sequence[Asked | Told]) -> None:
        """Learn what came of values that this sampler would not have proposed."""
        for event in past:
            if isinstance(event, Told):
                self.tell(*event)
            else:
                self._study.enqueue_trial({name: _within(self._space[name], value) for name, value in event.values.items()})
                self.ask(event.place)

    def ask(self, place: int) -> Values:
        trial = self._asked[place] = self._study.ask(self._domains)
        return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in trial.params.items()}

    def tell(self, place: int, aims: list[float]) -> None:
        self._study.tell(self._asked.pop(place), aims)


def _at(domain: RangeSpec | list[Any], unit: float) -> Any:
    """The value at `unit` in 0 ... 1 of a domain."""
    if not isinstance(domain, RangeSpec):
        return domain[min(int(unit * len(domain)), len(domain) - 1)]
    if domain.scale == "log":
        value = math.exp(math.log(domain.low) + unit * (math.log(domain.high) - math.log(domain.low)))
    else:
        value = domain.low + unit * (domain.high - domain.low)
    return round(value) if domain.whole else float(f"{value:.6g}")


def _within(domain: RangeSpec | list[Any], value: Any) -> Any:
    """A value that was rounded to six digits, and may lie outside its range by as much."""
    return value if not isinstance(domain, RangeSpec) or domain.whole else min(max(value, domain.low), domain.high)


def _distribution(optuna: Any, domain: RangeSpec | list[Any]) -> Any:
    if not isinstance(domain, RangeSpec):
        return optuna.distributions.CategoricalDistribution(domain)
    if domain.whole:
        return optuna.distributions.IntDistribution(round(domain.low), round(domain.high), log=domain.scale == "log")
    return optuna.distributions.FloatDistribution(domain.low, domain.high, log=domain.scale == "log")
