"""RayProcesses: Ray's actors, each of which trains one run of a sweep after another."""

import time
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.sweep.trials.on_ray.actor import TrialActor
from largebatch.tuning.sweep.trials.processes import GoneError, Lost, News
from largebatch.tuning.sweep.trials.resources import Shares, TrialOptions, TrialReport

LOOK_EVERY_S, GONE_AFTER_S = 5.0, 30.0
"""How often to look whether Ray has a machine left; how long it may have none."""
TRIAL_MEMORY = 2**20
"""What the process of a run on several workers asks Ray for: something, but no core, or such processes would keep
the cores that their own workers wait for."""


def machines() -> list[dict[str, float]]:
    """What each machine of the Ray that this process is connected to has, by Ray's names."""
    nodes: Any = ray.nodes  # without types
    return [node["Resources"] for node in nodes() if node["Alive"]]


class RayProcesses:
    """See `Processes`. This process is connected to Ray. Args: shares: what each run gets."""

    def __init__(self, shares: Shares) -> None:
        if shares.workers == 1:
            resources: dict[str, Any] = {"num_cpus": shares.cpus_per_worker, "num_gpus": shares.gpus_per_worker}
        else:
            resources = {"num_cpus": 0, "memory": TRIAL_MEMORY}
        self._actor_class: Any = ray.remote(TrialActor).options(**resources)
        self._starting: dict[Any, Any] = {}
        """Actors by the reference that resolves when they are ready."""
        self._training: dict[Any, Any] = {}
        """Actors by the reference to their next report."""
        self._free: list[Any] = []
        self._look_at_s = self._alive_at_s = time.monotonic()

    def provide(self, number: int) -> None:
        """See `Processes`."""
        while len(self._free) + len(self._starting) < number:
            actor = self._actor_class.remote()
            self._starting[actor.get_ready.remote()] = actor

    def take(self) -> Any:
        """See `Processes`."""
        return self._free.pop() if self._free else None

    def begin(self, process: Any, spec: TrainSpec, options: TrialOptions, run_id: str) -> None:
        """See `Processes`."""
        self._training[process.begin.remote(spec, options, run_id)] = process

    def go_on(self, process: Any, ends_early: bool) -> None:
        """See `Processes`."""
        self._training[process.go_on.remote(ends_early)] = process

    def wait(self, seconds: float) -> list[News]:
        """See `Processes`."""
        try:
            ready, _ = ray.wait([*self._training, *self._starting], timeout=seconds)
            self._refuse_empty_cluster()
            return [news for reference in ready if (news := self._news(reference)) is not None]
        except (RayError, RuntimeError, ConnectionError) as error:
            raise GoneError(str(error)) from error

    def release(self, process: Any) -> None:
        """See `Processes`."""
        self._free.append(process)

    def _news(self, reference: Any) -> News | None:
        """What came of one reference; nothing where a process has become ready."""
        starting, training = self._starting.pop(reference, None), self._training.pop(reference, None)
        try:
            report: TrialReport | None = ray.get(reference)
        except RayError as error:
            ray.kill(training or starting)
            return News(training, Lost(isinstance(error, RayActorError) and error.preempted))
        if report is not None:
            return News(training, report)
        self._free.append(starting)
        return None

    def _refuse_empty_cluster(self) -> None:
        """Raise RuntimeError where no machine is left for long: Ray would wait for one for ever."""
        now = time.monotonic()
        if now < self._look_at_s:
            return
        self._look_at_s = now + LOOK_EVERY_S
        if machines():
            self._alive_at_s = now
        elif now - self._alive_at_s > GONE_AFTER_S:
            raise RuntimeError("Ray has no machine left")
