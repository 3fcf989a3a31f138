"""BranchActor: one process of Ray's that trains branches of one run, one after the other; the modules that train are imported there alone."""

from pathlib import Path
from typing import TYPE_CHECKING

from largebatch.jobs.garbage_collection import collect_seldom
from largebatch.jobs.launch.openmp_threads import spin_briefly
from largebatch.tuning.sweep.trials.resources import Shares

if TYPE_CHECKING:
    from largebatch.tuning.branch.origin import BranchPoint
    from largebatch.tuning.branch.train import Branch
    from largebatch.tuning.branch.trainers.kept_job import Told


class BranchActor:
    """A Ray actor. Args: run_dir, data_dir: whole paths; shares: what each branch gets."""

    def __init__(self, run_dir: Path, data_dir: Path, shares: Shares) -> None:
        self._origin = run_dir, data_dir, shares

    def get_ready(self) -> None:
        """Import what trains; returns when the process can begin a branch."""
        collect_seldom()
        spin_briefly()
        from largebatch.tuning.branch.trainers.kept_job import KeptJob  # torch must come after spin_briefly

        self._job = KeptJob(*self._origin)

    def train(self, point: "BranchPoint", branch: "Branch") -> "Told":
        """Train a branch to its end."""
        return self._job.train(point, branch)
