"""What a sweep tells while it runs."""

from collections.abc import Callable
from dataclasses import dataclass

from largebatch.tuning.sweep.ledger import Trial


@dataclass(frozen=True)
class TrialReport:
    """What the process of a run tells at each evaluation, and once more when the run is over."""

    training_seconds: float = 0.0
    samples_seen: int = 0
    test_accuracy: float = 0.0
    is_over: bool = False
    error: str | None = None
    """Why the run failed."""
    is_fault: bool = False
    """Whether the machine failed it, so that another try may help."""


@dataclass(frozen=True)
class SweepListener:
    """Called in the sweep's own process."""

    on_begin: Callable[[Trial], None] = lambda trial: None
    on_report: Callable[[Trial, TrialReport], None] = lambda trial, report: None
    """At each evaluation."""
    on_end: Callable[[Trial, str], None] = lambda trial, how: None
    """how: the run's outcome, or pruned, failed, faulted, stopped (it goes on with the sweep)."""
    on_notice: Callable[[str], None] = lambda text: None
