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
    on_ending: Callable[[], None] = lambda: None
    """Told when nothing more is trained; what was trained is then scored once more and kept, which may take a while."""
    should_stop: Callable[[], bool] = lambda: False
