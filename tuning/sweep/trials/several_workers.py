"""Trains one run of a sweep on several workers: Ray Train's."""

from largebatch.jobs.data.fingerprint import read_fingerprint
from largebatch.jobs.launch.on_ray.train import train_on_ray
from largebatch.jobs.launch.options import TrainOptions, Workers
from largebatch.jobs.launch.stored_runs import going_on
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import RunSummary
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.sweep.trials.resources import TrialOptions
from largebatch.tuning.sweep.trials.same_data import refuse_unlike_others


def train_on_workers(spec: TrainSpec, options: TrialOptions, run_id: str, listener: Listener) -> RunSummary:
    """Train a run, new or going on from its checkpoint."""
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
