"""Runs that were begun before, on this machine or on storage by URI: found, and brought here, before they go on."""

import os
from dataclasses import replace

from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.launch.supervise import STARTED_AGAIN
from largebatch.jobs.run.run_folder import SPEC
from largebatch.jobs.run.storage import PATIENCE_S, Storage, read_patiently
from largebatch.jobs.run.stored_run import StoredRun
from largebatch.jobs.spec.train_spec import TrainSpec


def is_started_again() -> bool:
    """Whether this process takes up a run that an earlier one has begun: it may wait for storage that refuses."""
    return bool(os.environ.get(STARTED_AGAIN))


def fetch_stored(options: TrainOptions, is_begun: bool | None = None, patience_s: float = PATIENCE_S) -> TrainOptions:
    """With storage elsewhere: bring the run that is to go on to this machine.

    Args:
        is_begun: storage that refuses is waited for, since it has answered this run before; None: as `is_started_again` says.
        patience_s: how long it is waited for, then.
    Raises: InputError, StorageError.
    """
    name = options.resume.name if options.resume else options.run_id
    store = options.store
    if store is None or name is None:
        return options
    waits = is_started_again() if is_begun is None else is_begun
    read_patiently(store, lambda: StoredRun(Storage(store), options.output_dir / name).pull(), patience_s if waits else 0.0)
    return options


def going_on(options: TrainOptions) -> TrainOptions:
    """The same options, resuming the run that their id has begun before."""
    folder = options.output_dir / options.run_id if options.run_id is not None else None
    if options.resume is None and folder is not None and (folder / SPEC).is_file():
        return replace(options, resume=folder)
    return options


def mirrored_spec(spec: TrainSpec, options: TrainOptions) -> TrainSpec:
    """The spec for MLflow's mirror: a database beside a working copy would be lost with it, so there is none."""
    if options.store is None or spec.tracking.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI"):
        return spec
    return spec.model_copy(update={"tracking": spec.tracking.model_copy(update={"enabled": False})})
