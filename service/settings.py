"""What an operator decides when starting the service."""

import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from largebatch.jobs.errors import InputError
from largebatch.jobs.launch.options import split_uri

EMBEDDED = "sqlite:///{runs_dir}/service.sqlite"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True)
class Settings:
    """All of it; `largebatch serve --help` says what each is."""

    host: str = "127.0.0.1"
    port: int = 8080
    database_url: str | None = None
    """None: an SQLite file in runs_dir."""
    ray_address: str | None = None
    """Dashboard of the Ray cluster that runs the jobs; None: this machine's own cores."""
    data_dir: Path = Path("data")
    runs_dir: Path = Path("runs")
    store: str | None = None
    """URI of the storage that keeps run folders; runs_dir then holds this machine's copies of them."""
    entry_points: frozenset[str] = frozenset()
    """Own code that requests may name."""
    max_running_per_owner: int = 100
    max_gpus_per_owner: int = 10_000
    max_queued_per_owner: int = 20_000
    max_failures: int = 5
    """Attempts that may end by a fault before the job has failed."""
    rate_per_minute: int = 60_000
    """Requests of one owner (or address) in a minute."""
    allows_download: bool = False
    cpus: float = field(default_factory=lambda: float(os.cpu_count() or 1))
    """Cores of this machine that jobs may hold together."""
    gpus: int = 0
    poll_s: float = 0.5
    """Between two looks at the backend."""
    wants_tokens: bool = False
    """Ask for tokens on loopback too."""
    ray_python: str = "python"
    """The cluster's Python."""
    takes_over: bool = False
    """Local jobs that another place began do not run any more; they are taken up here."""
    tracking_uri: str | None = None
    """MLflow, as jobs find it (MLFLOW_TRACKING_URI); None: a file among the runs."""
    mlflow_url: str | None = None
    """MLflow as people's browsers find it; None: the same, where it is http or https."""
    ray_dashboard_url: str | None = None
    """Ray's dashboard as people's browsers find it; None: ray_address."""

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
        """The database's address."""
        return self.database_url or EMBEDDED.format(runs_dir=self.runs_dir.resolve())

    @property
    def state_dir(self) -> Path:
        """Attempts, their logs and locks."""
        return self.runs_dir / ".service"


def read_runs_dir(text: str, port: int, ray_address: str | None, database_url: str | None) -> tuple[Path, str | None]:
    """(the folder of runs or of copies, the URI of their storage or None) for what an operator gave. Raises: InputError."""
    folder, store = split_uri(text)
    if store is None:
        return folder, None
    if ray_address is None:
        raise InputError("--runs-dir", "this machine's own jobs need a folder of this machine.", "Give a folder, or --ray-address.")
    if database_url is None:
        raise InputError("--runs-dir", "the embedded database needs a folder.", "Give a folder, or --database-url.")
    # Of this process alone: another replica on this machine, or a run that works here, has its own.
    digest = hashlib.sha256(store.encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"largebatch-copies-{digest}-{port or os.getpid()}", store
