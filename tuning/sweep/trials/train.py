"""Trains one run of a sweep. The run's folder is the result; the sweep's own process hears of evaluations, for early stopping.

A run of one worker trains in this process: no nested trainer, no further process. Several workers are Ray Train's.
"""

import json
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from largebatch.jobs.data.fingerprint import DatasetFingerprint, read_fingerprint
from largebatch.jobs.data.same_data import FIELD, HOW, difference_between_runs
from largebatch.jobs.device import choose_device
from largebatch.jobs.errors import DataError, FaultError, LargebatchError
from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.launch.on_ray.train import train_on_ray
from largebatch.jobs.launch.options import TrainOptions, Workers
from largebatch.jobs.launch.stored_runs import going_on
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import EvalRecord, Record, RunSummary, StartRecord
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tasks.metric import ACCURACY
from largebatch.tuning.sweep.ledger import STOP
from largebatch.tuning.sweep.trials.resources import TrialOptions, TrialReport

LOOK_EVERY_S = 0.5
OLD_TRIAL_S = 30.0
"""How long a killed sweep's process may take to let go of its run."""


def train_trial(spec: TrainSpec, options: TrialOptions, run_id: str, evaluated: Callable[[TrialReport], bool]) -> TrialReport:
    """Train a run, new or going on from its checkpoint. Returns its end, also where there was nothing left to do.

    Args: evaluated: told each evaluation; returns whether the run ends early: it then stops after its step and saves.
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

    train = _train_here if options.shares.workers == 1 else _train_on_workers
    try:
        summary = train(spec, options, run_id, Listener(on_record=tell, should_stop=should_stop))
        return TrialReport(summary.training_seconds, summary.samples_seen, summary.score, summary.headline.metric, is_over=True)
    except BaseException as error:  # this run's own matter, or that of its model or data, SystemExit included: the sweep goes on, and says so
        if not isinstance(error, LargebatchError):
            traceback.print_exc()
        return TrialReport(is_over=True, error=f"{type(error).__name__}: {error}", is_fault=isinstance(error, FaultError))


def _train_here(spec: TrainSpec, options: TrialOptions, run_id: str, listener: Listener) -> RunSummary:
    torch.set_num_threads(max(int(options.shares.cpus_per_worker), 1))
    job = prepare(spec, choose_device(options.shares.device), options.data_dir)
    refuse_unlike_others(job.fingerprint, spec, options.folder, run_id)
    run_dir = run_folder.create(options.folder, run_id, may_exist=True)
    with run_folder.exclusive(run_dir, "train", OLD_TRIAL_S):
        return run_job(job, run_dir, listener, resumes=bool(list_checkpoints(run_dir / run_folder.CHECKPOINTS)))


def _train_on_workers(spec: TrainSpec, options: TrialOptions, run_id: str, listener: Listener) -> RunSummary:
    # The sweep has one mirror for all its runs.
    untracked = spec.model_copy(update={"tracking": spec.tracking.model_copy(update={"enabled": False})})
    shares = options.shares
    launch = TrainOptions(
        data_dir=options.data_dir, output_dir=options.folder, device=shares.device, run_id=run_id, workers=Workers(shares.workers, shares.workers),
        gpus_per_worker=shares.gpus_per_worker or None, cpus_per_worker=shares.cpus_per_worker,
    )  # fmt: skip
    summary = train_on_ray(untracked, going_on(launch), listener)
    fingerprint = read_fingerprint(options.folder / run_id)
    if fingerprint is not None:  # the workers alone have loaded the data
        refuse_unlike_others(fingerprint, spec, options.folder, run_id)
    return summary


def refuse_unlike_others(fingerprint: DatasetFingerprint, spec: TrainSpec, folder: Path, run_id: str) -> None:
    """Raise DataError where other runs of the same data set have other data: nothing could be compared.

    Args: fingerprint: of run `run_id` of the sweep in `folder`.
    """
    source = _source(spec.model_dump(mode="json"))
    for path in sorted(folder.glob(f"*/{run_folder.DATA}")):
        run_dir, other = path.parent, read_fingerprint(path.parent)
        if run_dir.name == run_id or other is None or _source(json.loads((run_dir / run_folder.SPEC).read_text())) != source:
            continue
        difference = difference_between_runs(fingerprint, other, (run_id, run_dir.name))
        if difference is not None:
            raise DataError(FIELD, f"differs between the sweep's runs: {difference}.", f"{HOW}; then begin the sweep anew.")
        return


def _source(spec: Mapping[str, Mapping[str, Any]]) -> object:
    return [spec["dataset"][field] for field in ("name", "entry_point", "arguments")]
