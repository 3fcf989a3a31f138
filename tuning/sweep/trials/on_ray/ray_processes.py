"""RayProcesses: Ray's actors, each of which trains one run of a sweep after another."""

from typing import Any

import ray

from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.sweep.trials.on_ray.actor import TrialActor
from largebatch.tuning.sweep.trials.on_ray.ray_actors import RayActors
from largebatch.tuning.sweep.trials.processes import News
from largebatch.tuning.sweep.trials.resources import Shares, TrialOptions

TRIAL_MEMORY = 2**20
"""What the process of a run on several workers asks Ray for: something, but no core, or such processes would keep
the cores that their own workers wait for."""


class RayProcesses(RayActors):
    """See `Processes`. This process is connected to Ray. Args: shares: what each run gets."""

    def __init__(self, shares: Shares) -> None:
        if shares.workers == 1:
            resources: dict[str, Any] = {"num_cpus": shares.cpus_per_worker, "num_gpus": shares.gpus_per_worker}
        else:
            resources = {"num_cpus": 0, "memory": TRIAL_MEMORY}
        actor_class: Any = ray.remote(TrialActor).options(**resources)
        super().__init__(actor_class.remote)

    def begin(self, process: Any, spec: TrainSpec, options: TrialOptions, run_id: str) -> None:
        """See `Processes`."""
        self.await_answer(process, process.begin.remote(spec, options, run_id))

    def go_on(self, process: Any, ends_early: bool) -> None:
        """See `Processes`."""
        self.await_answer(process, process.go_on.remote(ends_early))

    def wait(self, seconds: float) -> list[News]:
        """See `Processes`."""
        return [News(*news) for news in self.news(seconds)]
