"""What a sweep tells while it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from largebatch.tuning.sweep.ledger import Trial


@dataclass(frozen=True)
class SweepListener:
    """Called in the sweep's own process."""

    on_begin: Callable[[Trial], None] = lambda trial: None
    on_report: Callable[[Trial, dict[str, Any]], None] = lambda trial, facts: None
    """At each evaluation: training_seconds, samples_seen, test_accuracy."""
    on_end: Callable[[Trial, str], None] = lambda trial, how: None
    """how: the run's outcome, or pruned, failed, faulted, stopped (it goes on with the sweep)."""
    on_notice: Callable[[str], None] = lambda text: None
