"""TrialActor: one process of Ray that trains one run of a sweep after another.

It stops at each evaluation until the sweep's own process answers whether the run goes on, so early stopping compares runs at the same place
however fast they are. The modules that train are imported there alone.
"""

import queue
import threading

from largebatch.jobs.garbage_collection import collect_seldom
from largebatch.jobs.launch.openmp_threads import spin_briefly
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.sweep.trials.resources import TrialOptions, TrialReport


class TrialActor:
    """A Ray actor; its methods return at the run's next evaluation, or at its end."""

    def __init__(self) -> None:
        self._reports: queue.SimpleQueue[TrialReport] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def get_ready(self) -> None:
        """Import what trains; returns when the process can begin a run."""
        collect_seldom()
        spin_briefly()
        import largebatch.tuning.sweep.trials.train  # noqa: F401  # torch must come after spin_briefly, and never into the sweep's own process

    def begin(self, spec: TrainSpec, options: TrialOptions, run_id: str) -> TrialReport:
        """Begin a run, or go on with one from its checkpoint."""
        threading.Thread(target=self._train, args=(spec, options, run_id), daemon=True).start()
        return self._reports.get()

    def go_on(self, ends_early: bool) -> TrialReport:
        """Answer the last evaluation. Args: ends_early: whether the run stops after its step and saves."""
        self._answers.put(ends_early)
        return self._reports.get()

    def _train(self, spec: TrainSpec, options: TrialOptions, run_id: str) -> None:
        from largebatch.tuning.sweep.trials.train import train_trial  # see get_ready

        self._reports.put(train_trial(spec, options, run_id, self._evaluated))

    def _evaluated(self, report: TrialReport) -> bool:
        self._reports.put(report)
        return self._answers.get()
