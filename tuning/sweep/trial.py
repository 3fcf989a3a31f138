"""One run of a sweep, in the process that Ray Tune gave it.

A run of one worker trains right here: no nested trainer, no further process. Several workers are Ray Train's.
The run's folder is the result; Ray Tune is told what its schedulers compare.
"""

import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from largebatch.jobs.collector import collect_seldom
from largebatch.jobs.launch.spinning import spin_briefly
from largebatch.jobs.run.records import EvalRecord, Record, RunSummary
from largebatch.jobs.spec.train_spec import TrainSpec

STOP = ".stop"
"""A file in the sweep's folder: runs under way stop and save."""
LOOK_EVERY_S = 0.5
OLD_TRIAL_S = 30.0
"""How long a killed sweep's process may take to let go of its run."""


@dataclass(frozen=True)
class TrialOptions:
    """What all runs of a sweep share."""

    folder: Path
    data_dir: Path
    device: str
    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    ends_at_s: float | None
    """Unix time at which runs under way stop and save."""


def train_trial(config: dict[str, Any]) -> None:
    """Ray Tune's trainable: trains `config["spec"]` under `config["run_id"]`, new or going on.

    Reports at every evaluation, and once more at the end even if nothing was left to do: Ray Tune gives a whole sweep
    up when a trial ends without any report.
    """
    collect_seldom()
    spin_briefly()
    from largebatch.jobs.errors import FaultError, LargebatchError
    from largebatch.jobs.spec.read import build_spec

    spec, options = build_spec(config["spec"]), config["options"]
    reporter = _Reporter(spec, options)
    try:
        summary = (_train_here if options.workers == 1 else _train_on_workers)(spec, options, config["run_id"], reporter)
        reporter.end(training_seconds=summary.training_seconds, samples_seen=summary.samples_seen, test_accuracy=summary.test_accuracy or 0.0)
    except Exception as error:  # this run's own matter, or that of its model or data: the sweep goes on, and says so
        if not isinstance(error, LargebatchError):
            traceback.print_exc()
        reporter.end(
            training_seconds=0.0, samples_seen=0, test_accuracy=0.0, error=f"{type(error).__name__}: {error}", is_fault=isinstance(error, FaultError)
        )


class _Reporter:
    """Between a run's records and Ray Tune."""

    def __init__(self, spec: TrainSpec, options: TrialOptions) -> None:
        self._ends_at_s = options.ends_at_s
        self._stop, self._looked_at_s, self._was_asked = options.folder / STOP, 0.0, False
        self._pruned: BaseException | None = None

    def record(self, record: Record) -> None:
        """Tell of an evaluation; Ray Tune's wish to end the run comes back as SystemExit."""
        if isinstance(record, EvalRecord) and self._pruned is None:
            try:
                self._report(training_seconds=record.training_seconds, samples_seen=record.samples_seen, test_accuracy=record.test_accuracy)
            except SystemExit as wish:
                self._pruned = wish  # the run stops after its step, and leaves a summary

    def should_stop(self) -> bool:
        """Whether Ray Tune, or the sweep's budget, wants the run to end."""
        now = time.time()
        if now - self._looked_at_s >= LOOK_EVERY_S:
            self._looked_at_s = now
            self._was_asked = self._stop.exists() or (self._ends_at_s is not None and now >= self._ends_at_s)
        return self._was_asked or self._pruned is not None

    def end(self, **facts: Any) -> None:
        """The last report, or the end that Ray Tune asked for."""
        if self._pruned is not None:
            raise self._pruned
        self._report(**facts, is_over=True)

    def _report(self, **facts: Any) -> None:
        from ray import tune

        tune.report({"is_over": False, "error": None, "is_fault": False, **facts})


def _train_here(spec: TrainSpec, options: TrialOptions, run_id: str, reporter: _Reporter) -> RunSummary:
    import torch

    from largebatch.jobs.device import choose_device
    from largebatch.jobs.job import prepare, run_job
    from largebatch.jobs.launch.on_ray.priority import train_first
    from largebatch.jobs.run import run_folder
    from largebatch.jobs.run.checkpoints import list_checkpoints
    from largebatch.jobs.run.listener import Listener
    from largebatch.tuning.sweep.same_data import refuse_unlike_others

    train_first()  # Ray's own threads, and on a Ray of the sweep's own all its processes, wait for what trains
    torch.set_num_threads(max(int(options.cpus_per_worker), 1))
    job = prepare(spec, choose_device(options.device), options.data_dir)
    refuse_unlike_others(job.fingerprint, spec, options.folder, run_id)
    run_dir = run_folder.create(options.folder, run_id, may_exist=True)
    listener = Listener(on_record=reporter.record, should_stop=reporter.should_stop)
    with run_folder.exclusive(run_dir, "train", OLD_TRIAL_S):
        return run_job(job, run_dir, listener, resumes=bool(list_checkpoints(run_dir / run_folder.CHECKPOINTS)))


def _train_on_workers(spec: TrainSpec, options: TrialOptions, run_id: str, reporter: _Reporter) -> RunSummary:
    from largebatch.jobs.data.fingerprint import read_fingerprint
    from largebatch.jobs.launch.on_ray.train import train_on_ray
    from largebatch.jobs.launch.options import TrainOptions, Workers
    from largebatch.jobs.launch.stored_runs import going_on
    from largebatch.jobs.run.listener import Listener
    from largebatch.tuning.sweep.same_data import refuse_unlike_others

    # The sweep has one mirror for all its runs.
    quiet = spec.model_copy(update={"tracking": spec.tracking.model_copy(update={"enabled": False})})
    launch = TrainOptions(
        data_dir=options.data_dir, output_dir=options.folder, device=options.device, run_id=run_id,
        workers=Workers(options.workers, options.workers), gpus_per_worker=options.gpus_per_worker or None, cpus_per_worker=options.cpus_per_worker,
    )  # fmt: skip
    summary = train_on_ray(quiet, going_on(launch), Listener(on_record=reporter.record, should_stop=reporter.should_stop))
    taken = read_fingerprint(options.folder / run_id)
    if taken is not None:  # the workers alone have loaded the data
        refuse_unlike_others(taken, spec, options.folder, run_id)
    return summary
