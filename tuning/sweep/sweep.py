"""Runs what is left of a sweep: which run comes next is `Search`'s, where it runs is settled by `trials/choose.py`."""

import math
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import Literal

from largebatch.jobs.data.sources.table import load_dataset
from largebatch.jobs.device import choose_device
from largebatch.jobs.errors import FaultError, InputError, LargebatchError
from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.launch.signals import stop_requests
from largebatch.jobs.plan.make import TrainingSet
from largebatch.jobs.preparing.examine import examine, training_set
from largebatch.jobs.run.run_folder import exclusive
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.mirror_process import MirrorProcess
from largebatch.tuning.sweep.ledger import STOP, Ledger
from largebatch.tuning.sweep.optimizers import optimizer_of
from largebatch.tuning.sweep.search import Search
from largebatch.tuning.sweep.space import count_runs, groups, with_fields
from largebatch.tuning.sweep.spec import SweepSpec
from largebatch.tuning.sweep.trials.choose import trainers
from largebatch.tuning.sweep.trials.early_stop import EarlyStopping
from largebatch.tuning.sweep.trials.processes import GoneError, Processes
from largebatch.tuning.sweep.trials.resources import TrialOptions
from largebatch.tuning.sweep.trials.run_trials import SweepListener, TrialRunner
from largebatch.tuning.sweep.trials.warm.warm_processes import WarmProcesses

DRAWN_ANEW = (
    "This sweep was begun by another version of largebatch or Optuna, whose draws cannot be repeated: what its runs taught is kept, and those to "
    "come are drawn with a seed of their own; an uninterrupted sweep would have had others."
)


@dataclass
class SweepProgress:
    """Where a sweep stands when it returns."""

    num_left: int
    """Runs that were begun and are not over, or, after a stop, were not begun; none where the budget is spent."""
    failures: list[str] = field(default_factory=list)
    """Runs that failed, with the reason."""
    is_faulted: bool = False
    """Whether the machine failed some, so that another try may help."""
    spent: str | None = None
    """Which limit of the budget ended the sweep, in a sentence."""

    def no_result(self, resume: str) -> LargebatchError:
        """Why no run has a result, as an error. Args: resume: the command to go on with."""
        if not self.failures:
            return InputError("budget", f"no run has a result. {self.spent or ''}", "Allow more.")
        first = f"no run has a result; the first to fail was {self.failures[0]}"
        if self.is_faulted:
            return FaultError("sweep", first, f"Try again: {resume}")
        return InputError("sweep", first, "Mend the recipe or the data, and begin anew.")


@dataclass(frozen=True)
class SweepOptions:
    """Where a sweep's data and runs are, and on what it runs."""

    folder: Path
    data_dir: Path
    device: str
    address: str | None = None
    """Of an existing Ray."""
    warm: WarmProcesses | None = None
    """Processes of this machine that were begun already."""
    is_mirrored: bool = False
    """Whether MLflow gets its runs by the mirror of the folder that this one lies in."""


def resume_command(kind: Literal["sweep", "study"], folder: Path, data_dir: Path, device: str, address: str | None = None) -> str:
    """What a person types to go on with a sweep or a study, in the way in which it was begun."""
    options = [("--data-dir", str(data_dir), "data"), ("--device", device, "auto"), ("--address", address, None)]
    words = [word for option, value, default in options if value is not None and value != default for word in (option, value)]
    return shlex.join(["largebatch", kind, "--resume", str(folder), *words])


def run_sweep(sweep: SweepSpec, base: TrainSpec, options: SweepOptions, listener: SweepListener, when_over: Callable[[Path], None]) -> SweepProgress:
    """Run what is left of a sweep. Returns where it stands, also after a stop was asked for.

    Args: when_over: writes the sweep's report into its folder, once no run is left; MLflow takes it with the runs.
    Raises: InputError for more than the machines have; FaultError if Ray fails.
    """
    folder, resume = options.folder, resume_command("sweep", options.folder, options.data_dir, options.device, options.address)
    (folder / STOP).unlink(missing_ok=True)
    mirrored = with_fields(base, {"tracking.enabled": False}) if options.is_mirrored else base
    with exclusive(folder, "sweep"), MirrorProcess(mirrored) as mirror:
        ledger, was_stopped = Ledger(folder), False
        if ledger.spent_budget(sweep.budget):
            mirror.follow(folder, listener.on_notice)
        else:
            with trainers(sweep.resources, TrainOptions(address=options.address), options.device, options.warm) as (processes, shares), ledger:
                ends_at_s = None if sweep.budget.seconds is None else time.time() + sweep.budget.seconds - ledger.spent_s
                mirror.follow(folder, listener.on_notice)
                trial_options = TrialOptions(folder.resolve(), options.data_dir.resolve(), shares, ends_at_s)
                was_stopped = _run_trials(Search(sweep, base, ledger, ends_at_s), listener, trial_options, processes, resume)
        progress = _progress(sweep, ledger, was_stopped)
        if not progress.num_left:
            when_over(folder)
        mirror.finish()
    return progress


def _progress(sweep: SweepSpec, ledger: Ledger, was_stopped: bool) -> SweepProgress:
    """Where the sweep stands by what is written down."""
    spent = None if was_stopped else ledger.spent_budget(sweep.budget)
    failures = ledger.failures()
    num_faulted = sum(ending.how == "faulted" for _, ending in failures)
    num_over = sum(ledger.is_over(trial) for trial in ledger.trials)
    num_left = count_runs(sweep) - num_over if was_stopped else 0 if spent else len(ledger.trials) - num_over - num_faulted
    return SweepProgress(num_left, [f"{trial.run_id}: {ending.why}" for trial, ending in failures], num_faulted > 0, spent)


def _run_trials(search: Search, listener: SweepListener, options: TrialOptions, processes: Processes, resume: str) -> bool:
    """Run what the search has left; returns whether it was asked to stop."""
    if not search.goes_on:
        listener.on_notice(DRAWN_ANEW)
    stop = threading.Event()

    def ask_to_stop(number: Signals, is_impatient: bool) -> str:
        if is_impatient:
            raise KeyboardInterrupt
        stop.set()
        (options.folder / STOP).touch()
        return f"{number.name}: no further run begins; those under way stop. Once more leaves at once."

    early_stopping = EarlyStopping(search.sweep.early_stop, recipes_training_set(search.base, options.data_dir).num_samples)
    with stop_requests(ask_to_stop, listener.on_notice):
        try:
            TrialRunner(search, early_stopping, listener, options, processes, stop).run()
        except GoneError as error:
            raise FaultError("ray", f"the sweep broke off: {error}.", f"Go on with: {resume}") from error
    return stop.is_set()


def refuse_untrainable(sweep: SweepSpec, base: TrainSpec, data_dir: Path, device: str, most_weight_bytes: float = math.inf) -> bool:
    """Refuse a sweep one of whose optimizers cannot train the recipe's model, before anything runs.

    Args: most_weight_bytes: a model by name with larger weights is examined without them.
    Returns: whether each model that was examined had its weights, and so was checked.
    Raises: InputError.
    """
    first_groups = {optimizer_of(group.fields): group for group in reversed(groups(sweep))} if sweep.optimizers else {}
    specs = [with_fields(base, group.fields) for group in first_groups.values()]
    return all([examine(spec, choose_device(device), data_dir, most_weight_bytes).has_weights for spec in specs])


def recipes_training_set(base: TrainSpec, data_dir: Path) -> TrainingSet:
    """How much the recipe's data set has to train on. Raises: DataError."""
    return training_set(base, load_dataset(base.dataset, data_dir, base.task))
