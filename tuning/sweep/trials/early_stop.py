"""Early stopping: which runs fall behind the others of their own group.

Groups never compete: at equal samples a large batch would look bad, and at equal seconds a small one. A repeat is never stopped: it is
there to be measured.
"""

import itertools
from collections import defaultdict

import numpy as np

from largebatch.tuning.sweep.ledger import Trial
from largebatch.tuning.sweep.spec import EarlyStopSpec
from largebatch.tuning.sweep.trials.resources import TrialReport

MEDIAN_OF = 3
"""The median rule stops nothing before so many other runs can be compared."""


class EarlyStopping:
    """The early stopping of a whole sweep: one rule in each group.

    Args: epoch_samples: training samples of one epoch.
    """

    def __init__(self, spec: EarlyStopSpec, epoch_samples: int) -> None:
        self._spec = spec
        grace = spec.grace * epoch_samples if spec.clock == "samples" else spec.grace
        self._rule_of_group: defaultdict[int, SuccessiveHalving | MedianOfMeans] = defaultdict(
            lambda: SuccessiveHalving(grace, spec.reduction_factor) if spec.method == "asha" else MedianOfMeans(grace)
        )

    def falls_behind(self, trial: Trial, report: TrialReport) -> bool:
        """Take in a run's evaluation; whether the run should end."""
        if self._spec.method == "none" or trial.phase == "repeat":
            return False
        position = report.samples_seen if self._spec.clock == "samples" else report.training_seconds
        return self._rule_of_group[trial.group].falls_behind(trial.number, position, report.goodness)


class SuccessiveHalving:
    """Asynchronous successive halving (ASHA, arXiv:1810.05934).

    Rung k is at position `grace * reduction_factor**k`. A run is compared once at each rung, with the runs that came there before it, and goes
    on if it is among the best `1 / reduction_factor` of them.
    """

    def __init__(self, grace: float, reduction_factor: float) -> None:
        self._grace, self._reduction_factor = grace, reduction_factor
        self._rungs: defaultdict[int, dict[int, float]] = defaultdict(dict)

    def falls_behind(self, number: int, position: float, goodness: float) -> bool:
        """Take in an evaluation of run `number`; whether the run should end. Args: position: samples or training seconds."""
        milestones = (self._grace * self._reduction_factor**rung for rung in itertools.count())
        num_reached = sum(1 for _ in itertools.takewhile(lambda milestone: milestone <= position, milestones))
        for rung in reversed(range(num_reached)):
            scores = self._rungs[rung]
            if number not in scores:
                others = list(scores.values())
                scores[number] = goodness
                return bool(others) and bool(goodness < np.nanpercentile(others, (1 - 1 / self._reduction_factor) * 100))
        return False


class MedianOfMeans:
    """The median stopping rule (Golovin et al., "Google Vizier", 2017).

    A run ends if its best score is worse than the median of the other runs' means, each over that run's scores up to the same position.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._evaluations: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)

    def falls_behind(self, number: int, position: float, goodness: float) -> bool:
        """See `SuccessiveHalving`."""
        self._evaluations[number].append((position, goodness))
        if position < self._grace:
            return False
        means = []
        for other, evaluations in self._evaluations.items():
            scores = [value for at, value in evaluations if self._grace <= at <= position]
            if other != number and evaluations[-1][0] >= position and scores:
                means.append(np.mean(scores))
        best = max(value for _, value in self._evaluations[number])
        return len(means) >= MEDIAN_OF and bool(best < np.median(means))
