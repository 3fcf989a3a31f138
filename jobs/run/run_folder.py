"""A run's folder: the names of its files, and the spec that lies in it."""

import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from largebatch.jobs.errors import CheckpointError, InputError
from largebatch.jobs.spec.read import build_spec, read_spec
from largebatch.jobs.spec.recorded import RecordedSpec, is_recorded
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.whole_files import refusal, storage_errors

SPEC = "spec.json"
PLAN = "plan.json"
ENVIRONMENT = "environment.json"
JOURNAL = "records.jsonl"
SUMMARY = "summary.json"
FIGURE = "figure.png"
MLFLOW = "mlflow.json"
CHECKPOINTS = "checkpoints"
MODEL = "model.pt"
"""The whole model with the weights that it was evaluated with, where MLflow gets it."""
AT_WORK = "another process is at work on this run"


def new_run_id(name: str) -> str:
    """A run's id: name, UTC time to the second, eight random hexadecimal digits: many may begin at once."""
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"


def create(output_dir: Path, run_id: str, may_exist: bool = False) -> Path:
    """Make the folder of a new run. Raises: StorageError if that is not possible, InputError for a name that this machine's locale cannot write."""
    run_dir = output_dir / run_id
    try:
        os.fsencode(run_dir)
    except UnicodeEncodeError as error:
        raise InputError(
            "name", f"{run_id!a} cannot name a folder here: this locale writes {error.encoding} alone.", "Set PYTHONUTF8=1, or give ASCII letters."
        ) from error
    with storage_errors(run_dir, hint="Nothing was begun: free some space, or give another --output-dir."):
        (run_dir / CHECKPOINTS).mkdir(parents=True, exist_ok=may_exist)
    return run_dir


def begun_spec(run_dir: Path) -> TrainSpec:
    """The spec that a run was last begun or resumed with. Raises: OSError, ValueError; InputError for a recorded run."""
    refuse_recorded(run_dir)
    return build_spec(json.loads((run_dir / SPEC).read_text()))


def resumed_spec(run_dir: Path, overrides: Sequence[str]) -> TrainSpec:
    """The spec of a run that was begun, with overrides.

    Raises: CheckpointError if this is no run folder, SpecError; InputError for a recorded run.
    """
    path = run_dir / SPEC
    if not path.is_file():
        raise CheckpointError("--resume", f"{run_dir} is not a run's folder: it has no {SPEC}.", "Give the folder that the run printed.")
    refuse_recorded(run_dir)
    return read_spec(str(path), overrides)


def recorded_spec(run_dir: Path) -> RecordedSpec | None:
    """The spec of a run that another program's loop trained; None for a run of our own. Raises: OSError, ValueError."""
    document = json.loads((run_dir / SPEC).read_text())
    return RecordedSpec.model_validate(document) if is_recorded(document) else None


def was_recorded(run_dir: Path) -> bool:
    """Whether another program's loop trained this run; what cannot be read says no."""
    with suppress(OSError, ValueError):
        return is_recorded(json.loads((run_dir / SPEC).read_text()))
    return False


def refuse_recorded(run_dir: Path) -> None:
    """Raise InputError for a run that another program's loop trained: its model, data and weights are not ours to build."""
    if was_recorded(run_dir):
        problem = "was recorded in another program's loop: largebatch has no recipe, no data and no checkpoint of it."
        raise InputError(str(run_dir), problem, "compare, advise and report read it; to train it, run that program.")


def refuse_unwritable(output_dir: Path, option: str = "--output-dir") -> None:
    """Raise InputError if no folder can be made below `output_dir`; leaves nothing behind. Args: option: that gave it."""
    existing = output_dir
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise InputError(option, f"{existing} is a file, not a folder.", "Give a folder.")
    # Asking the file system beats reading mode bits: read-only mounts and quotas answer here too.
    probe = existing / f".largebatch-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise InputError(option, f"{existing} cannot be written ({refusal(error)}).", f"Give another {option}.") from error


@contextmanager
def exclusive(run_dir: Path, purpose: str, patience_s: float = 0.0) -> Iterator[None]:
    """Hold a run's folder for one purpose; the kernel lets go if this process dies.

    Args: patience_s: how long to wait for a process that is about to let go.
    Raises: InputError if another has it.
    """
    path = run_dir / f".{purpose}.lock"
    with storage_errors(path):
        try:
            held = FileLock(path, timeout=patience_s).acquire()
        except Timeout:
            raise InputError(str(run_dir), f"{AT_WORK} ({purpose}).", "Wait for it, or stop it first.") from None
    with held:
        yield
