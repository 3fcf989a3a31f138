"""Runs that differ in their seed alone, taken together; and the best of them at each batch size."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from largebatch.jobs.run.records import Outcome
from largebatch.tuning.results.analysis.intervals import Spread, spread
from largebatch.tuning.results.collect import RunResult, arguments_of, with_arguments

COMPARED = frozenset(
    {
        "batch.global_batch_size", "learning_rate.base", "learning_rate.base_global_batch_size", "learning_rate.scaling",
        "optimizer.name", "optimizer.momentum", "optimizer.beta1", "optimizer.beta2",
    }
)  # fmt: skip
"""Fields that an answer is about; any other that differs between runs on one axis is named."""
MOST_NAMED = 4


class Setting(NamedTuple):
    """What may not be mixed on one axis: other data, another model, another device, another number of workers."""

    dataset: str
    """With its arguments."""
    model: str
    """With the arguments that all of the runs share."""
    device: str
    world_size: int

    def __str__(self) -> str:
        workers = f", {self.world_size} workers" if self.world_size > 1 else ""
        return f"{self.model} on {self.dataset}, {self.device}{workers}"


@dataclass(frozen=True)
class Configuration:
    """One choice of hyper-parameters and the runs that tried it.

    Costs are those to `target`, each run's own first evaluation that met it.
    """

    runs: tuple[RunResult, ...]
    target: float

    @property
    def first(self) -> RunResult:
        """Any of the runs, for what they share."""
        return self.runs[0]

    @property
    def global_batch_size(self) -> int:
        """Samples per step."""
        return self.first.summary.global_batch_size

    @cached_property
    def seconds(self) -> Spread:
        """Training seconds to the target."""
        return self._spread(lambda run: costs.seconds if (costs := run.costs_to(self.target)) else None)

    @cached_property
    def steps(self) -> Spread:
        """Optimizer steps to the target."""
        return self._spread(lambda run: costs.steps if (costs := run.costs_to(self.target)) else None)

    @cached_property
    def samples(self) -> Spread:
        """Samples to the target."""
        return self._spread(lambda run: costs.samples if (costs := run.costs_to(self.target)) else None)

    @cached_property
    def best_accuracy(self) -> Spread:
        """Best test accuracy of each run; one that was never evaluated ranks below the others."""
        return self._spread(lambda run: _minus(run.summary.best_test_accuracy)).negated

    @cached_property
    def train_accuracy(self) -> Spread:
        """Of the final weights on the training set."""
        return self._spread(lambda run: _minus(run.summary.train_accuracy)).negated

    @cached_property
    def noise_scale(self) -> float | None:
        """Median of the runs' gradient noise scales, in samples."""
        return self._spread(lambda run: run.summary.gradient_noise_scale).median if self.has_noise_scale else None

    @property
    def has_noise_scale(self) -> bool:
        """Whether any run measured it."""
        return any(run.summary.gradient_noise_scale is not None for run in self.runs)

    @property
    def num_diverged(self) -> int:
        """Runs whose loss stopped being finite."""
        return sum(run.summary.outcome is Outcome.DIVERGED for run in self.runs)

    def _spread(self, value: Callable[[RunResult], float | None]) -> Spread:
        return spread([value(run) for run in self.runs])

    @property
    def rank(self) -> tuple[float, float]:
        """Smaller is better: soonest to the target; where that is missed, the most accurate."""
        seconds = self.seconds.median
        accuracy = self.best_accuracy.median
        return (float("inf") if seconds is None else seconds, -(accuracy or 0.0))

    @property
    def standing(self) -> tuple[int, tuple[float, float]]:
        """Smaller is better, among those of one batch: first more seeds, then rank.

        A search tries many with one seed and confirms the best with several; a lucky single run must not win over those.
        """
        return -len(self.runs), self.rank


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def settings_of(runs: Iterable[RunResult]) -> dict[Setting, list[RunResult]]:
    """The runs by what may not be mixed, the largest group first. A model's arguments may be: `differences` names them."""
    groups: dict[Setting, list[RunResult]] = {}
    for run in runs:
        groups.setdefault(Setting(run.dataset, run.model, run.device, run.summary.world_size), []).append(run)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return {setting._replace(model=_model_of(members)): members for setting, members in ordered}


def _model_of(runs: Sequence[RunResult]) -> str:
    """The model of all of them, with the arguments that they share."""
    shared = set.intersection(*(set(arguments_of(dict(settings), "model").items()) for settings in {run.settings for run in runs}))
    return with_arguments(runs[0].model, dict(sorted(shared)))


def differences(runs: Sequence[RunResult]) -> dict[str, list[str]]:
    """The fields in which runs on one axis differ, beside those that are compared, with their values.

    An optimizer's options are held against those of runs that have them too: another optimizer has others.
    """
    distinct = [dict(settings) for settings in {run.settings: None for run in runs}]
    names = sorted({name for settings in distinct for name in settings} - COMPARED)
    found: dict[str, list[str]] = {}
    for name in names:
        unset = () if name.startswith("optimizer.") else ("not set",)
        values = list(dict.fromkeys(value for settings in distinct for value in ((settings[name],) if name in settings else unset)))
        if len(values) > 1:
            found[name] = sorted(values, key=_in_order)
    return found


def _in_order(value: str) -> tuple[bool, float, str]:
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value


def differences_in_words(runs: Sequence[RunResult]) -> str:
    """`model.arguments.width (64, 128) and stop.epochs (10, 20)`; a few of them, empty for none."""
    found = [f"{name} ({_some(values)})" for name, values in differences(runs).items()]
    if len(found) > MOST_NAMED:
        found = [*found[:MOST_NAMED], f"{len(found) - MOST_NAMED} more"]
    return " and ".join([", ".join(found[:-1]), found[-1]]) if len(found) > 1 else "".join(found)


def _some(values: Sequence[str]) -> str:
    shown = [value if len(value) <= 40 else f"{value[:37]}..." for value in values]
    return ", ".join(shown if len(shown) <= MOST_NAMED else [*shown[: MOST_NAMED - 1], "...", shown[-1]])


def configurations(runs: Iterable[RunResult], target: float) -> list[Configuration]:
    """The runs by configuration, by rising batch, best first within one."""
    groups: dict[tuple[tuple[str, str], ...], dict[tuple[int, str], RunResult]] = {}
    for run in runs:
        # A configuration that was run again with a seed is one measurement, the last one, not two.
        groups.setdefault(run.settings, {})[(run.seed, run.device)] = run
    made = [Configuration(tuple(members.values()), target) for members in groups.values()]
    return sorted(made, key=lambda one: (one.global_batch_size, one.rank))


def best_of_each_batch(given: Sequence[Configuration]) -> list[Configuration]:
    """One configuration for each batch: of those with the most seeds, the best; by rising batch."""
    best: dict[int, Configuration] = {}
    for one in given:
        other = best.get(one.global_batch_size)
        if other is None or one.standing < other.standing:
            best[one.global_batch_size] = one
    return [best[batch] for batch in sorted(best)]


def common_target(runs: Sequence[RunResult]) -> float | None:
    """The target that most runs were given; None where none was."""
    targets = [run.summary.target_accuracy for run in runs if run.summary.target_accuracy is not None]
    return max(set(targets), key=lambda target: (targets.count(target), target)) if targets else None
