"""A sweep by Ray Tune: which run comes next is ours (`search`), where and when it runs is Ray's.

    Search --next trial--> Ray Tune --> trial's process (largebatch.tuning.sweep.trial) --> run folder --> Search

Ray Tune's own snapshots are not used: the ledger and the run folders hold everything, so a sweep that was killed
goes on by being asked what is left. docs/decisions/009 says why.
"""

import json
import logging
import math
import os
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from largebatch.jobs.errors import FaultError, InputError
from largebatch.jobs.launch.on_ray.cluster import connected
from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.launch.signals import stop_requests
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.run_folder import write_text
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.folder_mirror import PARENT
from largebatch.jobs.tracking.mirror_process import MirrorProcess
from largebatch.jobs.tracking.mlflow_mirror import flat
from largebatch.tuning.sweep.ledger import BASE, SWEEP, Ledger
from largebatch.tuning.sweep.listener import SweepListener
from largebatch.tuning.sweep.search import Search
from largebatch.tuning.sweep.space import count_runs
from largebatch.tuning.sweep.spec import SweepSpec
from largebatch.tuning.sweep.trial import STOP, TrialOptions, train_trial

MAX_FAILURES = 3
"""How often a run whose process died goes on from its checkpoint."""
DRAWN_ANEW = (
    "This sweep was begun by another version of largebatch or Optuna, whose draws cannot be repeated: what its runs taught is kept, and those to "
    "come are drawn with a seed of their own; an uninterrupted sweep would have had others."
)
TRIAL_MEMORY = 2**20
"""What the process of a run on several workers asks Ray for: something, but no core, or such processes would keep
the cores that their own workers wait for."""


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


def begin_sweep(folder: Path, sweep: SweepSpec, base: TrainSpec, name: str | None = None) -> None:
    """Write down what is to be done, once.

    Args: name: what MLflow shows; None: the folder's name.
    Raises: InputError if another sweep lies there; StorageError.
    """
    with run_folder.storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if (folder / SWEEP).is_file():
        raise InputError(str(folder), "holds a sweep already.", f"Go on with it: largebatch sweep --resume {folder}. Or give another --output-dir.")
    write_text(folder / BASE, base.model_dump_json(indent=2) + "\n")
    parent = {
        "name": name,
        "began_at_s": time.time(),
        "mlflow_uri": base.tracking.mlflow_uri,
        "experiment": base.tracking.experiment,
        "tags": {"largebatch.recipe": base.name},
        "params": flat(sweep.model_dump(mode="json", exclude_defaults=True)),
    }
    write_text(folder / PARENT, json.dumps(parent, indent=2) + "\n")
    write_text(folder / SWEEP, sweep.model_dump_json(indent=2) + "\n")


def run_sweep(
    folder: Path,
    sweep: SweepSpec,
    base: TrainSpec,
    listener: SweepListener,
    *,
    data_dir: Path,
    device: str,
    address: str | None = None,
    when_over: Callable[[Path], None] = lambda folder: None,
) -> SweepProgress:
    """Carry out what is left of a sweep. Returns where it stands, also after a stop was asked for.

    Args: when_over: writes the sweep's report into its folder, once no run is left.
    Raises: InputError for more than the machines have; FaultError if Ray fails.
    """
    go_on = resume_command("sweep", folder, data_dir, device, address)
    asked = TrainOptions(address=address)  # of a Ray that is met there; each run says what it takes of it
    (folder / STOP).unlink(missing_ok=True)
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")  # a run that is ended early finishes its step and saves
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its tables would go to standard output, where answers go
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # ours lets runs save
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "100000")
    with run_folder.exclusive(folder, "sweep"), MirrorProcess(base) as mirror:
        if Ledger(folder).spent_budget(sweep.budget):
            mirror.follow(folder, listener.on_notice)
            progress = _standing(sweep, Ledger(folder), was_stopped=False)
        else:
            with connected(asked) as ray, Ledger(folder) as ledger:
                options, concurrent = _share_out(ray, sweep, folder, data_dir, device, ledger.spent_s)
                mirror.follow(folder, listener.on_notice)
                was_stopped = _carry_out(ray, sweep, base, ledger, listener, options, concurrent, go_on)
            progress = _standing(sweep, ledger, was_stopped)
        if not progress.num_left:
            when_over(folder)  # MLflow takes what it writes with the runs
        mirror.finish()
    return progress


def resume_command(kind: Literal["sweep", "study"], folder: Path, data_dir: Path, device: str, address: str | None = None) -> str:
    """What a person types to go on with a sweep or a study, in the way in which it was begun."""
    given = {"--data-dir": (str(data_dir), "data"), "--device": (device, "auto"), "--address": (address, None)}
    words = ["largebatch", kind, "--resume", str(folder)]
    return shlex.join(words + [word for option, (value, usual) in given.items() if value is not None and value != usual for word in (option, value)])


def _standing(sweep: SweepSpec, ledger: Ledger, was_stopped: bool) -> SweepProgress:
    """Where the sweep stands by what is written down."""
    spent = None if was_stopped else ledger.spent_budget(sweep.budget)
    failures = ledger.failures()
    num_faulted = sum(ending.how == "faulted" for _, ending in failures)
    num_over = sum(ledger.is_over(trial) for trial in ledger.trials)
    num_left = count_runs(sweep) - num_over if was_stopped else 0 if spent else len(ledger.trials) - num_over - num_faulted
    return SweepProgress(num_left, [f"{trial.run_id}: {ending.why}" for trial, ending in failures], num_faulted > 0, spent)


def _share_out(ray: Any, sweep: SweepSpec, folder: Path, data_dir: Path, device: str, spent_s: float) -> tuple[TrialOptions, int]:
    """What each run gets, and how many go at a time. Raises: InputError if not even one does."""
    resources = sweep.resources
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    have_gpus = sum(machine.get("GPU", 0.0) for machine in machines)
    cpus, gpus = resources.cpus_per_worker, resources.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if have_gpus and device != "cpu" else 0.0
    if device == "cuda" and not gpus:
        raise InputError("--device", f"cuda, and each run gets no GPU of the {have_gpus:g} that there are.", "Set resources.gpus_per_worker.")
    # A worker's share comes from one machine, a run's workers from any.
    workers = sum(int(min(machine.get("CPU", 0.0) / cpus, machine.get("GPU", 0.0) / gpus if gpus else math.inf) + 1e-9) for machine in machines)
    fits = workers // resources.workers
    if not fits:
        have = " and ".join(f"{machine.get('CPU', 0.0):g} CPUs with {machine.get('GPU', 0.0):g} GPUs" for machine in machines[:4])
        raise InputError(
            "resources",
            f"a run needs {resources.workers * cpus:g} CPUs and {resources.workers * gpus:g} GPUs, a worker's on one machine, and there are {have}.",
            "Use fewer workers, or smaller shares.",
        )
    # Ray leaves GPUs visible to a run that got none.
    place = "cpu" if device == "auto" and not gpus else device
    ends_at_s = None if sweep.budget.seconds is None else time.time() + sweep.budget.seconds - spent_s
    options = TrialOptions(folder.resolve(), data_dir.resolve(), place, resources.workers, cpus, gpus, ends_at_s)
    return options, min(fits, resources.max_concurrent or fits)


def _carry_out(
    ray: Any, sweep: SweepSpec, base: TrainSpec, ledger: Ledger, listener: SweepListener, options: TrialOptions, concurrent: int, go_on: str
) -> bool:
    """Run what is left; returns whether it was asked to stop."""
    from ray import tune

    from largebatch.tuning.sweep.ray_tune import NextTrials, PerGroup, Watch

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # why a run failed is told in the ledger's words, without a stack
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    search = Search(sweep, base, ledger, lambda: options.ends_at_s is None or time.time() < options.ends_at_s)
    if not search.goes_on:
        listener.on_notice(DRAWN_ANEW)
    stop = threading.Event()
    watch = Watch(ledger, search, listener, stop)
    next_trials = NextTrials(search, base, options, watch, stop)
    if options.workers == 1:
        wanted: dict[str, float] = {"CPU": options.cpus_per_worker, **({"GPU": options.gpus_per_worker} if options.gpus_per_worker else {})}
    else:
        wanted = {"CPU": 0, "memory": TRIAL_MEMORY}
    storage = options.folder / ".tune"
    tuner = tune.Tuner(
        tune.with_resources(train_trial, wanted),
        tune_config=tune.TuneConfig(
            search_alg=next_trials,
            num_samples=-1,
            max_concurrent_trials=concurrent,
            scheduler=PerGroup(sweep.early_stop, watch, stop, epoch_samples=num_train_samples(base, options.data_dir)),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune", storage_path=str(storage), callbacks=[watch], verbose=0, failure_config=tune.FailureConfig(max_failures=MAX_FAILURES)
        ),
    )
    with _stop_requests(options.folder, stop, listener):
        try:
            tuner.fit()
        except Exception as error:
            if not isinstance(error, ray.exceptions.RayError | tune.TuneError | RuntimeError | ValueError):
                raise
            raise FaultError("ray", f"the sweep broke off: {error}.", f"Go on with: {go_on}") from error
        finally:
            shutil.rmtree(storage, ignore_errors=True)
    return stop.is_set()


def num_train_samples(base: TrainSpec, data_dir: Path) -> int:
    """Of the recipe's data set. Raises: DataError."""
    from largebatch.jobs.data.sources.table import load_dataset

    return len(load_dataset(base.dataset, data_dir).train)


@contextmanager
def _stop_requests(folder: Path, stop: threading.Event, listener: SweepListener) -> Iterator[None]:
    """Ctrl-C and SIGTERM: no run begins any more, those under way are left at their newest checkpoint."""

    def ask(number: signal.Signals, is_impatient: bool) -> None:
        if is_impatient:
            raise KeyboardInterrupt
        stop.set()
        (folder / STOP).touch()
        listener.on_notice(f"{number.name}: no further run begins; those under way stop. Once more leaves at once.")

    with stop_requests(ask):
        yield
