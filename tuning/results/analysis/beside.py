"""What a run's seconds hold beside its steps: start-up and evaluation."""

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from largebatch.tuning.results.run_result import RunResult


class Beside(NamedTuple):
    """Start-up, the same on any number of workers, and evaluations, which the workers share."""

    startup_s: float = 0.0
    evaluation_s: float = 0.0
    """Of one evaluation by one worker alone."""
    evaluate_every: float = math.inf
    """Samples from one evaluation to the next."""

    def evaluation_seconds(self, samples: float, num_workers: int, least_s: float) -> float:
        """Of all evaluations of a run over so many samples. Args: least_s: below which sharing one makes it no shorter."""
        if not self.evaluation_s:
            return 0.0
        return max(samples / self.evaluate_every, 1.0) * max(self.evaluation_s / num_workers, least_s)


def beside_runs(runs: Sequence[RunResult], target: float) -> Beside:
    """As runs that reached the target had it, the median of each; evaluation 0 where no run's seconds of it were kept.

    Start-up is all that is neither training nor evaluation: data, model, kernel warm-up, checkpoints.
    """
    summaries = [run.summary for run in runs]
    startups = [max(each.wall_seconds - each.training_seconds - each.evaluation_seconds, 0.0) for each in summaries]
    seconds, intervals = list[float](), list[float]()
    for run in runs:
        met = run.first_at(target)
        if met is None or met.evaluation_seconds is None:
            continue
        number = sum(at.step <= met.step for at in run.evaluations)
        seconds.append(met.evaluation_seconds * run.summary.world_size / number)
        intervals.append(met.samples / number)
    return Beside(median(startups) if startups else 0.0, median(seconds) if seconds else 0.0, median(intervals) if intervals else math.inf)
