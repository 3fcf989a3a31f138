"""Ray Tune's three sides of a sweep: what to run next, which runs end early, and what is told."""

import threading
import time
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.sweep.ledger import Ending, Ledger, Trial
from largebatch.tuning.sweep.listener import SweepListener
from largebatch.tuning.sweep.search import Search
from largebatch.tuning.sweep.spec import EarlyStopSpec
from largebatch.tuning.sweep.trial import TrialOptions

NEVER = 10**15
MEDIAN_OF = 3
LOOK_EVERY_S, GONE_AFTER_S = 5.0, 30.0
"""How often to look whether Ray has a machine left, and how long it may have none."""


class _Kept:
    """Stays in the sweep's own process: Ray Tune pickles what it is given for snapshots that nobody reads."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Watch(_Kept, tune.Callback):
    """Follows runs by Ray Tune's ids, and writes down how each ended."""

    def __init__(self, ledger: Ledger, search: Search, listener: SweepListener, stop: threading.Event) -> None:
        self._ledger, self._search, self._listener, self._stop = ledger, search, listener, stop
        self._trials: dict[str, Trial] = {}
        self._accuracies: dict[str, float] = {}
        self._samples: dict[str, int] = {}
        self._pruned: set[str] = set()
        self._looks_at_s, self._alive_at_s = 0.0, time.monotonic()

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Ray Tune waits for machines for ever; where none is left there is nothing to wait for. Raises: RuntimeError."""
        now = time.monotonic()
        if now < self._looks_at_s:
            return
        self._looks_at_s = now + LOOK_EVERY_S
        nodes: Any = ray.nodes
        if any(node["Alive"] for node in nodes()):
            self._alive_at_s = now
        elif now - self._alive_at_s > GONE_AFTER_S:
            raise RuntimeError("Ray has no machine left")

    def begins(self, tune_id: str, trial: Trial) -> None:
        """A run was handed to Ray Tune."""
        self._trials[tune_id] = trial
        self._listener.on_begin(trial)

    def trial(self, tune_id: str) -> Trial:
        """Which run this is."""
        return self._trials[tune_id]

    def prunes(self, tune_id: str) -> None:
        """The scheduler ends this run."""
        self._pruned.add(tune_id)

    def on_trial_result(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any) -> None:
        """An evaluation."""
        if not result["is_over"]:
            self._accuracies[trial.trial_id] = max(self._accuracies.get(trial.trial_id, 0.0), result["test_accuracy"])
            self._samples[trial.trial_id] = result["samples_seen"]
            self._listener.on_report(self._trials[trial.trial_id], result)

    def ends(self, tune_id: str, result: dict[str, Any] | None, is_error: bool) -> None:
        """A run is over, for whatever reason."""
        trial = self._trials[tune_id]
        how = self._how(tune_id, result, is_error)
        self._ledger.spend()
        if how == "stopped":
            self._listener.on_end(trial, how)
            return  # left for the next time
        if how != "ended":
            why = (result or {}).get("error") or ("its process died, again and again" if is_error else "")
            ending = Ending(
                number=trial.number, how=how, why=why, test_accuracy=self._accuracies.get(tune_id), samples_seen=self._samples.get(tune_id, 0)
            )
            self._ledger.end(ending)
        self._search.ended(trial)
        summary = self._ledger.summary(trial)
        self._listener.on_end(trial, summary.outcome.value if how == "ended" and summary else how)

    def _how(self, tune_id: str, result: dict[str, Any] | None, is_error: bool) -> Any:
        if is_error or (result or {}).get("error"):
            return "faulted" if is_error or (result or {}).get("is_fault") else "failed"
        if self._ledger.summary(self._trials[tune_id]) is not None:
            return "ended"
        return "pruned" if tune_id in self._pruned and not self._stop.is_set() else "stopped"


class NextTrials(_Kept, Searcher):
    """Hands out what `Search` decides."""

    def __init__(self, search: Search, base: TrainSpec, options: TrialOptions, watch: Watch, stop: threading.Event) -> None:
        super().__init__()
        self._search, self._base, self._options, self._watch, self._stop = search, base, options, watch, stop

    def suggest(self, trial_id: str) -> Any:
        """The next run's configuration, None to be asked again, or FINISHED."""
        found: Trial | str = "over" if self._stop.is_set() else self._search.next_trial()
        if isinstance(found, str):
            return None if found == "wait" else Searcher.FINISHED
        self._watch.begins(trial_id, found)
        return {"spec": found.spec(self._base).model_dump(mode="json"), "run_id": found.run_id, "options": self._options}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A run is over."""
        self._watch.ends(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """The ledger is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """See `save`."""


class PerGroup(_Kept, TrialScheduler):
    """Ends runs that fall behind others of their own group; a repeat, which is there to be measured, never.

    Across groups a large batch would look bad at equal samples, and a small one at equal seconds.
    """

    def __init__(self, spec: EarlyStopSpec, watch: Watch, stop: threading.Event, epoch_samples: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._spec, self._watch, self._stop, self._epoch_samples = spec, watch, stop, epoch_samples
        self._fifo = FIFOScheduler()  # type: ignore[no-untyped-call]
        self._of_group: dict[int, TrialScheduler] = {}

    def _make(self) -> TrialScheduler:
        spec = self._spec
        clock = "samples_seen" if spec.clock == "samples" else "training_seconds"
        grace = spec.grace * self._epoch_samples if spec.clock == "samples" else spec.grace
        if spec.method == "asha":
            return AsyncHyperBandScheduler(clock, "test_accuracy", "max", max_t=NEVER, grace_period=grace, reduction_factor=spec.reduction_factor)  # type: ignore[arg-type]
        return MedianStoppingRule(clock, "test_accuracy", "max", grace_period=grace, min_samples_required=MEDIAN_OF)

    def _of(self, trial: TuneTrial) -> TrialScheduler:
        ours = self._watch.trial(trial.trial_id)
        if self._spec.method == "none" or ours.phase == "repeat":
            return self._fifo
        if ours.group not in self._of_group:
            self._of_group[ours.group] = self._make()
        return self._of_group[ours.group]

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """They are set already."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """See the group's scheduler."""
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        """See the group's scheduler."""
        self._of(trial).on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Go on or end."""
        if self._stop.is_set():
            return TrialScheduler.STOP
        if result["is_over"]:
            return TrialScheduler.CONTINUE  # it ends by itself
        wish = self._of(trial).on_trial_result(tune_controller, trial, result)
        if wish == TrialScheduler.STOP:
            self._watch.prunes(trial.trial_id)
        return wish

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        """See the group's scheduler."""
        if not result.get("error"):
            self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: TuneTrial) -> None:
        """See the group's scheduler."""
        self._of(trial).on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """In the order in which they were decided on."""
        return self._fifo.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        """For Ray's own logs."""
        return f"{self._spec.method} in each of {len(self._of_group)} groups"

    def save(self, checkpoint_path: str) -> None:
        """The ledger is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""
