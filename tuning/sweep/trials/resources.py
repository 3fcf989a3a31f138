"""What the sweep's own process tells those of its runs, and what they tell it; what each run gets of the machines, and how many go at a time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from largebatch.jobs.errors import InputError
from largebatch.jobs.tasks.metric import ACCURACY, Metric
from largebatch.tuning.sweep.spec import ResourcesSpec

LISTED_MACHINES = 4
"""So many are listed in a refusal."""


@dataclass(frozen=True)
class Shares:
    """What each run gets, and for how many runs at a time that suffices."""

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    device: str
    num_concurrent: int
    num_searching: int = 1
    """The same while runs are searched; never fewer."""


@dataclass(frozen=True)
class TrialOptions:
    """What all runs of a sweep share."""

    folder: Path
    data_dir: Path
    shares: Shares
    ends_at_s: float | None
    """Unix time at which runs under way stop and save."""


@dataclass(frozen=True)
class TrialReport:
    """What the process of a run tells at each evaluation, and once more when the run is over."""

    training_seconds: float = 0.0
    samples_seen: int = 0
    score: float | None = None
    metric: Metric = ACCURACY
    """What the score is of."""
    is_over: bool = False
    error: str | None = None
    """Why the run failed."""
    is_fault: bool = False
    """Whether the machine failed it, so that another try may help."""

    @property
    def goodness(self) -> float:
        """Larger the better the score is, whichever way the metric goes."""
        return -math.inf if self.score is None else self.metric.goodness(self.score)


def split_machines(machines: Sequence[Mapping[str, float]], resources: ResourcesSpec, device: str) -> Shares:
    """Split the machines among runs. Args: machines: what each has, by Ray's names. Raises: InputError if not even one run fits."""
    num_gpus = sum(machine.get("GPU", 0.0) for machine in machines)
    cpus, gpus = resources.cpus_per_worker, resources.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if num_gpus and device != "cpu" else 0.0
    if device == "cuda" and not gpus:
        raise InputError("--device", f"cuda, and each run gets no GPU of the {num_gpus:g} that there are.", "Set resources.gpus_per_worker.")
    # A worker's share comes from one machine, a run's workers from any.
    num_workers = sum(int(min(machine.get("CPU", 0.0) / cpus, machine.get("GPU", 0.0) / gpus if gpus else math.inf) + 1e-9) for machine in machines)
    num_fitting = num_workers // resources.workers
    if not num_fitting:
        have = " and ".join(f"{machine.get('CPU', 0.0):g} CPUs with {machine.get('GPU', 0.0):g} GPUs" for machine in machines[:LISTED_MACHINES])
        raise InputError(
            "resources",
            f"a run needs {resources.workers * cpus:g} CPUs and {resources.workers * gpus:g} GPUs, a worker's on one machine, and there are {have}.",
            "Use fewer workers, or smaller shares.",
        )
    # Ray leaves GPUs visible to a run that got none.
    run_device = "cpu" if device == "auto" and not gpus else device
    num_concurrent = min(num_fitting, resources.max_concurrent or num_fitting)
    num_searching = max(num_concurrent, min(num_fitting, resources.max_searching or 1))
    return Shares(resources.workers, cpus, gpus, run_device, num_concurrent, num_searching)
