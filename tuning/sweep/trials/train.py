"""Trains one run of a sweep. The run's folder is the result; the sweep's own process hears of evaluations, for early stopping.

A run of one worker trains in this process: no nested trainer, no further process. Several workers are Ray Train's.
"""

import time
import traceback
from collections.abc import Callable
from functools import partial

import torch

from largebatch.jobs.device import choose_device
from largebatch.jobs.errors import FaultError, LargebatchError
from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import EvalRecord, Record, RunSummary, StartRecord
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tasks.metric import ACCURACY
from largebatch.tuning.sweep.ledger import STOP
from largebatch.tuning.sweep.trials.resources import TrialOptions, TrialReport
from largebatch.tuning.sweep.trials.same_data import refuse_unlike_others

LOOK_EVERY_S = 0.5
OLD_TRIAL_S = 30.0
"""How long a killed sweep's process may take to let go of its run."""


def train_trial(
    spec: TrainSpec, options: TrialOptions, run_id: str, evaluated: Callable[[TrialReport], bool], loaded: Dataset | None = None
) -> TrialReport:
    """Train a run, new or going on from its checkpoint. Returns its end, also where there was nothing left to do.

    Args: evaluated: told each evaluation; returns whether the run ends early: it then stops after its step and saves; loaded: the run's data
        set, if it is there already.
    """
    ends_early, must_stop, looked_at_s, metric = False, False, 0.0, ACCURACY

    def tell(record: Record) -> None:
        """Tell of an evaluation, and wait for the answer."""
        nonlocal ends_early, metric
        if isinstance(record, StartRecord):
            metric = record.headline.metric
        if isinstance(record, EvalRecord) and not ends_early:
            ends_early = evaluated(TrialReport(record.training_seconds, record.samples_seen, record.score, metric))

    def should_stop() -> bool:
        """Asked after every step: by early stopping, by the sweep's stop file or at the end of its seconds."""
        nonlocal must_stop, looked_at_s
        now = time.time()
        if now - looked_at_s >= LOOK_EVERY_S:
            looked_at_s = now
            must_stop = (options.folder / STOP).exists() or (options.ends_at_s is not None and now >= options.ends_at_s)
        return must_stop or ends_early

    train = partial(_train_here, loaded) if options.shares.workers == 1 else _on_workers()
    try:
        summary = train(spec, options, run_id, Listener(on_record=tell, should_stop=should_stop))
        return TrialReport(summary.training_seconds, summary.samples_seen, summary.score, summary.headline.metric, is_over=True)
    except BaseException as error:  # this run's own matter, or that of its model or data, SystemExit included: the sweep goes on, and says so
        if not isinstance(error, LargebatchError):
            traceback.print_exc()
        return TrialReport(is_over=True, error=f"{type(error).__name__}: {error}", is_fault=isinstance(error, FaultError))


def _train_here(loaded: Dataset | None, spec: TrainSpec, options: TrialOptions, run_id: str, listener: Listener) -> RunSummary:
    torch.set_num_threads(max(int(options.shares.cpus_per_worker), 1))
    job = prepare(spec, choose_device(options.shares.device), options.data_dir, loaded=loaded)
    refuse_unlike_others(job.fingerprint, spec, options.folder, run_id)
    run_dir = run_folder.create(options.folder, run_id, may_exist=True)
    with run_folder.exclusive(run_dir, "train", OLD_TRIAL_S):
        return run_job(job, run_dir, listener, resumes=bool(list_checkpoints(run_dir / run_folder.CHECKPOINTS)))


def _on_workers() -> Callable[[TrainSpec, TrialOptions, str, Listener], RunSummary]:
    from largebatch.tuning.sweep.trials.several_workers import train_on_workers  # the lazy gate to Ray: a run of one worker needs none

    return train_on_workers
