"""What a launch needs beside the spec; light, so that commands can read it before torch is imported."""

import os
import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path

from largebatch.jobs.errors import InputError
from largebatch.jobs.launch.supervise import STARTED_AGAIN
from largebatch.jobs.run.run_folder import SPEC
from largebatch.jobs.run.storage import PATIENCE_S, Storage, read_patiently, split_uri
from largebatch.jobs.run.stored_run import StoredRun
from largebatch.jobs.spec.train_spec import TrainSpec


def is_started_again() -> bool:
    """Whether this process takes up a run that an earlier one has begun: it may wait for storage that refuses."""
    return bool(os.environ.get(STARTED_AGAIN))


@dataclass(frozen=True)
class LocalOptions:
    """Where data lies and results go, and on what to train."""

    data_dir: Path = Path("data")
    output_dir: Path = Path("runs")
    device: str = "auto"
    resume: Path | None = None
    run_id: str | None = None
    """The run's id, given from outside: a second launch under it goes on with the first one's run."""
    store: str | None = None
    """URI of the storage that keeps run folders; output_dir is then this machine's working copy."""

    def going_on(self) -> "LocalOptions":
        """The same, resuming the run that this id has begun before."""
        folder = self.output_dir / self.run_id if self.run_id is not None else None
        if self.resume is None and folder is not None and (folder / SPEC).is_file():
            return replace(self, resume=folder)
        return self


@dataclass(frozen=True)
class Workers:
    """How many workers share each batch; `least` below `most`: as many as there are, within these bounds."""

    least: int
    most: int

    @property
    def is_elastic(self) -> bool:
        """Whether the run may go on with fewer."""
        return self.least < self.most

    def __str__(self) -> str:
        return f"{self.least}:{self.most}" if self.is_elastic else str(self.most)


@dataclass(frozen=True)
class RayOptions:
    """Many workers: how many, with what, and on which Ray."""

    workers: Workers
    gpus_per_worker: float | None = None
    """None: one where the cluster has enough of them, else none."""
    cpus_per_worker: float | None = None
    """None: this machine's cores shared out, or one on another Ray."""
    address: str | None = None
    """An existing Ray; None: one of our own, on this machine, for this command."""
    max_failures: int = 8
    """How often the run goes on by itself after a failure; preemptions are not counted."""
    shows_worker_logs: bool = False
    """Print what the workers print, not only what the run itself tells."""


def resume_command(place: str | Path, ray_options: RayOptions | None = None, options: LocalOptions | None = None) -> str:
    """What a person types to go on with the run that lies there, in the way in which it was begun."""
    words = ["largebatch", "train", "--resume", str(place)]
    given = _given(options, "data_dir", "device") if options else {}
    if ray_options is not None:
        given |= {"--workers": ray_options.workers, **_given(ray_options, "gpus_per_worker", "cpus_per_worker", "address", "max_failures")}
    words += [word for option, value in given.items() for word in (option, str(value))]
    return shlex.join(words)


def _given(options: LocalOptions | RayOptions, *names: str) -> dict[str, object]:
    """Those of the options that are not what they are without being given, as on the command line."""
    defaults = {field.name: field.default for field in fields(options)}
    values = {name: getattr(options, name) for name in names}
    return {f"--{name.replace('_', '-')}": value for name, value in values.items() if value != defaults[name]}


def read_places(data_dir: Path, output_dir: str, device: str, resume: str | None, run_id: str | None = None) -> LocalOptions:
    """The options from what a person gave: output_dir and resume may be URIs. Raises: InputError."""
    if resume is not None:
        run_dir, place = split_uri(resume.rstrip("/"))
        if place is not None:  # the storage is the URI's folder, the run its last part
            store, _, name = place.rpartition("/")
            scratch, _ = split_uri(store)
            return LocalOptions(data_dir, scratch, device, scratch / name, run_id, store)
        return LocalOptions(data_dir, run_dir.parent, device, run_dir, run_id)
    folder, store_uri = split_uri(output_dir)
    return LocalOptions(data_dir, folder, device, None, run_id, store_uri)


def fetch_stored(options: LocalOptions, is_begun: bool | None = None, patience_s: float = PATIENCE_S) -> LocalOptions:
    """With storage elsewhere: bring the run that is to go on to this machine.

    Args:
        is_begun: storage that refuses is waited for, since it has answered this run before; None: as `is_started_again` says.
        patience_s: for how long.
    Raises: InputError, StorageError.
    """
    name = options.resume.name if options.resume else options.run_id
    store = options.store
    if store is None or name is None:
        return options
    waits = is_started_again() if is_begun is None else is_begun
    read_patiently(store, lambda: StoredRun(Storage(store), options.output_dir / name).pull(), patience_s if waits else 0.0)
    return options


def mirrored_spec(spec: TrainSpec, options: LocalOptions) -> TrainSpec:
    """The spec for MLflow's mirror: a database beside a working copy would be lost with it, so there is none."""
    if options.store is None or spec.tracking.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI"):
        return spec
    return spec.model_copy(update={"tracking": spec.tracking.model_copy(update={"enabled": False})})


def read_workers(text: str) -> Workers:
    """`4`, or `2:8` for elastic. Raises: InputError."""
    least, colon, most = text.partition(":")
    if not least.isdecimal() or (colon and not most.isdecimal()):
        raise InputError("--workers", f"{text!r} is not a number of workers.", "Give a number such as 4, or bounds such as 2:8.")
    workers = Workers(int(least), int(most) if colon else int(least))
    if workers.least < 1 or workers.least > workers.most:
        raise InputError("--workers", f"{text} are not bounds that rise from at least 1.", "Give a number such as 4, or bounds such as 2:8.")
    return workers
