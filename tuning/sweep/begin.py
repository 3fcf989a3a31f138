"""Begins a sweep: its folder with what is to be done, and the command to go on with it."""

import json
import shlex
import time
from pathlib import Path
from typing import Literal

from largebatch.jobs.errors import InputError
from largebatch.jobs.run.run_folder import storage_errors, write_text
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.folder_mirror import PARENT
from largebatch.jobs.tracking.params import flat
from largebatch.tuning.sweep.ledger import BASE, SWEEP
from largebatch.tuning.sweep.spec import SweepSpec


def begin_sweep(folder: Path, sweep: SweepSpec, base: TrainSpec, name: str | None = None) -> None:
    """Write down what is to be done, once.

    Args: name: what MLflow shows; None: the folder's name.
    Raises: InputError if another sweep lies there; StorageError.
    """
    with storage_errors(folder):
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


def resume_command(kind: Literal["sweep", "study"], folder: Path, data_dir: Path, device: str, address: str | None = None) -> str:
    """What a person types to go on with a sweep or a study, in the way in which it was begun."""
    options = [("--data-dir", str(data_dir), "data"), ("--device", device, "auto"), ("--address", address, None)]
    words = [word for option, value, default in options if value is not None and value != default for word in (option, value)]
    return shlex.join(["largebatch", kind, "--resume", str(folder), *words])
