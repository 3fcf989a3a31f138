"""What a job tells while it runs, and what it asks; light, so that a process which only listens imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from largebatch.jobs.run.records import Record


@dataclass(frozen=True)
class Listener:
    """Whoever follows a job."""

    on_start: Callable[[Path], None] = lambda run_dir: None
    """Told the run's folder before training starts."""
    on_plan: Callable[[int, float], None] = lambda total_steps, total_progress: None
    """Told how many steps and samples the plan has."""
    on_record: Callable[[Record], None] = lambda record: None
    on_notice: Callable[[str], None] = lambda text: None
    should_stop: Callable[[], bool] = lambda: False
