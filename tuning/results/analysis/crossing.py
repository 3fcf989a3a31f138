"""Where a run's score crosses a target: between two evaluations. Every fit reads it here.

The time to the target that a run reports is that of the evaluation that met it, which is a fact. As a point of a curve it would be late, by half an
interval on average, and at a large batch, whose steps and intervals are long, later than at a small one.
"""

from typing import NamedTuple

from largebatch.tuning.results.run_result import Evaluation, RunResult


class Crossing(NamedTuple):
    """Where a run met a target."""

    samples: float
    """On the straight line from the last evaluation below the target to the first that met it."""
    interval: int
    """Samples between these two."""
    at: Evaluation
    """The one that met it."""
    seconds_interval: float
    """Training seconds between these two."""
    is_between: bool = True
    """Whether an evaluation before had missed it; False: met at the first, it is taken to be half of the way there."""


def crossing(run: RunResult, target: float) -> Crossing | None:
    """Where a run met a target; None on a miss."""
    samples, seconds, score = 0, 0.0, None
    for at in run.evaluations:
        if run.metric.meets(at.score, target):
            # Met at the first evaluation, it may have been met at any time before.
            part = 0.5 if score is None else (target - score) / (at.score - score)
            return Crossing(samples + part * (at.samples - samples), at.samples - samples, at, at.training_seconds - seconds, score is not None)
        samples, seconds, score = at.samples, at.training_seconds, at.score
    return None
