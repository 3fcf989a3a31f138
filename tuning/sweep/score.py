"""How a run counts in the search of its group: lower is better."""

from largebatch.jobs.run.records import Outcome, RunSummary
from largebatch.tuning.sweep.ledger import Ending

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


def two_aims(summary: RunSummary | None, ending: Ending | None = None) -> list[float]:
    """What nsga2 minimises: seconds to the target (of a miss, of the whole training), and the error rate."""
    if ending is not None or summary is None or summary.outcome is Outcome.DIVERGED:
        return [WORST, 1.0 - (ending.test_accuracy or 0.0 if ending else 0.0)]
    seconds = summary.time_to_accuracy_seconds
    return [summary.training_seconds if seconds is None else seconds, 1 - (summary.best_test_accuracy or 0.0)]
