"""A sweep by Ray Tune: which run comes next is ours (`search`), where and when it runs is Ray's.

    Search --next trial--> Ray Tune --> trial's process (tuning.trial) --> run folder --> Search

Ray Tune's own snapshots are not used: the ledger and the run folders hold everything, so a sweep that was killed
goes on by being asked what is left. docs/decisions/009 says why.
"""

import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs import run_folder
from jobs.errors import FaultError, InputError
from jobs.launch.options import RayOptions, Workers
from jobs.launch.ray_cluster import connected
from jobs.launch.stop_requests import stop_requests
from jobs.run_folder import write_text
from jobs.spec import TrainSpec
from jobs.tracking.folder_mirror import PARENT, REPORT
from jobs.tracking.mirror_process import MirrorProcess
from jobs.tracking.mlflow_mirror import flat
from tuning.collect import collect, ended_runs
from tuning.findings import find
from tuning.ledger import BASE, SWEEP, Ledger
from tuning.report import write_report
from tuning.search import Search
from tuning.space import count_runs
from tuning.spec import SweepSpec
from tuning.sweep_listener import SweepListener
from tuning.trial import STOP, TrialOptions, train_trial

MAX_FAILURES = 3
"""How often a run whose process died goes on from its checkpoint."""
TRIAL_MEMORY = 2**20
"""What the process of a run on several workers asks Ray for: something, but no core, or such processes would keep
the cores that their own workers wait for."""


@dataclass
class SweepProgress:
    """Where a sweep stands when it returns."""

    num_left: int
    """Runs that were begun and are not over, or, after a stop, were not begun."""
    failures: list[str] = field(default_factory=list)


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
    folder: Path, sweep: SweepSpec, base: TrainSpec, listener: SweepListener, *, data_dir: Path, device: str, address: str | None = None
) -> SweepProgress:
    """Carry out what is left of a sweep. Returns where it stands, also after a stop was asked for.

    Raises: InputError for more than the machines have; FaultError if Ray fails.
    """
    resources = sweep.resources
    ends_at_s = None if sweep.budget.seconds is None else time.time() + sweep.budget.seconds
    options = TrialOptions(
        folder.resolve(), data_dir.resolve(), device, resources.workers, resources.cpus_per_worker, resources.gpus_per_worker, ends_at_s
    )
    asked = RayOptions(Workers(1, 1), resources.gpus_per_worker or None, resources.cpus_per_worker, address)
    (folder / STOP).unlink(missing_ok=True)
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")  # a run that is ended early finishes its step and saves
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its tables would go to standard output, where answers go
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # ours lets runs save
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "100000")
    with run_folder.exclusive(folder, "sweep"), MirrorProcess(base) as mirror:
        with connected(asked) as ray, Ledger(folder) as ledger:
            concurrent = _max_concurrent(ray, sweep)
            mirror.follow(folder, listener.on_notice)
            progress = _carry_out(ray, sweep, base, ledger, listener, options, concurrent)
        if not progress.num_left and (ended := ended_runs(folder)):
            write_report(folder / REPORT, find(collect(ended)))  # MLflow takes it with the runs
        mirror.finish()
    return progress


def _max_concurrent(ray: Any, sweep: SweepSpec) -> int:
    """How many runs go at a time. Raises: InputError if not even one does."""
    have, resources = ray.cluster_resources(), sweep.resources
    cpus, gpus = float(have.get("CPU", 0)), float(have.get("GPU", 0))
    each_cpus, each_gpus = resources.workers * resources.cpus_per_worker, resources.workers * resources.gpus_per_worker
    fits = int(cpus / each_cpus + 1e-9)
    if each_gpus:
        fits = min(fits, int(gpus / each_gpus + 1e-9))
    if not fits:
        raise InputError(
            "resources",
            f"a run needs {each_cpus:g} CPUs and {each_gpus:g} GPUs, and there are {cpus:g} CPUs and {gpus:g} GPUs.",
            "Use fewer workers, or smaller shares.",
        )
    return min(fits, resources.max_concurrent or fits)


def _carry_out(
    ray: Any, sweep: SweepSpec, base: TrainSpec, ledger: Ledger, listener: SweepListener, options: TrialOptions, concurrent: int
) -> SweepProgress:
    from ray import tune

    from tuning.ray_tune import NextTrials, PerGroup, Watch

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # why a run failed is told in the ledger's words, without a stack
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    search = Search(sweep, base, ledger)
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
            raise FaultError("ray", f"the sweep broke off: {error}.", f"Go on with: largebatch sweep --resume {options.folder}") from error
        finally:
            shutil.rmtree(storage, ignore_errors=True)
    num_over = sum(ledger.is_over(trial) for trial in ledger.trials)
    num_left = count_runs(sweep) - num_over if stop.is_set() else len(ledger.trials) - num_over
    failures = [f"{ledger.trials[number].run_id}: {ending.why}" for number, ending in ledger.endings.items() if ending.how == "failed"]
    return SweepProgress(num_left, failures)


def num_train_samples(base: TrainSpec, data_dir: Path) -> int:
    """Of the recipe's data set. Raises: DataError."""
    from jobs.data.sources import load_dataset

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
