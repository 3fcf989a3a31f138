"""What an operator decides when starting the service: the options of `largebatch serve`, each with its help and default, once."""

import hashlib
import math
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from largebatch.jobs.errors import InputError
from largebatch.jobs.launch.options import Option, split_uri
from largebatch.service.memory import GIB, memory_bytes

USUAL_GIB = 1.5
"""Memory of each process of a job whose submission names none."""
JOBS_PART = 0.8
"""Of the memory, what jobs may hold together: the service and its planner need the rest."""
EMBEDDED = "sqlite:///{runs_dir}/service.sqlite"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
RUNS_DIR = Option(
    "Where run folders go, and the embedded database; with Ray also a URI, such as s3://bucket/runs.", variable="LARGEBATCH_RUNS_DIR", is_text=True
)
DATABASE_URL = Option("postgresql://user@host/database; default: an SQLite file among the runs.", variable="LARGEBATCH_DATABASE_URL")
RAY_ADDRESS = Option("Dashboard of a Ray cluster that runs the jobs; default: this machine.", variable="RAY_API_SERVER_ADDRESS")
MLFLOW_URL = Option("MLflow as browsers find it; default MLFLOW_TRACKING_URI.", variable="LARGEBATCH_MLFLOW_URL")
ALLOW_CODE = Option("Let people send own code with their jobs; it runs as this user.", flag="--allow-code", variable="LARGEBATCH_ALLOW_CODE")
RAY_DASHBOARD_URL = Option("Ray's dashboard as browsers find it; default --ray-address.", variable="LARGEBATCH_RAY_DASHBOARD_URL")
TAKE_OVER = Option("Take up local jobs that a machine began which is gone; nothing of them may still run.", flag="--take-over")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The service's settings; those without an option follow from others, or are for tests."""

    host: Annotated[str, Option("Address to listen on; beyond this machine, tokens are needed.")] = "127.0.0.1"
    port: Annotated[int, Option("0: any free one.", minimum=0, maximum=65535)] = 8080
    database_url: Annotated[str | None, DATABASE_URL] = None
    ray_address: Annotated[str | None, RAY_ADDRESS] = None
    data_dir: Annotated[Path, Option("Where data sets lie.", variable="LARGEBATCH_DATA_DIR")] = Path("data")
    runs_dir: Annotated[Path, RUNS_DIR] = Path("runs")
    store: str | None = None
    """URI of the storage that keeps run folders; runs_dir then holds this machine's copies of them."""
    cpus: Annotated[float, Option("Cores that jobs may hold together; default all.", minimum=0.1, is_found_out=True)] = float(os.cpu_count() or 1)
    gpus: Annotated[int, Option("GPUs that jobs may hold together; default all.", minimum=0, is_found_out=True)] = 0
    wants_tokens: Annotated[bool, Option("Ask for tokens on this machine too.", flag="--with-tokens")] = False
    sharing: Annotated[bool, Option("Let the people of a project see each other's runs.")] = False
    entry_points: Annotated[tuple[str, ...], Option("Own code that requests may name.", flag="--entry-point", metavar="MODULE:FUNCTION")] = ()
    allows_code: Annotated[bool, ALLOW_CODE] = False
    max_code_bytes_per_owner: int = 200 << 20
    max_added_bytes_per_owner: int = 1 << 30
    max_added_per_owner: int = 10_000
    """Runs that were trained elsewhere."""
    allows_download: Annotated[bool, Option("Let requests fetch data sets from their publishers.", flag="--allow-download")] = False
    memory_gib: Annotated[
        float, Option("Memory that jobs may hold together; default four fifths of it; on Ray what that counts.", minimum=0.5, is_found_out=True)
    ] = math.inf
    max_running: Annotated[int | None, Option("Jobs at a time, of all owners together; default: as many as fit.", minimum=0)] = None
    max_running_per_owner: Annotated[int | None, Option("Jobs of one owner at a time; 0: begin none; default: one a core.", minimum=0)] = None
    max_gpus_per_owner: Annotated[int, Option("GPUs of one owner at a time.", minimum=0)] = 10_000
    max_queued_per_owner: int = 20_000
    rate_per_minute: Annotated[int, Option("Of one asker.", flag="--requests-per-minute", minimum=1)] = 60_000
    max_failures: Annotated[int, Option("Faults after which a job has failed.", minimum=0)] = 5
    poll_s: float = 0.5
    """Between two looks at the backend."""
    ray_python: Annotated[str, Option("The Ray cluster's Python.")] = "python"
    takes_over: Annotated[bool, TAKE_OVER] = False
    tracking_uri: str | None = None
    """MLflow, as jobs find it (MLFLOW_TRACKING_URI); None: a file among the runs."""
    mlflow_url: Annotated[str | None, MLFLOW_URL] = None
    ray_dashboard_url: Annotated[str | None, RAY_DASHBOARD_URL] = None
    log_json: Annotated[bool, Option("Log lines as JSON, one object each.", flag="--log-json")] = False

    @classmethod
    def read(
        cls,
        *,
        runs_dir: str = "runs",
        entry_points: Iterable[str] | None = None,
        cpus: float | None = None,
        gpus: int | None = None,
        memory_gib: float | None = None,
        **values: Any,
    ) -> Self:
        """The settings that an operator typed: the runs may be kept at a URI, cores and GPUs found out. Raises: InputError."""
        folder, store = split_uri(runs_dir)
        if store is not None:
            # Of this process alone: another replica on this machine, or a run that works here, has its own.
            digest = hashlib.sha256(store.encode()).hexdigest()[:12]
            folder = Path(tempfile.gettempdir()) / f"largebatch-copies-{digest}-{values.get('port') or os.getpid()}"
        tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or None
        if values.get("allows_code") and tracking_uri is not None and _is_relative(tracking_uri):
            raise InputError("MLFLOW_TRACKING_URI", "is relative, and jobs with own code work in a folder of their own.", "Give the whole path.")
        if memory_gib is None:  # this machine's says nothing of a cluster's: there the cluster is asked when a job's turn has come
            memory_gib = JOBS_PART * memory_bytes() / GIB if values.get("ray_address") is None else math.inf
        return cls(
            runs_dir=folder, store=store, entry_points=tuple(entry_points or ()), cpus=cls.cpus if cpus is None else cpus,
            gpus=_num_gpus() if gpus is None else gpus, memory_gib=memory_gib, tracking_uri=tracking_uri, **values,
        )  # fmt: skip

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the service."""
        return self.host in LOOPBACK

    @property
    def needs_tokens(self) -> bool:
        """Whether requests must carry a token."""
        return self.wants_tokens or not self.is_loopback

    @property
    def url(self) -> str:
        """The database's address. Raises: InputError where the runs' folder can hold no database."""
        if self.database_url is None and self.store is not None:
            raise InputError("--runs-dir", "the embedded database needs a folder.", "Give a folder, or --database-url.")
        return self.database_url or EMBEDDED.format(runs_dir=self.runs_dir.resolve())

    def usual_memory_gib(self, processes: int) -> float:
        """What a job holds whose submission names no memory. Args: processes: that train at a time."""
        return min(USUAL_GIB * processes, self.memory_gib)

    @property
    def state_dir(self) -> Path:
        """Attempts, their logs and locks."""
        return self.runs_dir / ".service"


def make_folder(field: str, folder: Path, mode: int = 0o777) -> None:
    """Make a folder where there is none. Raises: InputError where there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as error:
        problem = "is there, and no folder" if isinstance(error, FileExistsError) else f"cannot be made a folder ({error.strerror})"
        raise InputError(field, f"{folder} {problem}.", "Give another one, or make it for this user.") from error


def _is_relative(uri: str) -> bool:
    """Whether an address of MLflow's means another place for a process of another folder."""
    return (uri.startswith("sqlite:///") and not uri.startswith("sqlite:////")) or (
        ":" not in uri and uri != "databricks" and not uri.startswith("/")
    )


def _num_gpus() -> int:
    """The GPUs that the driver knows, without torch."""
    import pynvml  # type: ignore[import-untyped]  # here: `largebatch --help` reads the options above, and needs no driver

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0
